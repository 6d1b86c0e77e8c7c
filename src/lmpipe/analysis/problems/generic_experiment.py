"""An experiment that is not a problem of the handout: losses over a grid, or differences from a baseline."""

from dataclasses import replace
from typing import Any

from lmpipe.analysis.effects import effect_of, expectations, outcome_found
from lmpipe.analysis.finding import Effect, Figure, FigureData, Finding, Forest, Line, Lines, Metric
from lmpipe.analysis.outcomes import (
    NATS,
    SeedGroup,
    best_group,
    groups_table,
    loss_yardsticks,
    seed_groups,
    seeds_table,
    study_noise,
)
from lmpipe.analysis.problems import learning_rate
from lmpipe.analysis.problems.ablation import choose_baseline
from lmpipe.analysis.problems.run_summary import NOISE_SOURCE, table_path
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.study.labels import corpus_label, experiment_label

MAX_LINES = 6


def analyze(results: Results, name: str) -> Finding:
    """Return the best run of a sweep, or the differences of the other runs from the baseline."""
    experiment = results.experiment(name)
    measure = experiment.ranking_metric()
    variants = list(results.study.experiments[name].variants())
    if measure and len(variants) > 1 and all(list(variant.point) == ["max_lr"] for variant in variants):
        finding = learning_rate.analyze_rates(results, experiment)
        name_facts = {"name": experiment_label(results.study, name), "kind": "rates"}
        return replace(finding, facts=finding.facts | name_facts)
    groups = seed_groups(results, experiment, measure or "bits_per_byte")
    tables = [groups_table("Final results of each run", groups), seeds_table(groups)]
    facts = {"name": experiment_label(results.study, name), "unit": UNITS[measure or "bits_per_byte"]}
    if measure is None:
        return across_corpora(results, experiment, groups, facts | {"kind": "corpora"})
    best = best_group(groups)
    if best is None:
        return Finding("partial", tables=tables, facts=facts | {"kind": "failed"}, reason="No seed of any run learned")
    settings = experiment.swept_settings()
    baseline = groups[0] if settings else choose_baseline(groups)
    noise = study_noise(results)
    others = [group for group in groups if group is not baseline]
    compared = {group.name: effect_of(results, group, baseline, noise) for group in others}
    effects = {} if settings else compared
    metrics = run_metrics(experiment, groups) | {"best_loss": best.metric(table_path(experiment))}
    if noise and measure == "validation_loss":
        visible = noise.difference_half_width(best.num_seeds)
        metrics["smallest_visible_difference"] = Metric(visible, NATS, NOISE_SOURCE)
    facts |= {"kind": "sweep" if settings else "variants" if effects else "single"}
    facts |= ranking_facts(groups, best, noise.difference_half_width(best.num_seeds) if noise else None)
    facts |= {"baseline": baseline.label, "settings": [setting.replace("_", " ") for setting in settings]}
    facts["outcomes"] = [{"label": row.label, "outcome": outcome_found(row, noise)} for row in effects.values()]
    data = sweep_figure(results, experiment, groups, settings) if settings else effects_figure(effects)
    return Finding(
        "answered",
        metrics,
        facts=facts,
        tables=tables,
        figures=[Figure("losses", data)] if data else [],
        effects=list(effects.values()),
        expectations=expectations(results, name, compared),
    )


def run_metrics(experiment: ExperimentRuns, groups: list[SeedGroup]) -> dict[str, Metric]:
    """Return the final value of every run by its name."""
    return {group.name: group.metric(table_path(experiment)) for group in groups}


def ranking_facts(groups: list[SeedGroup], best: SeedGroup, visible: float | None) -> dict[str, Any]:
    """Return the best run, those within the noise of seeds of it, and the worst."""
    learned = sorted((group for group in groups if group.values), key=lambda group: group.center)
    limit = best.center + (visible if visible and best.measure == "validation_loss" else 0.0)
    return {
        "best": best.label,
        "tied": [group.label for group in learned if group is not best and group.center <= limit],
        "worst": learned[-1].label,
        "spread": learned[-1].center - best.center,
        "failed": [group.label for group in groups if group.num_failed],
        "num_runs": len(groups),
        "num_seeds": max(group.num_seeds for group in groups),
    }


def across_corpora(
    results: Results, experiment: ExperimentRuns, groups: list[SeedGroup], facts: dict[str, Any]
) -> Finding:
    """Return the best run on each corpus, in bits per byte."""
    sides = []
    for corpus, runs in experiment.by_corpus().items():
        best = best_group(group for group in groups if group.name in runs.names())
        if best:
            sides.append({"corpus": corpus_label(results.study, corpus), "best": best.label, "value": best.center})
    return Finding(
        "answered" if len(sides) > 1 else "partial",
        run_metrics(experiment, groups),
        facts=facts | {"sides": sides},
        tables=[groups_table("Final results of each run", groups)],
    )


def sweep_figure(
    results: Results, experiment: ExperimentRuns, groups: list[SeedGroup], settings: list[str]
) -> FigureData | None:
    """Return final values against the first swept setting, a line for each value of the second."""
    by_line: dict[Any, list[SeedGroup]] = {}
    for group in groups:
        if group.values:
            by_line.setdefault(group.runs[0].setting(settings[1]) if len(settings) > 1 else None, []).append(group)
    lines = []
    for index, (value, members) in enumerate(sorted(by_line.items(), key=lambda item: (item[0] is not None, item[0]))):
        label = experiment.name.replace("_", " ") if value is None else f"{settings[1].replace('_', ' ')} {value:g}"
        points = sorted((group.runs[0].setting(settings[0]), group) for group in members)
        x = [setting for setting, _ in points]
        lines.append(Line(label, f"line_{index}", x, [group.center for _, group in points]))
        seeds = [(setting, loss) for setting, group in points for loss in group.values.values()]
        if len(seeds) > len(points):
            lines.append(Line("", f"line_{index}", *map(list, zip(*seeds, strict=True)), style="points"))
    if not 0 < len(by_line) <= MAX_LINES:
        return None
    yardsticks = (
        loss_yardsticks(results, groups[0].runs[0], orders=(2, 3)) if groups[0].measure != "bits_per_byte" else []
    )
    y_label = f"final loss ({NATS})" if groups[0].measure == "validation_loss" else UNITS[groups[0].measure]
    return Lines(settings[0].replace("_", " "), y_label, lines, yardsticks, log_x=True)


def effects_figure(effects: dict[str, Effect]) -> FigureData | None:
    """Return the forest plot of the differences from the baseline."""
    rows = list(effects.values())
    return Forest(f"difference from the baseline ({rows[0].unit})", rows) if rows else None
