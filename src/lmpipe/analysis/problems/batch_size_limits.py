"""Batch sizes that fit on the machine: time and memory of steps of every doubling, measured on an idle machine."""

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.measured_compute import format_signed_percent, percent_error
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.io.formatting import format_bytes, format_command, format_int
from lmpipe.training.measurements import BatchSizeBenchmark

SOURCE = "batch_sizes.json"
STOP_REASONS = {
    "memory": "the next would not fit",
    "run": "the next would be larger than a whole run",
    "time": "the measurement's time was over",
}
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


def sentences(results: Results, benchmark: BatchSizeBenchmark | None) -> list[str]:
    """Describe the largest batch that fits, measured and by the accounting."""
    if benchmark is None and (results.folder / SOURCE).exists():
        return ["The batch sizes timed alone are of another model, precision or device than these runs."]
    if benchmark is None:
        return [f"No batch size has been timed alone; run {format_command(results.folder / SOURCE)}."]
    room = format_bytes(benchmark.memory_limit_bytes)
    if not benchmark.sizes:
        return [f"Not one sequence of this model fits into the {room} that the device has left for it."]
    largest, estimated = benchmark.largest_batch_size, benchmark.estimated_largest_batch_size
    formula, handout = (format_int(getattr(benchmark, line).largest_batch_size) for line in PREDICTIONS)
    reason = STOP_REASONS[benchmark.stop_reason]
    fits = f"{format_int(largest)} sequences are the largest doubling that was tried, since {reason}"
    return [
        f"As to what fits, {fits}; at the memory that the last doublings took, about {format_int(estimated)} would "
        f"fit into the {room} that the device has left, by our formula of what a step holds {formula}, and by the "
        f"handout's accounting {handout}.",
        error_sentence(benchmark),
    ]


def error_sentence(benchmark: BatchSizeBenchmark) -> str:
    """Describe the error of our formula for the memory of these steps."""
    errors = [
        percent_error(predicted(benchmark, row.batch_size), row.memory_bytes)
        for row in benchmark.sizes
        if row.memory_bytes
    ]
    if not errors:
        return "The memory that a step adds could not be told from what the process held before."
    low, high = (format_signed_percent(value) for value in (min(errors), max(errors)))
    spread = low if low == high else f"{low} to {high}"
    return (
        f"Of the memory that these steps added to the process, our formula is off by {spread}: it counts tensors, and "
        "neither the room that the allocator keeps between them nor the buffers of the matrix multiplies."
    )


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
    reason = "" if benchmark else MISSING
    return {name: run_summary.metric(value, "sequences", SOURCE, reason) for name, value in values.items()}


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
    threads = f"{benchmark.threads} thread{'s' if benchmark.threads > 1 else ''}"
    caption = (
        f"Every doubling of the batch size, timed alone on {benchmark.device} ({threads}, {benchmark.precision}); "
        "memory is what the model, its optimizer and its steps add to a process that has loaded the code and "
        "nothing else."
    )
    return [Table(caption, columns, rows)]
