"""The four ablations: one part of the model changed, each variant at its own best rate, against the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from lmpipe.analysis.effects import effect_of, expectations, outcome_found
from lmpipe.analysis.finding import Effect, Figure, Finding, Line, Lines, Metric, Yardstick, optional_metric
from lmpipe.analysis.outcomes import NATS, SeedGroup, best_group, groups_table, seed_groups, seeds_table, study_noise
from lmpipe.analysis.problems.run_summary import NOISE_SOURCE, missing_experiment, several_corpora, table_path
from lmpipe.analysis.rate_sweeps import own_sweep
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.analysis.statistics import SeedNoise

# Steps at the start in which norms show their effect.
START_STEPS = 40
NO_SWEEP = "no sweep over the peak rate of this model"
NO_EDGE = "no seed failed at any rate tried"


@dataclass(frozen=True)
class AblationSpec:
    """One ablation: the setting that it changes, its usual values, and the ablated one."""

    experiment: str
    """Name of the experiment, which is the problem's id."""
    setting: str
    """Key of the setting in the study file."""
    usual: tuple[str, ...]
    """Values of the setting without the ablation."""
    ablated: str
    """Value of the setting in the variant."""
    example: str
    """Lines that add the experiment to a study."""
    companions: tuple[str, ...] = ()
    """Settings that may change with it, such as a width that preserves the number of parameters."""
    with_start: bool = False
    """True if the first steps are part of the finding."""


def analyze_ablation(results: Results, spec: AblationSpec) -> Finding:
    """Return the difference of the variant from the baseline, its trend, and the edges of stability of both."""
    experiment = results.experiment(spec.experiment)
    if experiment is None:
        return missing_experiment(results, spec.experiment, spec.example)
    measure = experiment.ranking_metric()
    if measure is None:
        return several_corpora(results, experiment)
    groups = seed_groups(results, experiment, measure)
    tables = [groups_table("Final results of each run", groups), seeds_table(groups)]
    usual = [group for group in groups if getattr(group.model, spec.setting) in spec.usual]
    baseline = usual and choose_baseline(usual)
    variants = [group for group in groups if baseline and is_variant(spec, group, baseline)]
    if not variants:
        reason = (
            f"The experiment needs a run with {spec.setting} {' or '.join(spec.usual)} and one with {spec.ablated}, "
            "which otherwise agree"
        )
        return Finding("missing", tables=tables, reason=reason)
    noise = study_noise(results)
    effects = effects_by_run(results, groups, baseline, noise)
    variant = best_group(variants) or variants[0]
    effect = effects[variant.name]
    metrics = ablation_metrics(results, experiment, variant, baseline, effect, noise)
    facts = ablation_facts(variant, baseline, effect, noise)
    figures, trend_metrics, facts["trend"] = difference_by_tokens(
        variant, baseline, noise, metrics["difference"].source
    )
    if spec.with_start:
        start_figures, start_metrics = first_steps(variant, baseline, metrics["difference"].source)
        figures, metrics = start_figures + figures, metrics | start_metrics
    return Finding(
        "answered" if effect.differences or effect.num_failed else "partial",
        metrics | trend_metrics,
        facts=facts,
        tables=tables,
        figures=figures,
        effects=[effect, *(other for name, other in effects.items() if name != variant.name)],
        expectations=expectations(results, experiment.name, {variant.name: effect} | effects),
    )


def choose_baseline(groups: Sequence[SeedGroup]) -> SeedGroup:
    """Return the best group of the model of the run named `baseline`, or of the first run."""
    first = next((group for group in groups if group.name == "baseline"), groups[0])
    return best_group(group for group in groups if group.model == first.model) or first


def is_variant(spec: AblationSpec, group: SeedGroup, baseline: SeedGroup) -> bool:
    """Return True if a group has the ablated setting, and otherwise the baseline's but for companions and the rate."""
    may_differ = {spec.setting, *spec.companions, "max_lr"}
    is_ablated = getattr(group.model, spec.setting) == spec.ablated
    return is_ablated and {difference["setting"] for difference in differing_settings(group, baseline)} <= may_differ


def differing_settings(group: SeedGroup, baseline: SeedGroup) -> list[dict[str, Any]]:
    """Return the settings in which two groups differ, with both values."""
    changed, usual = (side.runs[0].settings for side in (group, baseline))
    keys = [key for key in changed if changed[key] != usual.get(key, changed[key])]
    return [{"setting": key, "variant": changed[key], "baseline": usual[key]} for key in keys]


def effects_by_run(
    results: Results, groups: Sequence[SeedGroup], baseline: SeedGroup, noise: SeedNoise | None
) -> dict[str, Effect]:
    """Return the effect of every other model by the name of its best group, so each at its own best rate."""
    models = {repr(group.model): group.model for group in groups if group.model != baseline.model}
    effects = {}
    for model in models.values():
        alike = [group for group in groups if group.model == model]
        group = best_group(alike) or alike[0]
        effects[group.name] = effect_of(results, group, baseline, noise)
    return effects


def ablation_metrics(
    results: Results,
    experiment: ExperimentRuns,
    variant: SeedGroup,
    baseline: SeedGroup,
    effect: Effect,
    noise: SeedNoise | None,
) -> dict[str, Metric]:
    """Return losses, difference, rates, edges and sizes of both sides."""
    source = table_path(experiment)
    metrics = {
        "difference": Metric(effect.difference, effect.unit, source, effect.interval, "")
        if effect.difference is not None
        else Metric(None, effect.unit, source, missing_reason="no seed of both learned"),
        "validation_loss": variant.metric(source),
        "baseline_validation_loss": baseline.metric(source),
        "failed_seeds": Metric(variant.num_failed, "seeds", source),
        "seeds": Metric(variant.num_seeds, "seeds", source),
        "parameter_difference": Metric(variant.parameters / baseline.parameters - 1, "share of the baseline's", source),
        "train_tokens": Metric(baseline.runs[0].config.training.total_tokens, "tokens", source),
    }
    if noise and effect.unit == NATS:
        visible = noise.difference_half_width(variant.num_seeds, baseline.num_seeds)
        metrics["smallest_visible_difference"] = Metric(visible, NATS, NOISE_SOURCE)
    if budget := results.yardstick(baseline.runs[0]):
        for ngram in budget.ngrams[:2]:
            name = "unigram_loss" if ngram.order == 1 else "bigram_loss"
            metrics[name] = Metric(ngram.loss, NATS, f"yardsticks/{baseline.runs[0].config.corpus}.json")
    for prefix, group in (("", variant), ("baseline_", baseline)):
        sweep = own_sweep(results, group)
        reason = NO_EDGE if sweep else NO_SWEEP
        metrics[f"{prefix}max_lr"] = Metric(group.max_lr, "", source)
        metrics[f"{prefix}stable_up_to"] = optional_metric(sweep and sweep.stable_up_to, "", source, NO_SWEEP)
        metrics[f"{prefix}breaks_at"] = optional_metric(sweep and sweep.breaks_at, "", source, reason)
        metrics[f"{prefix}parameters"] = Metric(group.parameters, "parameters", source)
    return metrics


def ablation_facts(variant: SeedGroup, baseline: SeedGroup, effect: Effect, noise: SeedNoise | None) -> dict[str, Any]:
    """Return what the prose branches on."""
    differing = differing_settings(variant, baseline)
    return {
        "variant": variant.label,
        "baseline": baseline.label,
        "unit": effect.unit,
        "outcome": outcome_found(effect, noise),
        "size": None if effect.difference is None else abs(effect.difference),
        "is_tuned": variant.max_lr != baseline.max_lr or variant.runs[0].config.lr_source is not None,
        "differing": [difference["setting"] for difference in differing if difference["setting"] != "max_lr"],
    }


# --- the difference during training -----------------------------------------------------------------------------------


def seed_differences(variant: SeedGroup, baseline: SeedGroup) -> dict[int, dict[float, float]]:
    """Return variant minus baseline by seed and training tokens, at the evaluations that both have."""
    curves = [
        {run.seed: dict(run.validation_curve("tokens").itertuples(index=False, name=None)) for run in group.runs}
        for group in (variant, baseline)
    ]
    return {
        seed: {tokens: curves[0][seed][tokens] - curves[1][seed][tokens] for tokens in sorted(shared)}
        for seed in curves[0].keys() & curves[1].keys()
        if seed in variant.values
        and seed in baseline.values
        and (shared := (curves[0][seed].keys() & curves[1][seed].keys()) - {0.0})
    }


def difference_by_tokens(
    variant: SeedGroup, baseline: SeedGroup, noise: SeedNoise | None, source: str
) -> tuple[list[Figure], dict[str, Metric], str | None]:
    """Return the difference at each evaluation as a figure, its early and late values, and its trend."""
    by_seed = seed_differences(variant, baseline)
    if not by_seed:
        return [], {}, None
    tokens = sorted(set.intersection(*map(set, by_seed.values())))
    means = [fmean(values[x] for values in by_seed.values()) for x in tokens]
    faint = [
        Line(f"seed {seed}", variant.variant, list(values), list(values.values()), style="faint")
        for seed, values in sorted(by_seed.items())
        if len(by_seed) > 1
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
    return [figure], metrics, trend(early, late, noise.difference_half_width(len(by_seed)) if noise else 0.0)


def trend(early: float, late: float, visible: float) -> str:
    """Return the trend of a difference: grows, shrinks, reverses, or steady below the smallest visible difference.

    >>> trend(0.1, 0.5, 0.04), trend(0.2, 0.02, 0.04), trend(0.2, -0.1, 0.04), trend(0.2, 0.21, 0.04)
    ('grows', 'shrinks', 'reverses', 'steady')
    """
    if abs(late - early) <= visible:
        return "steady"
    if early * late < 0 and min(abs(early), abs(late)) > visible:
        return "reverses"
    return "grows" if abs(late) > abs(early) else "shrinks"


# --- the first steps --------------------------------------------------------------------------------------------------


def first_steps(variant: SeedGroup, baseline: SeedGroup, source: str) -> tuple[list[Figure], dict[str, Metric]]:
    """Return gradient norms and losses of the first steps as figures, and their largest values."""
    figures, metrics = [], {}
    for name, column, y_label in (
        ("start", "grad_norm", "gradient norm before clipping"),
        ("first_losses", "train_loss", f"training loss ({NATS})"),
    ):
        lines = []
        for prefix, group in (("baseline_", baseline), ("", variant)):
            steps, values = median_by_step(group, column)
            if values:
                lines.append(Line(group.label, group.variant, steps, values))
                unit = NATS if column == "train_loss" else ""
                metrics[f"{prefix}first_{column}"] = Metric(values[0], unit, source)
                metrics[f"{prefix}largest_{column}"] = Metric(max(values), unit, source)
        figures.append(Figure(name, Lines("step", y_label, lines, log_y=column == "grad_norm")))
    return [figure for figure in figures if figure.data.lines], metrics


def median_by_step(group: SeedGroup, column: str) -> tuple[list[float], list[float]]:
    """Return the first steps and the median over seeds of a column of metrics.csv at each."""
    by_step: dict[float, list[float]] = {}
    for run in group.runs:
        table = run.metrics()
        for step, value in table.loc[table["step"] <= START_STEPS, ["step", column]].dropna().itertuples(index=False):
            by_step.setdefault(step, []).append(value)
    return list(by_step), list(map(median, by_step.values()))
