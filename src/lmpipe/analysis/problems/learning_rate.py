"""Problem learning_rate: the best peak rate, and the rate at which training becomes unstable."""

import math
from dataclasses import dataclass
from itertools import pairwise

from lmpipe.analysis.finding import Finding, Metric
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.results import UNITS, ExperimentRuns, Results
from lmpipe.analysis.statistics import mean_interval
from lmpipe.io.formatting import format_loss, format_number, join_words

ID = "learning_rate"
TITLE = "Tuning the learning rate"
QUESTION = (
    "Which peak learning rate gives the lowest final validation loss, how was it searched for, "
    "and how does the best rate lie to the rate at which training diverges?"
)
EXAMPLE_CONFIG = "learning_rate: {corpus: {corpus}, sweep: {max_lr: [0.001, 0.003, 0.01, 0.03, 0.1, 3.0]}}"
PARABOLA = "the grid needs a finished rate on both sides of the best one"
FEWER = "fewer than four rates around the best one finished"
JACKKNIFE = "over fits that leave out one rate each"
# Maximum distance on the grid, in points, between the best rate and a rate that the fit includes.
MAX_GRID_DISTANCE = 2
WORST_FIRST = ("diverged", "not_learning", "finished")


@dataclass(frozen=True)
class GridPoint:
    """One rate of the grid: its best run, that run's mean final loss (None unless all seeds finished), its statuses.

    The loss is in nats per token, or in bits per byte if the tokens of the grid's runs differ.
    """

    rate: float
    name: str
    loss: float | None
    statuses: list[str]


def analyze(results: Results) -> Finding:
    """Analyze the best rate of the grid, the edge of stability, and the interpolated optimum."""
    experiment = results.experiment(ID)
    if experiment is None:
        return run_summary.missing_experiment(results, ID, EXAMPLE_CONFIG)
    measure = experiment.ranking_metric()
    if measure is None:
        return run_summary.across_corpora(experiment)
    points = grid(experiment, measure)
    best = best_point(points)
    metrics = grid_metrics(experiment, points, best) | interpolation_metrics(experiment, points, best)
    sentences = [
        best_sentence(experiment, points, best),
        search_sentence(points, experiment),
        run_summary.setting_sentence(results, experiment),
        *neighbour_sentences(points, best, measure),
        edge_sentence(points, best),
        *interpolation_sentences(metrics),
        *run_summary.per_byte_sentences(experiment),
        *run_summary.failure_sentences(experiment),
    ]
    is_answered = best is not None and len(points) > 1
    tables = [run_summary.runs_table(experiment)]
    return Finding(
        "answered" if is_answered else "partial", metrics, sentences, tables, run_summary.experiment_plots(experiment)
    )


def grid(experiment: ExperimentRuns, measure: str) -> list[GridPoint]:
    """Return the rates that were tried, from small to large; with the best of several runs at one rate."""
    names: dict[float, list[str]] = {}
    for name in experiment.names():
        names.setdefault(experiment.setting(name, "max_lr"), []).append(name)
    points = []
    for rate, same_rate in sorted(names.items()):
        name = experiment.best_among(same_rate) or same_rate[0]
        points.append(GridPoint(rate, name, experiment.mean_loss(name, measure), experiment.statuses(name)))
    return points


def best_point(points: list[GridPoint]) -> GridPoint | None:
    """Return the rate with the lowest mean final loss."""
    finished = [point for point in points if point.loss is not None]
    return min(finished, key=lambda point: point.loss) if finished else None


def stability_edge(points: list[GridPoint]) -> tuple[float | None, float | None]:
    """Return the largest rate at which every seed finished, and the smallest at which one diverged."""
    finished = [point.rate for point in points if set(point.statuses) == {"finished"}]
    diverged = [point.rate for point in points if "diverged" in point.statuses]
    return max(finished, default=None), min(diverged, default=None)


def grid_metrics(experiment: ExperimentRuns, points: list[GridPoint], best: GridPoint | None) -> dict[str, Metric]:
    """Return the metrics of the grid."""
    source = run_summary.table_path(experiment)
    largest, smallest = stability_edge(points)
    name = best.name if best else None
    ratio = smallest / largest if largest and smallest else None
    to_best = smallest / best.rate if best and smallest else None
    no_edge = "no rate of the grid diverged" if smallest is None else "no run finished"
    return {
        "best_max_lr": run_summary.metric(best.rate if best else None, "", source, "no run finished"),
        "best_validation_loss": run_summary.mean_metric(experiment, name),
        "best_perplexity": run_summary.mean_metric(experiment, name, "perplexity", ""),
        "best_bits_per_byte": run_summary.mean_metric(experiment, name, "bits_per_byte", "bits per byte"),
        "largest_finished_max_lr": run_summary.metric(largest, "", source, "no run finished"),
        "smallest_diverged_max_lr": run_summary.metric(smallest, "", source, "no rate of the grid diverged"),
        "edge_ratio": run_summary.metric(ratio, "smallest diverged / largest finished rate", source, no_edge),
        "diverged_to_best_ratio": run_summary.metric(to_best, "smallest diverged / best rate", source, no_edge),
        "grid_points": Metric(len(points), "rates", source),
    }


def interpolation_metrics(
    experiment: ExperimentRuns, points: list[GridPoint], best: GridPoint | None
) -> dict[str, Metric]:
    """Return the minimum of a parabola through the best rate and its neighbours, with its uncertainty.

    Several seeds have a 95 % interval; the range over fits that each leave out one rate needs no second seed.
    """
    source = run_summary.table_path(experiment)
    bracket = bracket_of(points, best)
    if bracket is None:
        return {"interpolated_max_lr": run_summary.metric(None, "", source, PARABOLA)}
    rates = [point.rate for point in bracket]
    rate, lowest = parabola_minimum(rates, [point.loss for point in bracket])
    minima = jackknife_minima(points, best)
    reason = "" if minima else FEWER
    distances = [edge_rate / rate if edge_rate else None for edge_rate in stability_edge(points)]
    no_edge = "no rate of the grid diverged"
    return {
        "interpolated_max_lr": Metric(rate, "", source, seeds_interval(experiment, bracket)),
        "interpolated_validation_loss": Metric(lowest, UNITS[experiment.ranking_metric()], source),
        "interpolated_max_lr_lowest": run_summary.metric(min(minima, default=None), JACKKNIFE, source, reason),
        "interpolated_max_lr_highest": run_summary.metric(max(minima, default=None), JACKKNIFE, source, reason),
        "finished_to_interpolated_ratio": Metric(distances[0], "largest finished / interpolated rate", source),
        "diverged_to_interpolated_ratio": run_summary.metric(
            distances[1], "smallest diverged / interpolated rate", source, no_edge
        ),
    }


def seeds_interval(experiment: ExperimentRuns, bracket: list[GridPoint]) -> tuple[float, float] | None:
    """Return the 95 % interval of the interpolated rate over the seeds, in the logarithm of the rate."""
    rates = [point.rate for point in bracket]
    by_seed = [experiment.losses(point.name, experiment.ranking_metric()) for point in bracket]
    shared = sorted(set.intersection(*(set(losses) for losses in by_seed)))
    minima = [parabola_minimum(rates, [losses[seed] for losses in by_seed])[0] for seed in shared]
    # A seed's parabola with its minimum outside the bracket only bounds the optimum, so there is no interval then.
    inside = all(rates[0] < minimum < rates[2] for minimum in minima)
    bounds = mean_interval([math.log(minimum) for minimum in minima]).bounds if inside else None
    return (math.exp(bounds[0]), math.exp(bounds[1])) if bounds else None


def jackknife_minima(points: list[GridPoint], best: GridPoint) -> list[float]:
    """Return the minima of parabolas around the best rate, each without one rate; empty for fewer than four.

    The fit includes the finished rates at most MAX_GRID_DISTANCE points from the best one.
    """
    index = points.index(best)
    neighbours = [
        point
        for point in points[max(0, index - MAX_GRID_DISTANCE) : index + MAX_GRID_DISTANCE + 1]
        if point.loss is not None
    ]
    if len(neighbours) < 4:
        return []
    return [fitted_minimum([point for point in neighbours if point is not excluded]) for excluded in neighbours]


def fitted_minimum(points: list[GridPoint]) -> float:
    """Return the minimum of the least-squares parabola through (log rate, loss), within the rates of the points."""
    import numpy

    logs = [math.log(point.rate) for point in points]
    curvature, slope, _ = numpy.polyfit(logs, [point.loss for point in points], 2).tolist()
    if curvature <= 0:
        return min(points, key=lambda point: point.loss).rate
    return math.exp(min(max(-slope / (2 * curvature), logs[0]), logs[-1]))


def bracket_of(points: list[GridPoint], best: GridPoint | None) -> list[GridPoint] | None:
    """Return the best point between its neighbours on the grid; None unless both finished."""
    if best is None:
        return None
    index = points.index(best)
    bracket = points[max(0, index - 1) : index + 2]
    return bracket if len(bracket) == 3 and all(point.loss is not None for point in bracket) else None


def parabola_minimum(rates: list[float], losses: list[float]) -> tuple[float, float]:
    """Return the rate and the loss at the minimum of the parabola through three points of (log rate, loss).

    >>> rate, lowest = parabola_minimum([0.001, 0.01, 0.1], [2.0, 1.0, 2.0])
    >>> round(rate, 6), round(lowest, 6)
    (0.01, 1.0)
    """
    x0, x1, x2 = (math.log(rate) for rate in rates)
    y0, y1, y2 = losses
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (second - first) / (x2 - x0)
    if curvature <= 0:
        lowest = min(range(3), key=lambda index: losses[index])
        return rates[lowest], losses[lowest]
    x = min(max((x0 + x1) / 2 - first / (2 * curvature), x0), x2)
    return math.exp(x), y0 + first * (x - x0) + curvature * (x - x0) * (x - x1)


def best_sentence(experiment: ExperimentRuns, points: list[GridPoint], best: GridPoint | None) -> str:
    """Return the short answer."""
    if best is None:
        return "No rate of the grid finished with every seed, so there is no best rate; add smaller rates to the grid."
    perplexity = run_summary.mean_value(experiment, best.name, "perplexity")
    per_byte = run_summary.mean_value(experiment, best.name, "bits_per_byte")
    rivals = {point.name: format_number(point.rate) for point in points if point is not best}
    return (
        f"The best peak learning rate of the grid is {format_number(best.rate)}: it ends at a validation loss of "
        f"{format_loss(run_summary.mean_value(experiment, best.name))} nats per "
        f"token{run_summary.describe_seeds(experiment, best.name)} "
        f"(perplexity {format_number(perplexity, 4)}, {format_number(per_byte, 4)} bits per byte)"
        f"{run_summary.describe_runner_up(experiment, best.name, rivals)}."
    )


def search_sentence(points: list[GridPoint], experiment: ExperimentRuns) -> str:
    """Return the search strategy, as it was run."""
    if len(points) < 2:
        return (
            f"Only the rate {format_number(points[0].rate)} was run, which is no search; sweep "
            "max_lr over several rates."
        )
    factors = [larger.rate / smaller.rate for smaller, larger in pairwise(points)]
    low, high = format_number(min(factors), 2), format_number(max(factors), 2)
    steps = f"a factor of {low} apart" if low == high else f"factors of {low} to {high} apart"
    warmup = run_summary.common_value(run.setting("warmup_fraction") for run in experiment.runs)
    warming = f" after a linear warm-up over {format_number(100 * warmup)} % of the steps" if warmup else ""
    other_settings = [key for key in experiment.varied_settings() if key != "max_lr"]
    condition = "all else equal"
    if other_settings:
        condition = f"the best of its runs, which differ in {join_words(other_settings)}, stands for it"
    return (
        f"The search is a grid of {len(points)} rates from {format_number(points[0].rate)} "
        f"to {format_number(points[-1].rate)}, "
        f"neighbours {steps}; each rate is the peak of a cosine schedule{warming}, {condition}. Of these rates "
        f"{join_words(count_endings(points))}."
    )


def count_endings(points: list[GridPoint]) -> list[str]:
    """Count the rates by status, such as "4 finished" and "1 diverged"; the worst seed decides."""
    endings = [next(status for status in WORST_FIRST if status in point.statuses) for point in points]
    descriptions = {"finished": "finished", "not_learning": "got stuck", "diverged": "diverged"}
    return [
        f"{endings.count(status)} {description}" for status, description in descriptions.items() if status in endings
    ]


def neighbour_sentences(points: list[GridPoint], best: GridPoint | None, measure: str) -> list[str]:
    """Describe the losses around the optimum, or warn that it is at the edge of the grid."""
    if best is None or len(points) < 2:
        return []
    index = points.index(best)
    if index in (0, len(points) - 1):
        end, beyond = ("lower", "smaller") if index == 0 else ("upper", "larger")
        return [f"The best rate lies at the {end} edge of the grid, so a {beyond} one may be better; widen the grid."]
    neighbours = [points[index - 1], points[index + 1]]
    return [
        "Of its neighbours, "
        f"{join_words([f'{format_number(point.rate)} {describe_outcome(point, measure)}' for point in neighbours])}."
    ]


def describe_outcome(point: GridPoint, measure: str) -> str:
    """Describe the final loss or the failures of a rate's runs."""
    if point.loss is not None:
        return f"ends at {run_summary.format_loss_with_unit(point.loss, measure)}"
    return " and ".join(
        describe_ending(point, status) for status in ("diverged", "not_learning") if status in point.statuses
    )


def describe_ending(point: GridPoint, status: str) -> str:
    """Describe the seeds of a rate with this status, such as "diverged with 1 of 3 seeds"."""
    count, seeds = point.statuses.count(status), len(point.statuses)
    description = {"diverged": "diverged", "not_learning": "got stuck"}[status]
    return description if count == seeds else f"{description} with {count} of {seeds} seeds"


def edge_sentence(points: list[GridPoint], best: GridPoint | None) -> str:
    """Describe the edge of stability and its distance from the best rate."""
    largest, smallest = stability_edge(points)
    if largest is None:
        ends = join_words([f"{format_number(point.rate)} {describe_outcome(point, '')}" for point in points])
        position = f"lies below {format_number(smallest)}" if smallest else "is not to be seen in this grid"
        return f"No rate finished with every seed ({ends}), so the edge of stability {position}."
    if smallest is None:
        stuck = [format_number(point.rate) for point in points if point.rate > largest]
        beyond = f", the largest that finished (beyond it, {join_words(stuck)} got stuck)" if stuck else ""
        return (
            f"No rate of the grid diverged, so the edge of stability lies above {format_number(largest)}{beyond}; "
            "add larger rates to find it."
        )
    if largest > smallest:
        return (
            f"Divergence is not monotone here: {format_number(smallest)} diverged with at least one seed, while "
            f"{format_number(largest)} finished; the edge of stability is blurred between them."
        )
    below = (
        f"{format_number(largest / best.rate)} to {format_number(smallest / best.rate)}"
        if best.rate < largest
        else "at most "
    )
    below += "" if best.rate < largest else format_number(smallest / best.rate)
    fate = next(describe_ending(point, "diverged") for point in points if point.rate == smallest)
    return (
        f"The edge of stability lies between {format_number(largest)}, the largest rate that finished, and "
        f"{format_number(smallest)}, the smallest that {fate}, which are a factor of "
        f"{format_number(smallest / largest)} apart; "
        f"the best rate lies a factor of {below} below that edge."
    )


def interpolation_sentences(metrics: dict[str, Metric]) -> list[str]:
    """Describe the interpolated optimum, its uncertainty and its distance from the edge of stability."""
    optimum = metrics["interpolated_max_lr"]
    if optimum.value is None:
        if metrics["best_max_lr"].value is None:
            return []
        return [f"An optimum between the rates is not interpolated: {optimum.missing_reason}."]
    lowest = metrics["interpolated_validation_loss"]
    return [
        f"A parabola through the best rate and its two neighbours, in the logarithm of the rate, has its minimum at "
        f"{format_number(optimum.value)}{describe_uncertainty(metrics)}, with a loss of "
        f"{format_loss(lowest.value)} {lowest.unit}; "
        f"it is told but not used: other experiments take {format_number(metrics['best_max_lr'].value)}, which was run."
        f"{describe_distance(metrics)}"
    ]


def describe_uncertainty(metrics: dict[str, Metric]) -> str:
    """Describe the uncertainty of the interpolated optimum: over seeds, and over fits without one rate."""
    interval, ranges = metrics["interpolated_max_lr"].interval, []
    if interval:
        ranges.append(f"95 % interval over seeds {format_number(interval[0])} to {format_number(interval[1])}")
    low, high = (metrics[f"interpolated_max_lr_{end}"].value for end in ("lowest", "highest"))
    if low is not None:
        ranges.append(
            f"{format_number(low)} to {format_number(high)} when each nearby rate in turn is left out of the fit"
        )
    return f" ({'; '.join(ranges)})" if ranges else ""


def describe_distance(metrics: dict[str, Metric]) -> str:
    """Describe the distance of the interpolated optimum from the edge of stability."""
    near, far = (metrics[f"{end}_to_interpolated_ratio"].value for end in ("finished", "diverged"))
    if far is None or far < near:
        return ""
    below = f"{format_number(near)} to {format_number(far)}" if near > 1 else f"at most {format_number(far)}"
    return f" The edge of stability lies a factor of {below} above this optimum."
