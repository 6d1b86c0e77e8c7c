"""Batch sizes that fit on the machine: time and memory of steps of every doubling, measured on an idle machine."""

from pydantic import JsonValue

from lmpipe.analysis.finding import Metric, Table, optional_metric
from lmpipe.analysis.problems.measured_compute import percent_error
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.training.measurements import BatchSizeBenchmark

SOURCE = "batch_sizes.json"
# Predictions of the memory of a step: the formula for lmpipe's model, and the handout's list.
PREDICTIONS = ("predicted", "handout")
MISSING = "no batch size of this model has been timed alone"


def read_benchmark(results: Results, experiment: ExperimentRuns) -> BatchSizeBenchmark | None:
    """Return the batch sizes timed alone; None if their model, precision or device is not that of the runs."""
    benchmark = results.document(BatchSizeBenchmark, SOURCE)
    if benchmark is None:
        return None
    setting = (benchmark.model, benchmark.precision, benchmark.device)
    run_settings = [(run.config.model, run.setting("precision"), run.summary.device) for run in experiment.runs]
    return benchmark if all(run_setting == setting for run_setting in run_settings) else None


def speeds(benchmark: BatchSizeBenchmark | None) -> dict[int, float]:
    """Return the tokens per second of each batch size that was timed alone."""
    return {row.batch_size: row.tokens_per_second for row in benchmark.sizes} if benchmark else {}


def facts(benchmark: BatchSizeBenchmark | None) -> dict[str, JsonValue]:
    """Return the reason why no larger batch was tried, the memory left, and the largest error of our formula."""
    if benchmark is None:
        return {"batch_sizes": None}
    errors = [
        percent_error(predicted(benchmark, row.batch_size), row.memory_bytes)
        for row in benchmark.sizes
        if row.memory_bytes
    ]
    return {
        "batch_sizes": {
            "stop_reason": benchmark.stop_reason,
            "limit_bytes": benchmark.memory_limit_bytes,
            "largest": benchmark.largest_batch_size,
            "estimated": benchmark.estimated_largest_batch_size,
            "by_formula": benchmark.predicted.largest_batch_size,
            "by_handout": benchmark.handout.largest_batch_size,
            "worst_error": max(errors, key=abs, default=None),
        }
    }


def predicted(benchmark: BatchSizeBenchmark, batch_size: int, line: str = "predicted") -> int:
    """Return the memory of a step by our formula, or by the handout's list."""
    return getattr(benchmark, line).fixed_bytes + getattr(benchmark, line).bytes_per_sequence * batch_size


def metrics(benchmark: BatchSizeBenchmark | None) -> dict[str, Metric]:
    """Return the largest batch that fits."""
    values = {
        "largest_tried_batch_size": benchmark and benchmark.largest_batch_size,
        "largest_batch_size": benchmark and benchmark.estimated_largest_batch_size,
    } | {
        f"{line}_largest_batch_size": benchmark and getattr(benchmark, line).largest_batch_size for line in PREDICTIONS
    }
    return {name: optional_metric(value, "sequences", SOURCE, MISSING) for name, value in values.items()}


def tables(benchmark: BatchSizeBenchmark | None) -> list[Table]:
    """Return a row for each doubling."""
    if benchmark is None:
        return []
    rows = []
    for row in benchmark.sizes:
        formula, handout = (predicted(benchmark, row.batch_size, line) for line in PREDICTIONS)
        measured = row.memory_bytes
        errors = [percent_error(size, measured) if measured else None for size in (formula, handout)]
        speed = [row.steps, row.step_seconds, round(row.tokens_per_second)]
        rows.append([row.batch_size, *speed, measured, formula, errors[0], handout, errors[1]])
    columns = ["batch size", "steps", "seconds of a step (median)", "tokens/s", "memory (bytes)"]
    columns += ["by our formula (bytes)", "error (%)", "by the handout's list (bytes)", "its error (%)"]
    return [Table("Steps of every doubling of the batch size, timed alone on the machine", columns, rows)]
