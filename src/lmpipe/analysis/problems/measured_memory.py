"""Predicted beside measured memory, with the errors: parameters, activations by component, peaks of runs."""

from typing import Any, NamedTuple

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Metric, Table, optional_metric
from lmpipe.analysis.problems.measured_compute import (
    MISSING,
    PERCENT,
    RUNS,
    SOURCE,
    Measurement,
    percent_error,
    read_profile,
)
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run
from lmpipe.model.activation_memory import step_bytes, validation_bytes
from lmpipe.training.measurements import StepProfile

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
FIXED = {"parameters": "parameter_bytes", "gradients": "gradient_bytes", "AdamW's moments": "moment_bytes"}
MEGABYTE = 1e6


class RunGroup(NamedTuple):
    """The runs of one shape of model, batch size and precision: memory predicted, and added to the process."""

    runs: list[Run]
    predicted_bytes: int
    added_bytes: int

    @property
    def batch_size(self) -> int:
        """Sequences of a step."""
        return self.runs[0].setting("batch_size")

    @property
    def error(self) -> float:
        """Error of the prediction in percent of the measurement."""
        return percent_error(self.predicted_bytes, self.added_bytes)


def memory(results: Results) -> Measurement:
    """Return predicted and measured memory by component, the gaps of the handout's list, and the peaks of runs."""
    profile = read_profile(results)
    if profile is None:
        return Measurement({"predicted_activations_error": optional_metric(None, PERCENT, SOURCE, MISSING)})
    groups = run_groups(results, profile)
    worst = max(groups, key=lambda group: abs(group.error), default=None)
    facts = {
        "measured_batch_size": profile.batch_size,
        "worst_batch_size": worst and worst.batch_size,
        "overcounted": gap_facts(profile, sign=-1),
        "omitted": gap_facts(profile, sign=1),
    }
    tables = [components_table(profile), gaps_table(profile), *([peaks_table(groups)] if groups else [])]
    figures = [Figure("memory", memory_bars(profile))]
    return Measurement(memory_metrics(profile, worst), facts, tables, figures)


def memory_bars(profile: StepProfile) -> Bars:
    """Return the parts of a step's memory, stacked: by the handout's list, by our formula, and measured."""
    predicted, measured = profile.predicted, profile.measured
    groups = {
        name: [size / MEGABYTE for size in (getattr(predicted, key), getattr(predicted, key), getattr(measured, key))]
        for name, key in FIXED.items()
    }
    activations = [*(getattr(predicted.activations, key) for key in SIZES), measured.saved_bytes]
    groups["activations"] = [size / MEGABYTE for size in activations]
    return Bars("MB", ["handout's list", "our formula", "measured"], groups, stacked=True, horizontal=True)


def components_table(profile: StepProfile) -> Table:
    """Return bytes by component: by the handout's list, by the formula for lmpipe's model, and measured."""
    predicted, measured = profile.predicted, profile.measured
    rows = [
        component_row(name, getattr(predicted, key), getattr(predicted, key), getattr(measured, key))
        for name, key in FIXED.items()
    ]
    values = predicted.activations.activations
    for component, name in COMPONENTS.items():
        handout, formula = (
            sum(getattr(value, key) for value in values if value.component == component) for key in SIZES
        )
        if saved := measured.saved_bytes_by_component.get(component, 0):
            rows.append(component_row(f"activations: {name}", handout, formula, saved))
    sizes = (getattr(predicted.activations, key) for key in SIZES)
    rows.append(component_row("all activations", *sizes, measured.saved_bytes))
    columns = ["part", "handout's list (bytes)", "our formula (bytes)", "measured (bytes)"]
    return Table(
        "Memory of a training step of the study's own model",
        [*columns, "error of the list (%)", "error of our formula (%)"],
        rows,
    )


def component_row(name: str, handout: int, formula: int, measured: int) -> list[Any]:
    """Return the bytes of one component with the errors of both predictions."""
    return [name, handout, formula, measured, percent_error(handout, measured), percent_error(formula, measured)]


def gaps_table(profile: StepProfile) -> Table:
    """Return a row for each value that the handout's list counts or autograd saves, and the reason of the gap."""
    rows = [
        [value.name, *(getattr(value, key) for key in SIZES), value.saved_bytes - value.handout_bytes, value.reason]
        for value in profile.predicted.activations.activations
    ]
    columns = ["value", "handout's list (bytes)", "kept (bytes)", "difference (bytes)", "reason"]
    return Table("Derivation: activations in the handout's list and in our formula", columns, rows)


def gap_facts(profile: StepProfile, sign: int) -> dict[str, JsonValue]:
    """Return the activations that only our formula (sign 1) or only the handout's list (sign -1) counts, by size."""
    values = profile.predicted.activations.activations
    gaps = {value.name: sign * (value.saved_bytes - value.handout_bytes) for value in values}
    names = sorted((name for name in gaps if gaps[name] > 0), key=gaps.get, reverse=True)
    return {"names": names, "bytes": sum(gaps[name] for name in names)}


def run_groups(results: Results, profile: StepProfile) -> list[RunGroup]:
    """Return the groups of runs on the device and with the threads that were measured."""
    groups: dict[str, list[Run]] = {}
    for run in results.runs():
        if (run.summary.device, run.summary.threads) == (profile.device, profile.threads):
            key = repr((run.config.model, run.setting("batch_size"), run.setting("precision")))
            groups.setdefault(key, []).append(run)
    return [group for runs in groups.values() if (group := measure_group(runs)).added_bytes > 0]


def measure_group(runs: list[Run]) -> RunGroup:
    """Return the memory of equal runs: that of a step and of the logits of the validation, and the most they added."""
    model, at_once = runs[0].config.model, min(runs[0].setting("batch_size"), runs[0].summary.micro_batch_size)
    predicted = step_bytes(model, runs[0].setting("precision"), at_once) + validation_bytes(model)
    return RunGroup(
        runs, predicted, max(run.summary.peak_memory_bytes - run.summary.memory_before_bytes for run in runs)
    )


def peaks_table(groups: list[RunGroup]) -> Table:
    """Return a row for each group of runs."""
    rows = [
        [f"{group.runs[0].config.experiment}/{group.runs[0].name}", len(group.runs), group.batch_size,
         group.predicted_bytes, group.added_bytes, group.error]
        for group in groups
    ]  # fmt: skip
    columns = ["first run of its group", "runs", "batch size", "predicted (bytes)", "measured (bytes)", "error (%)"]
    return Table("Memory that runs added to their process: a step and the logits of the validation", columns, rows)


def memory_metrics(profile: StepProfile, worst: RunGroup | None) -> dict[str, Metric]:
    """Return metrics of the activations, and of the runs whose memory is predicted worst."""
    handout, formula = (getattr(profile.predicted.activations, key) for key in SIZES)
    measured, no_run = profile.measured.saved_bytes, "no run on the device that was measured"
    return {
        "saved_activation_bytes": Metric(measured, "bytes", SOURCE),
        "predicted_activation_bytes": Metric(formula, "bytes", SOURCE),
        "predicted_activations_error": Metric(percent_error(formula, measured), PERCENT, SOURCE),
        "handout_activation_bytes": Metric(handout, "bytes", SOURCE),
        "handout_activations_error": Metric(percent_error(handout, measured), PERCENT, SOURCE),
        "worst_predicted_run_bytes": optional_metric(worst and worst.predicted_bytes, "bytes", RUNS, no_run),
        "worst_added_run_bytes": optional_metric(worst and worst.added_bytes, "bytes", RUNS, no_run),
        "largest_run_memory_error": optional_metric(worst and worst.error, PERCENT, RUNS, no_run),
    }
