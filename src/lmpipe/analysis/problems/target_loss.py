"""Target loss of an experiment (`target_loss` in the study) beside the loss of its best run."""

from dataclasses import replace

from lmpipe.analysis.finding import Finding, Metric, optional_metric
from lmpipe.analysis.outcomes import NATS, best_group, seed_groups
from lmpipe.analysis.problems.run_summary import table_path
from lmpipe.analysis.results import ExperimentRuns, Results

SOURCE = "the study's experiments.{name}.target_loss"
NO_RUN = "no seed learned"


def add_target(finding: Finding, results: Results, name: str) -> Finding:
    """Return the finding with the experiment's target loss and its best run next to it, if it has a target."""
    experiment = results.experiment(name)
    if experiment is None or (target := results.study.experiments[name].target_loss) is None:
        return finding
    return replace(finding, metrics=finding.metrics | target_metrics(results, experiment, target))


def target_metrics(results: Results, experiment: ExperimentRuns, target: float) -> dict[str, Metric]:
    """Return the target, the difference of the best run from it, and True if it is reached."""
    source, best = table_path(experiment), best_group(seed_groups(results, experiment))
    above = best and best.center - target
    bounds = best and best.interval and (best.interval[0] - target, best.interval[1] - target)
    return {
        "target_loss": Metric(target, NATS, SOURCE.format(name=experiment.name)),
        "loss_above_target": Metric(above, NATS, source, bounds, "" if best else NO_RUN),
        "target_reached": optional_metric(None if best is None else above <= 0, "", source, NO_RUN),
    }
