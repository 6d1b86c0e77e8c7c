"""Which batch sizes fit on the machine: steps of every doubling, timed alone, with the memory they take."""

from typing import Any

from lmpipe.problem_shapes import BATCH_SIZES
from lmpipe.problems import Figure, Table, training
from lmpipe.problems.measured import error, step_bytes
from lmpipe.problems.wording import bytes_text, command_for, count
from lmpipe.results import ExperimentRuns, Results
from lmpipe.settings import ModelConfig

SOURCE = "batch_sizes.json"
ENDS = {
    "memory": "the next would not fit",
    "run": "the next would be larger than a whole run",
    "time": "the measurement's time was over",
}
MISSING = "no batch size of this model has been timed alone"

BatchSizes = dict[str, Any]


def read(results: Results, experiment: ExperimentRuns) -> BatchSizes | None:
    """The batch sizes timed alone; None where they are not of the runs' own model, precision and device."""
    timed = results.json(SOURCE, BATCH_SIZES)
    if timed is None:
        return None
    kinds = [(run.config["model"], run.setting("precision"), run.summary["device"]) for run in experiment.runs]
    return timed if all(kind == (timed["model"], timed["precision"], timed["device"]) for kind in kinds) else None


def speeds(timed: BatchSizes | None) -> dict[int, float]:
    """Tokens per second of each batch size that was timed alone."""
    return {row["batch_size"]: row["tokens_per_second"] for row in timed["sizes"]} if timed else {}


def sentences(results: Results, timed: BatchSizes | None) -> list[str]:
    """The largest batch that fits, as far as it was tried, and what the accounting says of it."""
    if timed is None and (results.folder / SOURCE).exists():
        return ["The batch sizes timed alone are of another model, precision or device than these runs."]
    if timed is None:
        return [f"No batch size has been timed alone; run {command_for(results.folder / SOURCE)}."]
    room = bytes_text(timed["memory_limit_bytes"])
    predicted = timed["predicted"]["largest_batch_size"]
    if not timed["sizes"]:
        return [f"Not one sequence of this model fits into the {room} that the device has left for it."]
    largest, estimated = timed["largest_batch_size"], timed["estimated_largest_batch_size"]
    fits = f"{count(largest)} sequences are the largest doubling that was tried, since {ENDS[timed['stopped_by']]}"
    return [
        f"As to what fits, {fits}; at the memory that the last doublings took, about {count(estimated)} would "
        f"fit into the {room} that the device has left, and by the handout's accounting {count(predicted)}."
    ]


def figures(timed: BatchSizes | None) -> dict[str, Figure]:
    """The largest batch that fits."""
    told = timed or {"predicted": {}}
    values = {
        "largest_tried_batch_size": told.get("largest_batch_size"),
        "largest_batch_size": told.get("estimated_largest_batch_size"),
        "predicted_largest_batch_size": told["predicted"].get("largest_batch_size"),
    }
    reason = "" if timed else MISSING
    return {name: training.known(value, "sequences", SOURCE, reason) for name, value in values.items()}


def tables(timed: BatchSizes | None) -> list[Table]:
    """A row for each doubling."""
    if timed is None:
        return []
    model, rows = ModelConfig(**timed["model"]), []
    for row in timed["sizes"]:
        ours, real = step_bytes(model, timed["precision"], row["batch_size"]), row["memory_bytes"]
        rows.append(
            [
                row["batch_size"],
                row["steps"],
                row["step_seconds"],
                round(row["tokens_per_second"]),
                real,
                ours,
                error(ours, real) if real else None,
                row["predicted_memory_bytes"],
            ]
        )
    columns = ["batch size", "steps", "seconds of a step (median)", "tokens/s", "memory (bytes)"]
    columns += ["by our formula (bytes)", "error (%)", "by the handout's list (bytes)"]
    threads = f"{timed['threads']} thread{'s' if timed['threads'] > 1 else ''}"
    caption = (
        f"Every doubling of the batch size, timed alone on {timed['device']} ({threads}, {timed['precision']}); memory "
        "beyond what the process held before, the code that a first step loads included."
    )
    return [Table(caption, columns, rows)]
