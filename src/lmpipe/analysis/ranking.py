"""Ranking of the runs of a sweep: the best grid point, and the optimum between the rates around it."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from lmpipe.analysis.results import UNITS, ExperimentRuns
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
    return BestRun(
        experiment=experiment.name,
        run=best,
        seeds=[run.seed for run in runs],
        max_lr=training.max_lr,
        interpolated_lr=interpolated_rate(experiment, best, metric),
        batch_size=training.batch_size,
        ranked_by=metric,
        **{metric: experiment.mean_loss(best, metric) for metric in UNITS},
    )


def interpolated_rate(experiment: ExperimentRuns, best: str, metric: str) -> float | None:
    """Return the rate of the parabola's minimum around the best run; None if a neighbour is missing or has no loss.

    Neighbours have the next rates among the runs that differ from the best one in the rate alone. Their losses are
    medians over the seeds that finished.
    """
    settings = settings_without_rate(experiment, best)
    equal = [name for name in experiment.names() if settings_without_rate(experiment, name) == settings]
    names = {experiment.setting(name, "max_lr"): name for name in [*equal, best]}
    rates = sorted(names)
    index = rates.index(experiment.setting(best, "max_lr"))
    bracket = rates[max(0, index - 1) : index + 2]
    losses = [experiment.finished_values(names[rate], metric) for rate in bracket]
    if len(bracket) < 3 or not all(losses):
        return None
    return parabola_vertex(bracket, list(map(median, losses)))


def settings_without_rate(experiment: ExperimentRuns, name: str) -> dict[str, Any]:
    """Return the resolved settings of a run without its rate and the names of its overrides."""
    config = experiment.seeds_of(name)[0].config
    training = config.training.model_dump(exclude={"max_lr"})
    return {"tokenizer": config.tokenizer.name, "model": config.model.model_dump(), "training": training}


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
