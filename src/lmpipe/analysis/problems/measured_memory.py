"""The accounting beside what this study measured, with the errors: memory by part, activations, peaks of runs."""

from typing import Any

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.measured_compute import (
    MISSING,
    PERCENT,
    RUNS,
    SOURCE,
    FindingPart,
    RunGroup,
    StepProfile,
    describe_error,
    format_signed_percent,
    missing_sentence,
    percent_error,
    read,
    run_groups,
)
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_bytes, format_int, format_percent, join_words

# What the handout's list says, and what is kept.
SIZES = ("handout_bytes", "saved_bytes")
PART_NAMES = {
    "embedding": "token embedding",
    "norms": "RMSNorms",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "lm_head": "output head",
    "loss": "loss",
}


def memory(results: Results) -> FindingPart:
    """Memory by part, predicted and measured; where the handout's list differs from what is kept; peaks of runs."""
    found = read(results)
    if found is None:
        unknown = run_summary.metric(None, PERCENT, SOURCE, MISSING)
        return FindingPart({"kept_activations_error": unknown}, [missing_sentence(results)], [])
    groups = list(run_groups(results, found))
    sentences = [activations_sentence(found), *gap_sentences(found), *peak_sentences(found, groups)]
    tables = [parts_table(found), gaps_table(found), *([peaks_table(groups)] if groups else [])]
    return FindingPart(memory_metrics(found, groups), sentences, tables)


def parts_table(found: StepProfile) -> Table:
    """Bytes by part, with the handout's list beside ours."""
    predicted, measured = found.predicted, found.measured
    held = {"parameters": "parameter_bytes", "gradients": "gradient_bytes", "AdamW's moments": "moment_bytes"}
    rows: list[list[Any]] = []
    for name, key in held.items():
        size, real = getattr(predicted, key), getattr(measured, key)
        rows.append([name, size, size, real, percent_error(size, real), percent_error(size, real)])
    values = predicted.activations.activations
    for part, name in PART_NAMES.items():
        handout, ours = (sum(getattr(value, key) for value in values if value.part == part) for key in SIZES)
        if real := measured.saved_bytes_by_part.get(part, 0):
            rows.append(
                [f"activations: {name}", handout, ours, real, percent_error(handout, real), percent_error(ours, real)]
            )
    handout, ours, real = (*(getattr(predicted.activations, key) for key in SIZES), measured.saved_bytes)
    rows.append(["all activations", handout, ours, real, percent_error(handout, real), percent_error(ours, real)])
    columns = ["part", "the handout's list (bytes)", "our formula (bytes)", "measured (bytes)"]
    return Table(
        f"Memory of a training step by part: {setting_words(found)}; activations as autograd saves them.",
        [*columns, "error of the list (%)", "error of our formula (%)"],
        rows,
    )


def setting_words(found: StepProfile) -> str:
    """Describe the measured setting."""
    return f"the study's own model, {format_int(found.batch_size)} sequences, {found.precision}"


def gaps_table(found: StepProfile) -> Table:
    """Every value that the handout's list counts or that is kept, and why they differ."""
    rows = [
        [value.name, *(getattr(value, key) for key in SIZES), value.saved_bytes - value.handout_bytes, value.reason]
        for value in found.predicted.activations.activations
    ]
    columns = ["value", "the handout's list (bytes)", "kept (bytes)", "difference (bytes)", "reason"]
    return Table(
        f"What the handout's list of activations counts, and what is kept: {setting_words(found)}.", columns, rows
    )


def activations_sentence(found: StepProfile) -> str:
    """Compare both predictions with the bytes that autograd saves."""
    predicted, real = found.predicted.activations, found.measured.saved_bytes
    handout, ours = (getattr(predicted, key) for key in SIZES)
    return (
        f"Measured on the study's own model ({format_int(found.batch_size)} sequences, "
        f"{found.precision}), autograd "
        f"saves {format_int(real)} bytes of activations for the backward pass; our formula "
        "of what lmpipe's model keeps "
        f"gives {format_int(ours)} ({describe_error(ours, real)}), the handout's simplified list {format_int(handout)} "
        f"({describe_error(handout, real)})."
    )


def gap_sentences(found: StepProfile) -> list[str]:
    """List what the handout counts but torch does not save, and what it leaves out, by size."""
    values = found.predicted.activations.activations
    gaps = {value.name: value.saved_bytes - value.handout_bytes for value in values}
    over = sorted((name for name in gaps if gaps[name] < 0), key=lambda name: gaps[name])
    under = sorted((name for name in gaps if gaps[name] > 0), key=lambda name: -gaps[name])
    told = [
        f"{words} {format_bytes(sum(abs(gaps[name]) for name in names))}: "
        f"{join_words([f'{name} ({format_bytes(abs(gaps[name]))})' for name in names])}"
        for words, names in (("The list counts what is not kept,", over), ("It leaves out what is kept,", under))
        if names
    ]
    return [f"{sentence}." for sentence in told]


def peaks_table(groups: list[RunGroup]) -> Table:
    """Return a row for each group of run."""
    rows = [
        [
            group.name,
            len(group.runs),
            group.batch_size,
            group.predicted_peak - group.process,
            group.predicted_peak,
            group.peak,
            percent_error(group.predicted_peak, group.peak),
        ]
        for group in groups
    ]
    columns = [
        "first run of its group",
        "runs",
        "batch size",
        "of step and validation (bytes)",
        "predicted peak (bytes)",
    ]
    return Table(
        "The most memory that a run's process held: that of a process without a model, a step's by our formula (16 "
        "bytes a parameter, the activations kept, of a part of the batch where it is computed in parts, and the "
        "gradients at the widest place of the backward pass), and the logits of the validation.",
        [*columns, "measured peak (bytes)", "error (%)"],
        rows,
    )


def peak_sentences(found: StepProfile, groups: list[RunGroup]) -> list[str]:
    """Describe the error of the predicted peaks of whole runs."""
    if not groups:
        return []
    errors = [percent_error(group.predicted_peak, group.peak) for group in groups]
    low, high = (format_signed_percent(value) for value in (min(errors), max(errors)))
    spread = low if low == high else f"{low} to {high}"
    share = format_percent(found.measured.process_bytes / max(group.peak for group in groups))
    return [
        f"The peak memory of whole runs is predicted with an error of {spread}; of the largest, {share} is the "
        f"process itself ({format_bytes(found.measured.process_bytes)} before there is this model). "
        "The prediction does not count the room that the allocator keeps between tensors."
    ]


def memory_metrics(found: StepProfile, groups: list[RunGroup]) -> dict[str, Metric]:
    """Metrics of the activations and of the peaks."""
    predicted, real = found.predicted.activations, found.measured.saved_bytes
    handout, ours = (getattr(predicted, key) for key in SIZES)
    largest = max((percent_error(group.predicted_peak, group.peak) for group in groups), key=abs, default=None)
    no_run = "no run on the device that was measured"
    return {
        "saved_activation_bytes": Metric(real, "bytes", SOURCE),
        "kept_activation_bytes": Metric(ours, "bytes", SOURCE),
        "kept_activations_error": Metric(percent_error(ours, real), PERCENT, SOURCE),
        "handout_activation_bytes": Metric(handout, "bytes", SOURCE),
        "handout_activations_error": Metric(percent_error(handout, real), PERCENT, SOURCE),
        "largest_peak_memory_error": run_summary.metric(largest, PERCENT, RUNS, no_run),
    }
