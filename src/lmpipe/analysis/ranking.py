"""Ranking of the runs of a sweep: the best grid point, whose learning rate other experiments use."""

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
        batch_size=training.batch_size,
        ranked_by=metric,
        **{metric: experiment.mean_loss(best, metric) for metric in UNITS},
    )
