"""Ranking of the runs of a sweep: the best grid point, and the optimum between the rates around it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from lmpipe.analysis.results import UNITS, ExperimentRuns
from lmpipe.analysis.runs import Run
from lmpipe.errors import InputError
from lmpipe.training.run_documents import BestRun


def select_best(experiment: ExperimentRuns) -> BestRun:
    """Return the grid point with the lowest mean final loss over the seeds.

    Raises InputError if no point finished with every seed, or if the points are on different corpora, whose losses do
    not compare.
    """
    key, metric = f"experiments.{experiment.name}", experiment.ranking_metric()
    if metric is None:
        corpora = ", ".join(experiment.by_corpus())
        remedy = "take the rate from an experiment on one of them"
        raise InputError(key, f"has runs on the corpora {corpora}, whose losses do not compare", remedy)
    best = experiment.best()
    if best is None:
        raise InputError(key, "has no grid point that finished with all its seeds", "add lower learning rates to it")
    runs = experiment.seeds_of(best)
    training = runs[0].config.training
    alike = [run for run in experiment.runs if settings_without_rate(run) == settings_without_rate(runs[0])]
    return BestRun(
        experiment=experiment.name,
        run=best,
        seeds=[run.seed for run in runs],
        max_lr=training.max_lr,
        interpolated_lr=interpolate_rate(losses_by_rate(alike), training.max_lr, runs[0].summary.unigram_entropy),
        batch_size=training.batch_size,
        ranked_by=metric,
        **{metric: experiment.mean_loss(best, metric) for metric in UNITS},
    )


def losses_by_rate(runs: Iterable[Run]) -> dict[float, list[float]]:
    """Return the final losses of the seeds that finished, in nats per token, by peak rate; empty where none did."""
    losses: dict[float, list[float]] = {}
    for run in runs:
        finished = losses.setdefault(run.config.training.max_lr, [])
        if run.status == "finished" and run.loss is not None:
            finished.append(run.loss)
    return losses


def interpolate_rate(losses: Mapping[float, Sequence[float]], best: float, unigram_entropy: float) -> float | None:
    """Return the rate at the minimum of the parabola through the median losses of the best rate and the two next to it.

    Seeds whose loss is nearer to the unigram entropy than to that of the best rate did not learn and do not count. None
    if the best rate is at the border, if no seed learned at a neighbour, or if the minimum is not between the three.
    """
    lowest, rates = median(losses[best]), sorted(losses)
    index = rates.index(best)
    bracket = rates[max(0, index - 1) : index + 2]
    learned = [[loss for loss in losses[rate] if loss - lowest < unigram_entropy - loss] for rate in bracket]
    if len(bracket) < 3 or not all(learned):
        return None
    return parabola_vertex(bracket, list(map(median, learned)))


def settings_without_rate(run: Run) -> tuple[Any, ...]:
    """Return the resolved settings of a run without its peak rate and its seed."""
    training = run.config.training.model_dump(exclude={"max_lr"})
    return run.config.tokenizer.name, run.config.model, training


def parabola_vertex(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the minimum of the parabola through three points of (log rate, loss); None if it is not between them.

    >>> round(parabola_vertex([0.01, 0.02, 0.04], [3.3, 3.2, 3.3]), 6)
    0.02
    """
    x0, x1, x2 = map(math.log, rates)
    y0, y1, y2 = losses
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (second - first) / (x2 - x0)
    if curvature <= 0:
        return None
    vertex = (x0 + x1) / 2 - first / (2 * curvature)
    return math.exp(vertex) if x0 < vertex < x2 else None
