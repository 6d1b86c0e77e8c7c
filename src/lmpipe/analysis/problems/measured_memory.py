"""Predicted beside measured memory, with the errors: parameters, activations by component, peaks of runs."""

from typing import Any

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.problems.measured_compute import (
    MISSING,
    PERCENT,
    RUNS,
    SOURCE,
    Measurement,
    RunGroup,
    StepProfile,
    describe_error,
    format_signed_percent,
    missing_sentence,
    percent_error,
    read_profile,
    run_groups,
)
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_bytes, format_int, format_percent, join_words

# Bytes by the handout's list, and bytes that autograd saves.
SIZES = ("handout_bytes", "saved_bytes")
COMPONENTS = {
    "embedding": "token embedding",
    "norms": "RMSNorms",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "lm_head": "output head",
    "loss": "loss",
}


def memory(results: Results) -> Measurement:
    """Return predicted and measured memory by component, the gaps of the handout's list, and the peaks of runs."""
    profile = read_profile(results)
    if profile is None:
        unknown = run_summary.metric(None, PERCENT, SOURCE, MISSING)
        return Measurement({"predicted_activations_error": unknown}, [missing_sentence(results)], [])
    groups = list(run_groups(results, profile))
    sentences = [activations_sentence(profile), *gap_sentences(profile), *peak_sentences(profile, groups)]
    tables = [components_table(profile), gaps_table(profile), *([peaks_table(groups)] if groups else [])]
    return Measurement(memory_metrics(profile, groups), sentences, tables)


def components_table(profile: StepProfile) -> Table:
    """Return bytes by component: by the handout's list, by the formula for lmpipe's model, and measured."""
    predicted, measured = profile.predicted, profile.measured
    keys = {"parameters": "parameter_bytes", "gradients": "gradient_bytes", "AdamW's moments": "moment_bytes"}
    rows: list[list[Any]] = []
    for name, key in keys.items():
        rows.append(component_row(name, getattr(predicted, key), getattr(predicted, key), getattr(measured, key)))
    values = predicted.activations.activations
    for component, name in COMPONENTS.items():
        handout, formula = (
            sum(getattr(value, key) for value in values if value.component == component) for key in SIZES
        )
        if saved := measured.saved_bytes_by_component.get(component, 0):
            rows.append(component_row(f"activations: {name}", handout, formula, saved))
    sizes = (getattr(predicted.activations, key) for key in SIZES)
    rows.append(component_row("all activations", *sizes, measured.saved_bytes))
    columns = ["part", "the handout's list (bytes)", "our formula (bytes)", "measured (bytes)"]
    return Table(
        f"Memory of a training step by part: {describe_setting(profile)}; activations as autograd saves them.",
        [*columns, "error of the list (%)", "error of our formula (%)"],
        rows,
    )


def component_row(name: str, handout: int, formula: int, measured: int) -> list[Any]:
    """Return the bytes of one component with the errors of both predictions."""
    return [name, handout, formula, measured, percent_error(handout, measured), percent_error(formula, measured)]


def describe_setting(profile: StepProfile) -> str:
    """Describe the measured setting."""
    return f"the study's own model, {format_int(profile.batch_size)} sequences, {profile.precision}"


def gaps_table(profile: StepProfile) -> Table:
    """Return a row for each value that the handout's list counts or autograd saves, and the reason of the gap."""
    rows = [
        [value.name, *(getattr(value, key) for key in SIZES), value.saved_bytes - value.handout_bytes, value.reason]
        for value in profile.predicted.activations.activations
    ]
    columns = ["value", "the handout's list (bytes)", "kept (bytes)", "difference (bytes)", "reason"]
    return Table(
        f"What the handout's list of activations counts, and what is kept: {describe_setting(profile)}.", columns, rows
    )


def activations_sentence(profile: StepProfile) -> str:
    """Compare both predictions with the bytes that autograd saves."""
    handout, formula = (getattr(profile.predicted.activations, key) for key in SIZES)
    measured = profile.measured.saved_bytes
    return (
        f"Measured on the study's own model ({format_int(profile.batch_size)} sequences, "
        f"{profile.precision}), autograd "
        f"saves {format_int(measured)} bytes of activations for the backward pass; our formula "
        "of what lmpipe's model keeps "
        f"gives {format_int(formula)} ({describe_error(formula, measured)}), the handout's simplified list "
        f"{format_int(handout)} ({describe_error(handout, measured)})."
    )


def gap_sentences(profile: StepProfile) -> list[str]:
    """List what the handout counts but torch does not save, and what it leaves out, by size."""
    values = profile.predicted.activations.activations
    gaps = {value.name: value.saved_bytes - value.handout_bytes for value in values}
    over = sorted((name for name in gaps if gaps[name] < 0), key=lambda name: gaps[name])
    under = sorted((name for name in gaps if gaps[name] > 0), key=lambda name: -gaps[name])
    sentences = [
        f"{opening} {format_bytes(sum(abs(gaps[name]) for name in names))}: "
        f"{join_words([f'{name} ({format_bytes(abs(gaps[name]))})' for name in names])}"
        for opening, names in (("The list counts what is not kept,", over), ("It leaves out what is kept,", under))
        if names
    ]
    return [f"{sentence}." for sentence in sentences]


def peaks_table(groups: list[RunGroup]) -> Table:
    """Return a row for each group of runs."""
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


def peak_sentences(profile: StepProfile, groups: list[RunGroup]) -> list[str]:
    """Describe the error of the predicted peaks of whole runs."""
    if not groups:
        return []
    errors = [percent_error(group.predicted_peak, group.peak) for group in groups]
    low, high = (format_signed_percent(value) for value in (min(errors), max(errors)))
    spread = low if low == high else f"{low} to {high}"
    share = format_percent(profile.measured.process_bytes / max(group.peak for group in groups))
    return [
        f"The peak memory of whole runs is predicted with an error of {spread}; of the largest, {share} is the "
        f"process itself ({format_bytes(profile.measured.process_bytes)} before there is this model). "
        "The prediction does not count the room that the allocator keeps between tensors."
    ]


def memory_metrics(profile: StepProfile, groups: list[RunGroup]) -> dict[str, Metric]:
    """Metrics of the activations and of the peaks."""
    handout, formula = (getattr(profile.predicted.activations, key) for key in SIZES)
    measured = profile.measured.saved_bytes
    largest = max((percent_error(group.predicted_peak, group.peak) for group in groups), key=abs, default=None)
    no_run = "no run on the device that was measured"
    return {
        "saved_activation_bytes": Metric(measured, "bytes", SOURCE),
        "predicted_activation_bytes": Metric(formula, "bytes", SOURCE),
        "predicted_activations_error": Metric(percent_error(formula, measured), PERCENT, SOURCE),
        "handout_activation_bytes": Metric(handout, "bytes", SOURCE),
        "handout_activations_error": Metric(percent_error(handout, measured), PERCENT, SOURCE),
        "largest_peak_memory_error": run_summary.metric(largest, PERCENT, RUNS, no_run),
    }
