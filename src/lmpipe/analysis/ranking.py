"""Ranking of the runs of a sweep: the best grid point, whose learning rate other experiments use."""

from lmpipe.analysis.results import UNITS, ExperimentRuns
from lmpipe.errors import InputError
from lmpipe.training.run_config import BestRun, GridPoint


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
    candidates = [grid_point(experiment, name) for name in experiment.names()]
    point = next(point for point in candidates if point.run == best)
    return BestRun(
        experiment=experiment.name,
        seeds=[run.seed for run in experiment.seeds_of(best)],
        ranked_by=metric,
        candidates=candidates,
        **dict(point),
    )


def grid_point(experiment: ExperimentRuns, name: str) -> GridPoint:
    """Return one run of a sweep with its mean losses over the seeds."""
    training = experiment.seeds_of(name)[0].config.training
    return GridPoint(
        run=name,
        max_lr=training.max_lr,
        batch_size=training.batch_size,
        statuses=experiment.statuses(name),
        **{metric: experiment.mean_loss(name, metric) for metric in UNITS},
    )
