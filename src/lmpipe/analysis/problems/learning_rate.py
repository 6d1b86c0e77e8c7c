"""Problem learning_rate: the best peak rate, and the rate at which training breaks."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from pydantic import JsonValue

from lmpipe.analysis.effects import effect_of, expectations
from lmpipe.analysis.experiment_findings import loss_yardsticks, seeds_table, several_corpora, table_path
from lmpipe.analysis.finding import Figure, Finding, Metric, RateCurve, RateCurves, RatePoint, optional_metric
from lmpipe.analysis.outcomes import BITS, NATS, NO_RUN, NOISE_SOURCE, SeedGroup, best_group, seed_groups, study_noise
from lmpipe.analysis.rate_sweeps import RateSweep, rate_sweep, sweeps_by_model
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.study.labels import WORDS, colour_key, experiment_label

ID = "learning_rate"
NO_NEIGHBOUR = "the grid needs a rate on both sides of the best"


def analyze(results: Results) -> Finding:
    """Return the best rate, the rates that tie with it, and the edge of stability."""
    experiment = results.experiment(ID)
    if experiment.ranking_metric() is None:
        return several_corpora(results, experiment)
    return analyze_rates(results, experiment)


def analyze_rates(results: Results, experiment: ExperimentRuns) -> Finding:
    """Return the finding of a sweep over peak rates, on one corpus; short runs only look for the edge."""
    groups, noise = seed_groups(results, experiment), study_noise(results)
    longest = max(run.config.training.total_tokens for run in experiment.runs)
    measure = experiment.ranking_metric()
    full = [replace(group, measure=measure) for group in groups if group.training.total_tokens == longest]
    ranked = best_group(full)
    best = ranked and replace(ranked, measure="validation_loss")
    model = (best or groups[0]).model
    sweep = rate_sweep(results, [run for run in experiment.runs if run.config.model == model])
    visible = noise.difference_half_width(best.num_seeds) if noise and best else None
    effects = {group.name: effect_of(results, group, groups[0], noise) for group in groups[1:]}
    curves = [sweep_curve(results, experiment, sweep)]
    if experiment.name == ID:
        curves += other_norms(results, sweep)
    else:
        curves = [replace(curves[0], label=experiment_label(results.study, experiment.name))]
    yardsticks = loss_yardsticks(results, experiment.runs[0], orders=(1, 2))
    return Finding(
        "answered" if best and len(sweep.points) > 1 else "partial",
        rate_metrics(table_path(experiment), sweep, best, visible),
        facts=rate_facts(sweep, curves),
        tables=[seeds_table(groups)],
        figures=[Figure("rates", RateCurves(f"final loss ({NATS})", curves, yardsticks))],
        expectations=expectations(results, experiment.name, effects),
        reason="" if best else "No seed learned at any rate; add smaller rates",
    )


def rate_metrics(source: str, sweep: RateSweep, best: SeedGroup | None, visible: float | None) -> dict[str, Metric]:
    """Return the optimum, its loss, and the edge of stability."""
    nearby = [point.max_lr for point in tied_points(sweep, visible)]
    ratio = sweep.breaks_at / sweep.optimum if sweep.breaks_at and sweep.optimum else None
    stable = sweep.stable_up_to / sweep.optimum if sweep.stable_up_to and sweep.optimum else None
    no_edge = "no seed failed at any rate tried"
    no_run = Metric(None, "", source, missing_reason=NO_RUN)
    per_byte = median(run.summary.bits_per_byte for run in best.learned) if best else None
    return {
        "best_max_lr": optional_metric(sweep.best and sweep.best.max_lr, "", source, NO_RUN),
        "optimum": optional_metric(sweep.optimum, "", source, NO_RUN),
        "interpolated_max_lr": optional_metric(sweep.interpolated, "", source, NO_NEIGHBOUR),
        "best_validation_loss": best.metric(source) if best else replace(no_run, unit=NATS),
        "best_perplexity": best.perplexity(source) if best else no_run,
        "best_bits_per_byte": optional_metric(per_byte, BITS, source, NO_RUN),
        "smallest_visible_difference": optional_metric(visible, NATS, NOISE_SOURCE, "no setting has two seeds"),
        "lowest_tied_max_lr": optional_metric(min(nearby, default=None), "", source, NO_RUN),
        "highest_tied_max_lr": optional_metric(max(nearby, default=None), "", source, NO_RUN),
        "largest_stable_max_lr": optional_metric(sweep.stable_up_to, "", source, "a seed failed at every rate"),
        "smallest_diverged_max_lr": optional_metric(sweep.breaks_at, "", source, no_edge),
        "edge_to_optimum": optional_metric(ratio, "smallest rate that fails / best rate", source, no_edge),
        "stable_to_optimum": optional_metric(stable, "largest rate below the edge / best rate", source, NO_RUN),
        "num_rates": Metric(len(sweep.points), "rates", source),
    }


def tied_points(sweep: RateSweep, visible: float | None) -> list[RatePoint]:
    """Return the rates at which no seed failed and whose loss is within the noise of seeds of the lowest."""
    if sweep.best is None:
        return []
    limit = median(sweep.best.losses) + (visible or 0.0)
    return [point for point in sweep.full_points if not point.num_failed and median(point.losses) <= limit]


def rate_facts(sweep: RateSweep, curves: Sequence[RateCurve]) -> dict[str, JsonValue]:
    """Return the facts of the prose: the border, the neighbours, and the edges of the other norms."""
    best, is_swept = sweep.best, len(sweep.full_points) > 1
    border = ""
    if best and sweep.is_at_border and is_swept:
        border = "smaller" if best is sweep.neighbours[0] else "larger"
    return {
        "border": border,
        "is_swept": is_swept,
        "num_seeds": max(point.num_seeds for point in sweep.points),
        "neighbours": [
            {"difference": median(point.losses) - median(best.losses)}
            for point in sweep.neighbours
            if point is not best and point.losses
        ],
        "norms": [{"label": curve.label, "breaks_at": curve.breaks_at} for curve in curves],
    }


def other_norms(results: Results, sweep: RateSweep) -> list[RateCurve]:
    """Return the curve of each sweep in the study whose model differs from that of a sweep in the norm alone."""
    curves: dict[str, RateCurve] = {}
    for other in results.experiments():
        for candidate in sweeps_by_model(results, other).values():
            norm = candidate.model.norm
            is_alike = candidate.model == sweep.model.model_copy(update={"norm": norm})
            if is_alike and norm not in (sweep.model.norm, *curves):
                curves[norm] = sweep_curve(results, other, candidate)
    return list(curves.values())


def sweep_curve(results: Results, experiment: ExperimentRuns, sweep: RateSweep) -> RateCurve:
    """Return the U-curve of a sweep with the name of its norm and the colour of its model."""
    name = next(run.name for run in experiment.runs if run.config.model == sweep.model)
    label, colour = WORDS["norm", sweep.model.norm][0], colour_key(results.study, experiment.name, name)
    return RateCurve(label, colour, list(sweep.points), sweep.optimum, sweep.stable_up_to, sweep.breaks_at)
