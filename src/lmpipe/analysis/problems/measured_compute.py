"""Predictions of the accounting beside measurements of this study, with the errors: parameters, FLOPs and time."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from pydantic import JsonValue

from lmpipe.analysis.finding import Figure, Metric, Table, optional_metric
from lmpipe.analysis.results import Results
from lmpipe.model.accounting import MODEL_FLOPS_UTILIZATION, count_parameters
from lmpipe.training.measurements import BatchSizeBenchmark, StepProfile

SOURCE, TIMED = "model_measurements.json", "batch_sizes.json"
RUNS = "runs/*/*/seed*/summary.json"
MISSING = "the study's own model has not been measured"
PERCENT = "% of the measured value"


@dataclass(frozen=True)
class Measurement:
    """Metrics, facts, tables and figures for a problem's finding."""

    metrics: dict[str, Metric]
    facts: dict[str, JsonValue] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


class Throughput(NamedTuple):
    """Training speed of the study's own model, and the file that it is from."""

    tokens_per_second: float
    source: str


def percent_error(predicted: float, measured: float) -> float:
    """Return the error of a prediction in percent of the measured value.

    >>> percent_error(110, 100)
    10.0
    """
    return 100 * (predicted - measured) / measured


def read_profile(results: Results) -> StepProfile | None:
    """Return the measurement of the study's own model; None if there is none."""
    return results.document(StepProfile, SOURCE)


def flops_and_time(results: Results) -> Measurement:
    """Return parameters, FLOPs and the time of a step, predicted and measured."""
    profile = read_profile(results)
    if profile is None:
        return Measurement({"step_flops_error": optional_metric(None, PERCENT, SOURCE, MISSING)})
    errors, predicted, measured = parameter_errors(results), profile.predicted, profile.measured
    largest = max(errors, key=abs, default=None)
    metrics = {
        "step_flops_counted": Metric(measured.step_flops, "FLOPs", SOURCE),
        "step_flops_error": Metric(percent_error(predicted.step_flops, measured.step_flops), PERCENT, SOURCE),
        "largest_parameters_error": optional_metric(largest, PERCENT, RUNS, "no run finished"),
        "matmul_ceiling": Metric(measured.matmul_flops_per_second, "FLOP/s", SOURCE),
    }
    facts = {"assumed_utilization": MODEL_FLOPS_UTILIZATION, "num_shapes": len(errors)}
    return Measurement(metrics | speed_metrics(profile, find_speed(results, profile)), facts, [counts_table(profile)])


def parameter_errors(results: Results) -> list[float]:
    """Return the error of the predicted parameters of every shape of model that was trained, in percent."""
    runs_by_shape = {repr(run.config.model): run for run in results.runs()}
    return [
        percent_error(count_parameters(run.config.model).total, run.summary.parameters)
        for run in runs_by_shape.values()
    ]


def find_speed(results: Results, profile: StepProfile) -> Throughput | None:
    """Return the speed of a step timed alone, else the mean of the runs; None if neither was timed."""
    timed = results.document(BatchSizeBenchmark, TIMED)
    for row in timed.sizes if timed and timed.model == profile.model else ():
        if row.batch_size == profile.batch_size:
            return Throughput(row.tokens_per_second, TIMED)
    setting = profile.model, profile.batch_size
    runs = [run for run in results.runs() if (run.config.model, run.setting("batch_size")) == setting]
    speeds = [run.summary.tokens_per_second for run in runs if run.summary.tokens_per_second]
    return Throughput(fmean(speeds), RUNS) if speeds else None


def speed_metrics(profile: StepProfile, speed: Throughput | None) -> dict[str, Metric]:
    """Return speed, model FLOPs utilization, and the time of a step, measured and at the handout's utilization.

    The metrics are undefined if nothing was timed.
    """
    values: dict[str, tuple[float | None, str]] = dict.fromkeys(
        ("tokens_per_second", "utilization", "step_seconds", "assumed_step_seconds"), (None, "")
    )
    if speed:
        flops, ceiling = profile.measured.step_flops, profile.measured.matmul_flops_per_second
        seconds = profile.batch_size * profile.model.context_length / speed.tokens_per_second
        values = {
            "tokens_per_second": (speed.tokens_per_second, "tokens per second"),
            "utilization": (flops / seconds / ceiling, "share of the fastest matrix multiply"),
            "step_seconds": (seconds, "s"),
            "assumed_step_seconds": (flops / (MODEL_FLOPS_UTILIZATION * ceiling), "s"),
        }
    source = speed.source if speed else TIMED
    reason = "no step or run of this model was timed"
    return {name: optional_metric(value, unit, source, reason) for name, (value, unit) in values.items()}


def counts_table(profile: StepProfile) -> Table:
    """Return a row for each quantity that is counted exactly, by the formulas and by torch."""
    labels = {
        "parameters": "parameters",
        "forward_flops": "FLOPs of the forward pass",
        "step_flops": "FLOPs of a whole step (3 × forward)",
    }
    rows = []
    for key, label in labels.items():
        predicted, measured = getattr(profile.predicted, key), getattr(profile.measured, key)
        rows.append([label, predicted, measured, percent_error(predicted, measured)])
    columns = ["quantity", "by the formulas", "by torch", "error (%)"]
    return Table("Counts of a training step of the study's own model", columns, rows)
