"""The four ablations: one part of the model changed, each variant at its own best rate, against the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lmpipe.analysis.effects import classify_effect, effect_of, expectations
from lmpipe.analysis.experiment_findings import groups_table, loss_yardsticks, seeds_table, several_corpora, table_path
from lmpipe.analysis.finding import Effect, Figure, Finding, Line, Lines, Metric, Yardstick, optional_metric
from lmpipe.analysis.outcomes import NATS, NOISE_SOURCE, SeedGroup, best_group, seed_groups, study_noise
from lmpipe.analysis.rate_sweeps import own_sweep
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import group_by
from lmpipe.analysis.statistics import SeedNoise
from lmpipe.study.paths import RELATIVE

# Steps at the start in which norms show their effect.
START_STEPS = 40
NO_SWEEP = "no sweep over the peak rate of this model"
NO_EDGE = "no seed failed at any rate tried"


@dataclass(frozen=True)
class Ablation:
    """One ablation: the setting that it changes, its usual values, and the ablated one."""

    setting: str
    usual: tuple[str, ...]
    ablated: str
    companions: tuple[str, ...] = ()
    """Settings that may change with it, such as a width that preserves the number of parameters."""
    with_start: bool = False
    """True if the first steps are part of the finding."""


# By the experiment, whose name is that of the problem.
ABLATIONS = {
    "layer_norm_ablation": Ablation("norm", ("pre", "post"), "none", with_start=True),
    "pre_norm_ablation": Ablation("norm", ("pre",), "post", with_start=True),
    "no_pos_emb": Ablation("position_embedding", ("rope",), "none"),
    "swiglu_ablation": Ablation("feed_forward", ("swiglu",), "silu", companions=("d_ff",)),
}


def analyze_ablation(results: Results, name: str) -> Finding:
    """Return the difference of the variant from the baseline, its trend, and the edges of stability of both."""
    experiment, ablation = results.experiment(name), ABLATIONS[name]
    measure = experiment.ranking_metric()
    if measure is None:
        return several_corpora(results, experiment)
    groups = seed_groups(results, experiment, measure)
    tables = [groups_table(groups), seeds_table(groups)]
    usual = [group for group in groups if getattr(group.model, ablation.setting) in ablation.usual]
    baseline = usual and choose_baseline(usual)
    variants = [group for group in groups if baseline and is_variant(ablation, group, baseline)]
    if not variants:
        reason = (
            f"The experiment needs a run with {ablation.setting} {' or '.join(ablation.usual)} and one with "
            f"{ablation.ablated}, which otherwise agree"
        )
        return Finding("missing", tables=tables, reason=reason)
    noise, source = study_noise(results), table_path(experiment)
    effects = effects_by_run(results, groups, baseline, noise)
    variant = best_group(variants) or variants[0]
    effect = effects[variant.name]
    metrics = ablation_metrics(results, source, variant, baseline, effect, noise)
    figures, trend_metrics, trend = difference_by_tokens(variant, baseline, noise, source)
    if ablation.with_start:
        start_figures, start_metrics = first_steps(variant, baseline, source)
        figures, metrics = start_figures + figures, metrics | start_metrics
    return Finding(
        "answered" if effect.differences or effect.num_failed else "partial",
        metrics | trend_metrics,
        facts={
            "variant": variant.label,
            "baseline": baseline.label,
            "unit": effect.unit,
            "outcome": classify_effect(effect, noise),
            "size": None if effect.difference is None else abs(effect.difference),
            "is_tuned": variant.max_lr != baseline.max_lr or own_sweep(results, variant) is not None,
            "trend": trend,
        },
        tables=tables,
        figures=figures,
        effects=[effect, *(other for name, other in effects.items() if name != variant.name)],
        expectations=expectations(results, name, {variant.name: effect} | effects),
    )


def choose_baseline(groups: Sequence[SeedGroup]) -> SeedGroup:
    """Return the best group of the model of the run named `baseline`, or of the first run."""
    first = next((group for group in groups if group.name == "baseline"), groups[0])
    return best_group(group for group in groups if group.model == first.model) or first


def is_variant(ablation: Ablation, group: SeedGroup, baseline: SeedGroup) -> bool:
    """Return True if a group has the ablated setting, and otherwise the baseline's but for companions and the rate."""
    changed, usual = (side.runs[0].settings for side in (group, baseline))
    differing = {key for key in changed if changed[key] != usual.get(key, changed[key])}
    is_ablated = getattr(group.model, ablation.setting) == ablation.ablated
    return is_ablated and differing <= {ablation.setting, *ablation.companions, "max_lr"}


def effects_by_run(
    results: Results, groups: Sequence[SeedGroup], baseline: SeedGroup, noise: SeedNoise | None
) -> dict[str, Effect]:
    """Return the effect of every other model by the name of its best group, so each at its own best rate."""
    others = (group for group in groups if group.model != baseline.model)
    by_model = group_by(others, lambda group: repr(group.model))
    best = [best_group(alike) or alike[0] for alike in by_model.values()]
    return {group.name: effect_of(results, group, baseline, noise) for group in best}


def ablation_metrics(
    results: Results, source: str, variant: SeedGroup, baseline: SeedGroup, effect: Effect, noise: SeedNoise | None
) -> dict[str, Metric]:
    """Return losses, difference, rates, edges and sizes of both sides."""
    no_difference, config = "no seed of both learned", baseline.runs[0].config
    metrics = {
        "difference": optional_metric(effect.difference, effect.unit, source, no_difference, effect.interval),
        "validation_loss": variant.metric(source),
        "baseline_validation_loss": baseline.metric(source),
        "failed_seeds": Metric(variant.num_failed, "seeds", source),
        "seeds": Metric(variant.num_seeds, "seeds", source),
        "parameter_difference": Metric(variant.parameters / baseline.parameters - 1, "share of the baseline's", source),
        "train_tokens": Metric(config.training.total_tokens, "tokens", source),
    }
    if noise and effect.unit == NATS:
        visible = noise.difference_half_width(variant.num_seeds, baseline.num_seeds)
        metrics["smallest_visible_difference"] = Metric(visible, NATS, NOISE_SOURCE)
    for yardstick in loss_yardsticks(results, baseline.runs[0], orders=(1, 2)):
        metrics[f"{yardstick.label}_loss"] = Metric(yardstick.value, NATS, str(RELATIVE.yardsticks(config.corpus)))
    for prefix, group in (("", variant), ("baseline_", baseline)):
        sweep = own_sweep(results, group)
        reason = NO_EDGE if sweep else NO_SWEEP
        metrics[f"{prefix}max_lr"] = Metric(group.max_lr, "", source)
        metrics[f"{prefix}stable_up_to"] = optional_metric(sweep and sweep.stable_up_to, "", source, NO_SWEEP)
        metrics[f"{prefix}breaks_at"] = optional_metric(sweep and sweep.breaks_at, "", source, reason)
        metrics[f"{prefix}parameters"] = Metric(group.parameters, "parameters", source)
    return metrics


# --- the difference during training -----------------------------------------------------------------------------------


def difference_by_tokens(
    variant: SeedGroup, baseline: SeedGroup, noise: SeedNoise | None, source: str
) -> tuple[list[Figure], dict[str, Metric], str | None]:
    """Return the difference of seeds at each evaluation as a figure, its early and late values, and its trend."""
    changed, usual = (
        {run.seed: pd.Series(run.validation_losses()) for run in group.learned} for group in (variant, baseline)
    )
    by_seed = pd.DataFrame({seed: losses - usual[seed] for seed, losses in changed.items() if seed in usual})
    by_seed = by_seed.drop(index=0, errors="ignore").dropna()
    if by_seed.empty:
        return [], {}, None
    tokens, means = by_seed.index.tolist(), by_seed.mean(axis="columns").tolist()
    faint = [
        Line(f"seed {seed}", variant.variant, tokens, differences.tolist(), style="faint")
        for seed, differences in by_seed.items()
        if by_seed.shape[1] > 1
    ]
    lines = [*faint, Line(variant.label, variant.variant, tokens, means)]
    y_label = f"difference in loss ({NATS})"
    figure = Figure("difference", Lines("training tokens", y_label, lines, [Yardstick(baseline.label, 0.0)]))
    early, late = means[0], means[-1]
    metrics = {
        "early_difference": Metric(early, NATS, source),
        "late_difference": Metric(late, NATS, source),
        "early_tokens": Metric(tokens[0], "tokens", source),
    }
    return [figure], metrics, trend_of(early, late, noise.difference_half_width(by_seed.shape[1]) if noise else 0.0)


def trend_of(early: float, late: float, visible: float) -> str:
    """Return the trend of a difference: grows, shrinks, reverses, or steady below the smallest visible difference.

    >>> [trend_of(0.2, late, 0.04) for late in (0.5, 0.02, -0.1, 0.21)]
    ['grows', 'shrinks', 'reverses', 'steady']
    """
    if abs(late - early) <= visible:
        return "steady"
    if early * late < 0 and min(abs(early), abs(late)) > visible:
        return "reverses"
    return "grows" if abs(late) > abs(early) else "shrinks"


# --- the first steps --------------------------------------------------------------------------------------------------


def first_steps(variant: SeedGroup, baseline: SeedGroup, source: str) -> tuple[list[Figure], dict[str, Metric]]:
    """Return gradient norms and losses of the first steps, medians over seeds, as figures, and the largest of them."""
    figures, metrics = [], {}
    for name, column, y_label in (
        ("start", "grad_norm", "gradient norm before clipping"),
        ("first_losses", "train_loss", f"training loss ({NATS})"),
    ):
        lines = []
        for prefix, group in (("baseline_", baseline), ("", variant)):
            table = pd.concat([run.metrics() for run in group.runs])
            medians = table[table["step"] <= START_STEPS].groupby("step")[column].median().dropna()
            if values := medians.tolist():
                lines.append(Line(group.label, group.variant, medians.index.tolist(), values))
                unit = NATS if column == "train_loss" else ""
                metrics[f"{prefix}first_{column}"] = Metric(values[0], unit, source)
                metrics[f"{prefix}largest_{column}"] = Metric(max(values), unit, source)
        figures.append(Figure(name, Lines("step", y_label, lines, log_y=column == "grad_norm")))
    return [figure for figure in figures if figure.data.lines], metrics
