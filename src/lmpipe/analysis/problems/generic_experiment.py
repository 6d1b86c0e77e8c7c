"""An experiment that is not a problem of the handout: losses over a grid, or differences from a baseline."""

from dataclasses import replace

from pydantic import JsonValue

from lmpipe.analysis.effects import classify_effect, effect_of, expectations
from lmpipe.analysis.experiment_findings import groups_table, loss_yardsticks, seeds_table, table_path
from lmpipe.analysis.finding import Figure, FigureData, Finding, Forest, Line, Lines, Metric
from lmpipe.analysis.outcomes import NATS, NOISE_SOURCE, SeedGroup, best_group, seed_groups, study_noise
from lmpipe.analysis.problems import learning_rate
from lmpipe.analysis.problems.ablation import choose_baseline
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.analysis.runs import group_by
from lmpipe.study.labels import corpus_label, experiment_label

MAX_LINES = 6


def analyze(results: Results, name: str) -> Finding:
    """Return the best run of a sweep, or the differences of the other runs from the baseline."""
    experiment, label = results.experiment(name), experiment_label(results.study, name)
    measure = experiment.ranking_metric()
    variants = list(results.study.experiments[name].variants())
    if measure and len(variants) > 1 and all(list(variant.point) == ["max_lr"] for variant in variants):
        finding = learning_rate.analyze_rates(results, experiment)
        return replace(finding, facts=finding.facts | {"name": label, "kind": "rates"})
    groups = seed_groups(results, experiment, measure or "bits_per_byte")
    tables = [groups_table(groups), seeds_table(groups)]
    facts = {"name": label, "unit": UNITS[measure or "bits_per_byte"]}
    metrics = {group.name: group.metric(table_path(experiment)) for group in groups}
    if measure is None:
        sides = best_by_corpus(results, experiment, groups)
        status = "answered" if len(sides) > 1 else "partial"
        return Finding(status, metrics, facts=facts | {"kind": "corpora", "sides": sides}, tables=tables[:1])
    best = best_group(groups)
    if best is None:
        return Finding("partial", tables=tables, facts=facts | {"kind": "failed"}, reason="No seed of any run learned")
    settings, noise = experiment.swept_settings(), study_noise(results)
    baseline = groups[0] if settings else choose_baseline(groups)
    others = [group for group in groups if group is not baseline]
    compared = {group.name: effect_of(results, group, baseline, noise) for group in others}
    effects = [] if settings else list(compared.values())
    metrics["best_loss"] = best.metric(table_path(experiment))
    visible = noise.difference_half_width(best.num_seeds) if noise and measure == "validation_loss" else None
    if visible is not None:
        metrics["smallest_visible_difference"] = Metric(visible, NATS, NOISE_SOURCE)
    facts |= {"kind": "sweep" if settings else "variants" if effects else "single"}
    facts |= ranking_facts(groups, best, visible or 0.0)
    facts |= {"baseline": baseline.label, "settings": [setting.replace("_", " ") for setting in settings]}
    facts["outcomes"] = [{"outcome": classify_effect(effect, noise)} for effect in effects]
    if settings:
        data = sweep_figure(results, experiment, groups, settings)
    else:
        data = Forest(f"difference from the baseline ({best.unit})", effects) if effects else None
    return Finding(
        "answered",
        metrics,
        facts=facts,
        tables=tables,
        figures=[Figure("losses", data)] if data else [],
        effects=effects,
        expectations=expectations(results, name, compared),
    )


def ranking_facts(groups: list[SeedGroup], best: SeedGroup, visible: float) -> dict[str, JsonValue]:
    """Return the best run, those within the noise of seeds of it, and the worst."""
    learned = sorted((group for group in groups if group.values), key=lambda group: group.center)
    limit = best.center + visible
    return {
        "best": best.label,
        "tied": [group.label for group in learned if group is not best and group.center <= limit],
        "worst": learned[-1].label,
        "spread": learned[-1].center - best.center,
        "failed": [group.label for group in groups if group.num_failed],
        "num_seeds": max(group.num_seeds for group in groups),
    }


def best_by_corpus(results: Results, experiment: ExperimentRuns, groups: list[SeedGroup]) -> list[dict[str, JsonValue]]:
    """Return the best value on each corpus, in bits per byte."""
    sides = []
    for corpus, runs in experiment.by_corpus().items():
        if best := best_group(group for group in groups if group.name in runs.names()):
            sides.append({"corpus": corpus_label(results.study, corpus), "value": best.center})
    return sides


def sweep_figure(
    results: Results, experiment: ExperimentRuns, groups: list[SeedGroup], settings: list[str]
) -> FigureData | None:
    """Return final values against the first swept setting, a line for each value of the second."""
    first, second = [*settings, None][:2]
    learned = [group for group in groups if group.values]
    by_line = group_by(learned, lambda group: second and group.runs[0].setting(second))
    lines = []
    for index, (value, members) in enumerate(sorted(by_line.items(), key=lambda item: (item[0] is not None, item[0]))):
        label = experiment.name.replace("_", " ") if value is None else f"{second.replace('_', ' ')} {value:g}"
        points = sorted((group.runs[0].setting(first), group) for group in members)
        x = [setting for setting, _ in points]
        lines.append(Line(label, f"line_{index}", x, [group.center for _, group in points]))
        seeds = [(setting, loss) for setting, group in points for loss in group.values.values()]
        if len(seeds) > len(points):
            lines.append(Line("", f"line_{index}", *map(list, zip(*seeds, strict=True)), style="points"))
    if not 0 < len(by_line) <= MAX_LINES:
        return None
    is_loss = groups[0].measure == "validation_loss"
    yardsticks = loss_yardsticks(results, groups[0].runs[0], orders=(2, 3)) if is_loss else []
    y_label = f"final loss ({NATS})" if is_loss else groups[0].unit
    return Lines(first.replace("_", " "), y_label, lines, yardsticks, log_x=True)
