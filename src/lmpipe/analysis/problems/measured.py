"""Predictions of the accounting beside measurements of this study, with the errors: FLOPs, time and memory."""

from operator import attrgetter
from statistics import fmean
from typing import NamedTuple

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table, optional_metric
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.analysis.runs import Run, group_by
from lmpipe.model.accounting import MODEL_FLOPS_UTILIZATION, count_parameters
from lmpipe.model.activation_memory import step_bytes, validation_bytes
from lmpipe.study.paths import RELATIVE, RUN_SUMMARIES
from lmpipe.training.measurements import BatchSizeBenchmark, StepProfile

SOURCE, TIMED = str(RELATIVE.model_profile), str(RELATIVE.batch_sizes)
NOT_MEASURED = "the study's own model has not been measured"
NOT_TIMED = "no batch size of this model has been timed alone"
PERCENT = "% of the measured value"
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


def percent_error(predicted: float, measured: float) -> float:
    """Return the error of a prediction in percent of the measured value.

    >>> percent_error(110, 100)
    10.0
    """
    return 100 * (predicted - measured) / measured


# --- FLOPs and time ---------------------------------------------------------------------------------------------------


def flops_and_time(results: Results) -> Finding:
    """Return parameters, FLOPs and the time of a step, predicted and measured, as a part of a finding."""
    profile = results.document(StepProfile, SOURCE)
    if profile is None:
        return Finding("missing", {"step_flops_error": Metric(None, PERCENT, SOURCE, missing_reason=NOT_MEASURED)})
    predicted, measured = profile.predicted, profile.measured
    runs_by_shape = {repr(run.config.model): run for run in results.runs()}
    errors = [
        percent_error(count_parameters(run.config.model).total, run.summary.parameters)
        for run in runs_by_shape.values()
    ]
    largest = max(errors, key=abs, default=None)
    metrics = {
        "step_flops_counted": Metric(measured.step_flops, "FLOPs", SOURCE),
        "step_flops_error": Metric(percent_error(predicted.step_flops, measured.step_flops), PERCENT, SOURCE),
        "largest_parameters_error": optional_metric(largest, PERCENT, RUN_SUMMARIES, "no run finished"),
        "matmul_ceiling": Metric(measured.matmul_flops_per_second, "FLOP/s", SOURCE),
    }
    facts = {"assumed_utilization": MODEL_FLOPS_UTILIZATION, "num_shapes": len(errors)}
    metrics |= speed_metrics(profile, *find_speed(results, profile))
    return Finding("answered", metrics, facts=facts, tables=[counts_table(profile)])


def find_speed(results: Results, profile: StepProfile) -> tuple[float | None, str]:
    """Return the tokens per second of a step timed alone, else the mean of the runs, and the source; None if neither.

    Only steps and runs of the model and the batch size that were profiled count.
    """
    timed = results.document(BatchSizeBenchmark, TIMED)
    for row in timed.sizes if timed and timed.model == profile.model else ():
        if row.batch_size == profile.batch_size:
            return row.tokens_per_second, TIMED
    setting = profile.model, profile.batch_size
    runs = [run for run in results.runs() if (run.config.model, run.setting("batch_size")) == setting]
    speeds = [run.summary.tokens_per_second for run in runs if run.summary.tokens_per_second]
    return (fmean(speeds), RUN_SUMMARIES) if speeds else (None, TIMED)


def speed_metrics(profile: StepProfile, tokens_per_second: float | None, source: str) -> dict[str, Metric]:
    """Return speed, model FLOPs utilization, and the time of a step, measured and at the handout's utilization.

    The metrics are undefined if nothing was timed.
    """
    flops, ceiling = profile.measured.step_flops, profile.measured.matmul_flops_per_second
    seconds = tokens_per_second and profile.batch_size * profile.model.context_length / tokens_per_second
    values = {
        "tokens_per_second": (tokens_per_second, "tokens per second"),
        "utilization": (seconds and flops / seconds / ceiling, "share of the fastest matrix multiply"),
        "step_seconds": (seconds, "s"),
        "assumed_step_seconds": (seconds and flops / (MODEL_FLOPS_UTILIZATION * ceiling), "s"),
    }
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


# --- memory -----------------------------------------------------------------------------------------------------------


class RunGroup(NamedTuple):
    """The runs of one shape of model, batch size and precision: memory predicted, and added to the process."""

    runs: list[Run]
    batch_size: int
    predicted_bytes: int
    added_bytes: int

    @property
    def error(self) -> float:
        """Error of the prediction in percent of the measurement."""
        return percent_error(self.predicted_bytes, self.added_bytes)


def memory(results: Results) -> Finding:
    """Return predicted and measured memory by component, the gaps of the handout's list, and the peaks of runs."""
    profile = results.document(StepProfile, SOURCE)
    if profile is None:
        metrics = {"predicted_activations_error": Metric(None, PERCENT, SOURCE, missing_reason=NOT_MEASURED)}
        return Finding("missing", metrics)
    groups = run_groups(results, profile)
    worst = max(groups, key=lambda group: abs(group.error), default=None)
    values = profile.predicted.activations.activations
    gaps = [value.handout_bytes - value.saved_bytes for value in values]
    return Finding(
        "answered",
        memory_metrics(profile, worst),
        facts={
            "measured_batch_size": profile.batch_size,
            "worst_batch_size": worst and worst.batch_size,
            "overcounted": {"bytes": sum(gap for gap in gaps if gap > 0)},
        },
        tables=[components_table(profile), gaps_table(profile), *([peaks_table(groups)] if groups else [])],
        figures=[Figure("memory", memory_bars(profile))],
    )


def memory_bars(profile: StepProfile) -> Bars:
    """Return the parts of a step's memory, stacked: by the handout's list, by our formula, and measured."""
    sides = profile.predicted, profile.predicted, profile.measured
    groups = {name: [getattr(side, key) / MEGABYTE for side in sides] for name, key in FIXED.items()}
    activations = [*(getattr(profile.predicted.activations, key) for key in SIZES), profile.measured.saved_bytes]
    groups["activations"] = [size / MEGABYTE for size in activations]
    return Bars("MB", ["handout's list", "our formula", "measured"], groups, stacked=True, horizontal=True)


def components_table(profile: StepProfile) -> Table:
    """Return bytes by component: by the handout's list, by the formula for lmpipe's model, and measured."""
    predicted, measured = profile.predicted, profile.measured
    sizes = [(name, *[getattr(predicted, key)] * 2, getattr(measured, key)) for name, key in FIXED.items()]
    values = predicted.activations.activations
    for component, name in COMPONENTS.items():
        predictions = (sum(getattr(value, key) for value in values if value.component == component) for key in SIZES)
        if saved := measured.saved_bytes_by_component.get(component, 0):
            sizes.append((f"activations: {name}", *predictions, saved))
    totals = (getattr(predicted.activations, key) for key in SIZES)
    sizes.append(("all activations", *totals, measured.saved_bytes))
    rows = [
        [name, handout, formula, saved, percent_error(handout, saved), percent_error(formula, saved)]
        for name, handout, formula, saved in sizes
    ]
    columns = ["part", "handout's list (bytes)", "our formula (bytes)", "measured (bytes)"]
    columns += ["error of the list (%)", "error of our formula (%)"]
    return Table("Memory of a training step of the study's own model", columns, rows)


def gaps_table(profile: StepProfile) -> Table:
    """Return a row for each value that the handout's list counts or autograd saves, and the reason of the gap."""
    rows = [
        [value.name, *(getattr(value, key) for key in SIZES), value.saved_bytes - value.handout_bytes, value.reason]
        for value in profile.predicted.activations.activations
    ]
    columns = ["value", "handout's list (bytes)", "kept (bytes)", "difference (bytes)", "reason"]
    return Table("Derivation: activations in the handout's list and in our formula", columns, rows)


def run_groups(results: Results, profile: StepProfile) -> list[RunGroup]:
    """Return the groups of equal runs on the device and with the threads that were measured, with the most they added.

    Predicted is the memory of a step and of the logits of the validation.
    """
    executed = profile.device, profile.threads
    alike = [run for run in results.runs() if (run.summary.device, run.summary.threads) == executed]
    settings = attrgetter("config.model", "config.training.batch_size", "config.training.precision")
    groups = []
    for runs in group_by(alike, lambda run: repr(settings(run))).values():
        model, training = runs[0].config.model, runs[0].config.training
        at_once = min(training.batch_size, runs[0].summary.micro_batch_size)
        on_gpu = profile.device != runs[0].summary.environment.hardware.processor
        predicted = step_bytes(model, training.precision, at_once, on_gpu) + validation_bytes(model, on_gpu)
        added = max(run.summary.peak_memory_bytes - run.summary.memory_before_bytes for run in runs)
        groups.append(RunGroup(runs, training.batch_size, predicted, added))
    return [group for group in groups if group.added_bytes > 0]


def peaks_table(groups: list[RunGroup]) -> Table:
    """Return a row for each group of runs."""
    rows = [
        [f"{group.runs[0].config.experiment}/{group.runs[0].name}", len(group.runs), *group[1:], group.error]
        for group in groups
    ]
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
        "worst_predicted_run_bytes": optional_metric(worst and worst.predicted_bytes, "bytes", RUN_SUMMARIES, no_run),
        "worst_added_run_bytes": optional_metric(worst and worst.added_bytes, "bytes", RUN_SUMMARIES, no_run),
        "largest_run_memory_error": optional_metric(worst and worst.error, PERCENT, RUN_SUMMARIES, no_run),
    }


# --- batch sizes timed alone ------------------------------------------------------------------------------------------


def read_benchmark(results: Results, experiment: ExperimentRuns) -> BatchSizeBenchmark | None:
    """Return the batch sizes timed alone; None if their model, precision or device is not that of the runs."""
    benchmark = results.document(BatchSizeBenchmark, TIMED)
    setting = benchmark and (benchmark.model, benchmark.precision, benchmark.device)
    settings = [(run.config.model, run.setting("precision"), run.summary.device) for run in experiment.runs]
    return benchmark if all(run_setting == setting for run_setting in settings) else None


def batch_size_limits(benchmark: BatchSizeBenchmark | None) -> Finding:
    """Return the largest batch that fits, measured and predicted, and a row for each doubling."""
    names = ("fastest_batch_size", "largest_tried_batch_size", "largest_batch_size")
    names += ("predicted_largest_batch_size", "handout_largest_batch_size")
    if benchmark is None:
        metrics = {name: Metric(None, "sequences", TIMED, missing_reason=NOT_TIMED) for name in names}
        return Finding("missing", metrics, facts={"batch_sizes": None})
    largest, estimated = benchmark.largest_batch_size, benchmark.estimated_largest_batch_size
    by_formula, by_handout = (line.largest_batch_size for line in (benchmark.predicted, benchmark.handout))
    fastest = max(benchmark.sizes, key=lambda row: row.tokens_per_second, default=None)  # none fits if memory is short
    sizes = (fastest and fastest.batch_size, largest, estimated, by_formula, by_handout)
    limits = {
        "limit_bytes": benchmark.memory_limit_bytes,
        "largest": largest,
        "estimated": estimated,
        "by_formula": by_formula,
    }
    return Finding(
        "answered",
        {name: optional_metric(size, "sequences", TIMED, NOT_TIMED) for name, size in zip(names, sizes, strict=True)},
        facts={"batch_sizes": limits},
        tables=[doublings_table(benchmark)],
    )


def doublings_table(benchmark: BatchSizeBenchmark) -> Table:
    """Return speed and memory of each batch size, measured and predicted."""
    rows = []
    for row in benchmark.sizes:
        measured, cells = row.memory_bytes, []
        for line in (benchmark.predicted, benchmark.handout):
            predicted = line.fixed_bytes + line.bytes_per_sequence * row.batch_size
            cells += [predicted, percent_error(predicted, measured) if measured else None]
        speed = [row.steps, row.step_seconds, round(row.tokens_per_second)]
        rows.append([row.batch_size, *speed, measured, *cells])
    columns = ["batch size", "steps", "seconds of a step (median)", "tokens/s", "memory (bytes)"]
    columns += ["by our formula (bytes)", "error (%)", "by the handout's list (bytes)", "its error (%)"]
    return Table("Steps of every doubling of the batch size, timed alone on the machine", columns, rows)
