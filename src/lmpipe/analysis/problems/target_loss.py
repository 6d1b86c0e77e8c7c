"""Target loss of an experiment (`target_loss` in the study) beside the loss of its best run."""

from dataclasses import replace
from typing import Any

from lmpipe.analysis.finding import Finding, Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import format_loss, format_number

SOURCE = "the study's experiments.{name}.target_loss"
NO_RUN = "no run finished with every seed"


def add_target(finding: Finding, results: Results, name: str) -> Finding:
    """Return the finding with the experiment's target loss and its best run next to it, if it has a target."""
    experiment = results.experiment(name)
    if experiment is None or (target := results.study.experiments[name].target_loss) is None:
        return finding
    answer, *details = finding.sentences
    return replace(
        finding,
        metrics=finding.metrics | target_metrics(experiment, target),
        sentences=[answer, target_sentence(experiment, target), *details],
        tables=[target_table(experiment, target), *finding.tables],
    )


def target_metrics(experiment: ExperimentRuns, target: float) -> dict[str, Metric]:
    """Return the target, the difference of the best run from it, and True if it is reached."""
    best = experiment.best()
    reached = run_summary.mean_metric(experiment, best, missing_reason=NO_RUN)
    bounds = reached.interval and tuple(bound - target for bound in reached.interval)
    above = None if best is None else reached.value - target
    return {
        "target_loss": Metric(target, run_summary.NATS, SOURCE.format(name=experiment.name)),
        "loss_above_target": replace(reached, value=above, interval=bounds),
        "target_reached": run_summary.metric(None if best is None else above <= 0, "", reached.source, NO_RUN),
    }


def target_sentence(experiment: ExperimentRuns, target: float) -> str:
    """Describe the distance of the best run from the target."""
    best, aim = experiment.best(), f"The target of {format_number(target, 4)} nats per token"
    if best is None:
        return f"{aim} was not reached: {NO_RUN}."
    reached = experiment.mean_loss(best)
    best_text = f"{format_loss(reached)} in `{best}`{run_summary.describe_seeds(experiment, best)}"
    if reached <= target:
        return f"{aim} was reached: {best_text}, {format_loss(target - reached)} below it."
    return f"{aim} was missed by {format_loss(reached - target)}: the best end is {best_text}."


def target_table(experiment: ExperimentRuns, target: float) -> Table:
    """Return the target beside the best loss."""
    best = experiment.best()
    reached = experiment.mean_loss(best) if best else None
    row: list[Any] = [target, reached, best, "no" if reached is None or reached > target else "yes"]
    return Table(
        "The study's target and what the best run reached, in nats per token.",
        ["target", "best final loss", "run", "reached"],
        [row],
    )
