"""Batch sizes that fit on the machine: time and memory of steps of every doubling, measured alone."""

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
# What predicts the memory of a step: our formula of what lmpipe's model holds, and the handout's list.
PREDICTIONS = ("predicted", "handout")
MISSING = "no batch size of this model has been timed alone"


def read(results: Results, experiment: ExperimentRuns) -> BatchSizeBenchmark | None:
    """Return the batch sizes timed alone; None where they are not of the runs' own model, precision and device."""
    timed = results.document(BatchSizeBenchmark, SOURCE)
    if timed is None:
        return None
    kinds = [(run.config.model, run.setting("precision"), run.summary.device) for run in experiment.runs]
    return timed if all(kind == (timed.model, timed.precision, timed.device) for kind in kinds) else None


def speeds(timed: BatchSizeBenchmark | None) -> dict[int, float]:
    """Tokens per second of each batch size that was timed alone."""
    return {row.batch_size: row.tokens_per_second for row in timed.sizes} if timed else {}


def sentences(results: Results, timed: BatchSizeBenchmark | None) -> list[str]:
    """Return the largest batch that fits, as far as it was tried, and what the accounting says of it."""
    if timed is None and (results.folder / SOURCE).exists():
        return ["The batch sizes timed alone are of another model, precision or device than these runs."]
    if timed is None:
        return [f"No batch size has been timed alone; run {format_command(results.folder / SOURCE)}."]
    room = format_bytes(timed.memory_limit_bytes)
    if not timed.sizes:
        return [f"Not one sequence of this model fits into the {room} that the device has left for it."]
    largest, estimated = timed.largest_batch_size, timed.estimated_largest_batch_size
    ours, handout = (format_int(getattr(timed, line).largest_batch_size) for line in PREDICTIONS)
    reason = STOP_REASONS[timed.stop_reason]
    fits = f"{format_int(largest)} sequences are the largest doubling that was tried, since {reason}"
    return [
        f"As to what fits, {fits}; at the memory that the last doublings took, about {format_int(estimated)} would "
        f"fit into the {room} that the device has left, by our formula of what a step holds {ours}, and by the "
        f"handout's accounting {handout}.",
        error_sentence(timed),
    ]


def error_sentence(timed: BatchSizeBenchmark) -> str:
    """Describe the error of our formula for the memory of these steps."""
    errors = [
        percent_error(predicted(timed, row.batch_size), row.memory_bytes) for row in timed.sizes if row.memory_bytes
    ]
    if not errors:
        return "The memory that a step adds could not be told from what the process held before."
    low, high = (format_signed_percent(value) for value in (min(errors), max(errors)))
    spread = low if low == high else f"{low} to {high}"
    return (
        f"Of the memory that these steps added to the process, our formula is off by {spread}: it counts tensors, and "
        "neither the room that the allocator keeps between them nor the buffers of the matrix multiplies."
    )


def predicted(timed: BatchSizeBenchmark, batch_size: int, line: str = "predicted") -> int:
    """Return the memory of a step by our formula, or by the handout's list."""
    return getattr(timed, line).fixed_bytes + getattr(timed, line).bytes_per_sequence * batch_size


def metrics(timed: BatchSizeBenchmark | None) -> dict[str, Metric]:
    """Return the largest batch that fits."""
    values = {
        "largest_tried_batch_size": timed and timed.largest_batch_size,
        "largest_batch_size": timed and timed.estimated_largest_batch_size,
    } | {f"{line}_largest_batch_size": timed and getattr(timed, line).largest_batch_size for line in PREDICTIONS}
    reason = "" if timed else MISSING
    return {name: run_summary.metric(value, "sequences", SOURCE, reason) for name, value in values.items()}


def tables(timed: BatchSizeBenchmark | None) -> list[Table]:
    """Return a row for each doubling."""
    if timed is None:
        return []
    rows = []
    for row in timed.sizes:
        ours, listed = (predicted(timed, row.batch_size, line) for line in PREDICTIONS)
        real = row.memory_bytes
        errors = [percent_error(size, real) if real else None for size in (ours, listed)]
        speed = [row.steps, row.step_seconds, round(row.tokens_per_second)]
        rows.append([row.batch_size, *speed, real, ours, errors[0], listed, errors[1]])
    columns = ["batch size", "steps", "seconds of a step (median)", "tokens/s", "memory (bytes)"]
    columns += ["by our formula (bytes)", "error (%)", "by the handout's list (bytes)", "its error (%)"]
    threads = f"{timed.threads} thread{'s' if timed.threads > 1 else ''}"
    caption = (
        f"Every doubling of the batch size, timed alone on {timed.device} ({threads}, {timed.precision}); memory "
        "is what the model, its optimizer and its steps add to a process that has loaded the code and nothing else."
    )
    return [Table(caption, columns, rows)]
