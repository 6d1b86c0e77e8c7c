"""Predictions of the accounting beside measurements of this study, with the errors: parameters, FLOPs and time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from lmpipe.analysis.finding import Figure, Metric, Table, optional_metric
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run
from lmpipe.io.formatting import format_percent
from lmpipe.model.accounting import MODEL_FLOPS_UTILIZATION, count_parameters, forward_flops
from lmpipe.model.activation_memory import step_bytes, validation_bytes
from lmpipe.study.settings import ModelConfig
from lmpipe.training.measurements import BatchSizeBenchmark, StepProfile

SOURCE, TIMED = "model_measurements.json", "batch_sizes.json"
RUNS = "runs/*/*/seed*/summary.json"
MISSING = "the study's own model has not been measured"
PERCENT = "% of the measured value"


def percent_error(predicted: float, measured: float) -> float:
    """Return the error of a prediction in percent of the measured value.

    >>> percent_error(110, 100)
    10.0
    """
    return 100 * (predicted - measured) / measured


@dataclass(frozen=True)
class Measurement:
    """Metrics, facts, tables and figures for a problem's finding."""

    metrics: dict[str, Metric]
    facts: dict[str, JsonValue] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def read_profile(results: Results) -> StepProfile | None:
    """Return the measurement of the study's own model; None if there is none."""
    return results.document(StepProfile, SOURCE)


# --- parameters, FLOPs and time --------------------------------------------------------------------------------------


def flops_and_time(results: Results) -> Measurement:
    """Return parameters, FLOPs and the time of a step, predicted and measured."""
    profile = read_profile(results)
    if profile is None:
        return Measurement({"step_flops_error": optional_metric(None, PERCENT, SOURCE, MISSING)})
    speed, groups = Throughput.of(results, profile), list(run_groups(results, profile))
    table = Table(
        "Predicted and measured training step of the study's own model",
        ["quantity", "predicted", "measured", "error (%)", "method"],
        [*counted_rows(profile), *(speed.rows() if speed else [])],
    )
    shares = sorted(group.utilization for group in groups if group.utilization is not None)
    facts = {
        "assumed_utilization": MODEL_FLOPS_UTILIZATION,
        "threads": profile.threads,
        "is_timed_alone": speed is not None and speed.source == TIMED,
        "run_utilizations": shares,
        "num_shapes": len(parameter_errors(results)),
    }
    metrics = counted_metrics(results, profile) | speed_metrics(profile, speed)
    return Measurement(metrics, facts, [table, *([runs_table(groups)] if shares else [])])


def counted_rows(profile: StepProfile) -> list[list[Any]]:
    """Return a row for each quantity that can be counted exactly."""
    predicted, measured = profile.predicted, profile.measured
    labels = {
        "parameters": ("parameters", "counted on the model"),
        "forward_flops": ("FLOPs of the forward pass", "torch's FlopCounterMode on the meta device"),
        "step_flops": ("FLOPs of a whole step (3 × forward)", "the same, forwards and backwards"),
    }
    return [
        [label, expected, actual, percent_error(expected, actual), method]
        for key, (label, method) in labels.items()
        for expected, actual in [(getattr(predicted, key), getattr(measured, key))]
    ]


def parameter_errors(results: Results) -> list[float]:
    """Return the error of the predicted parameters of every shape of model that was trained, in percent."""
    runs_by_shape = {repr(run.config.model): run for run in results.runs()}
    return [
        percent_error(count_parameters(run.config.model).total, run.summary.parameters)
        for run in runs_by_shape.values()
    ]


def counted_metrics(results: Results, profile: StepProfile) -> dict[str, Metric]:
    """Return the errors of the quantities that can be counted exactly."""
    predicted, measured = profile.predicted, profile.measured
    largest = max(parameter_errors(results), key=abs, default=None)
    return {
        "step_flops_counted": Metric(measured.step_flops, "FLOPs", SOURCE),
        "step_flops_error": Metric(percent_error(predicted.step_flops, measured.step_flops), PERCENT, SOURCE),
        "largest_parameters_error": optional_metric(largest, PERCENT, RUNS, "no run finished"),
    }


@dataclass(frozen=True)
class Throughput:
    """Training speed of the study's own model at the measured batch size.

    `tokens_per_second` is from a step timed alone on the machine, or the mean of the study's runs.
    """

    tokens_per_second: float
    flops_per_token: float
    ceiling: float
    tokens: int
    source: str

    @classmethod
    def of(cls, results: Results, profile: StepProfile) -> "Throughput | None":
        """Return the speed of the measured model; None if neither a step nor a run of it was timed."""
        timed = results.document(BatchSizeBenchmark, TIMED)
        sizes = timed.sizes if timed and timed.model == profile.model else []
        speeds, source = [row.tokens_per_second for row in sizes if row.batch_size == profile.batch_size], TIMED
        if not speeds:
            source = RUNS
            speeds = [
                run.summary.tokens_per_second
                for run in results.runs()
                if (run.config.model, run.setting("batch_size")) == (profile.model, profile.batch_size)
                and run.summary.tokens_per_second
            ]
        if not speeds:
            return None
        tokens = profile.batch_size * profile.model.context_length
        flops, ceiling = profile.measured.step_flops, profile.measured.matmul_flops_per_second
        return cls(sum(speeds) / len(speeds), flops / tokens, ceiling, tokens, source)

    @property
    def utilization(self) -> float:
        """Model FLOPs utilization: the share of the ceiling that the model's own multiplies use."""
        return self.tokens_per_second * self.flops_per_token / self.ceiling

    @property
    def predicted_seconds(self) -> float:
        """A step's time at the utilization that the handout assumes."""
        return self.tokens * self.flops_per_token / (MODEL_FLOPS_UTILIZATION * self.ceiling)

    @property
    def seconds(self) -> float:
        """A step's measured time."""
        return self.tokens / self.tokens_per_second

    def rows(self) -> list[list[Any]]:
        """Return rows of the table of predictions."""
        method = "step timed alone on the machine" if self.source == TIMED else "mean of runs that shared the machine"
        time = [self.predicted_seconds, self.seconds]
        rates = [self.tokens / self.predicted_seconds, self.tokens_per_second]
        shares = [100 * MODEL_FLOPS_UTILIZATION, 100 * self.utilization]
        return [
            [f"seconds of a step, at {format_percent(MODEL_FLOPS_UTILIZATION)} of the ceiling", *time,
             percent_error(*time), method],
            ["tokens per second", *rates, percent_error(*rates), method],
            ["share of the ceiling, MFU (%)", *shares, percent_error(*shares), "FLOPs × speed ÷ ceiling"],
        ]  # fmt: skip


def speed_metrics(profile: StepProfile, speed: Throughput | None) -> dict[str, Metric]:
    """Return the metrics of time and speed; they are undefined if nothing was timed."""
    reason = "no step or run of this model was timed"
    values = {
        "tokens_per_second": (speed and speed.tokens_per_second, "tokens per second"),
        "utilization": (speed and speed.utilization, "share of the ceiling"),
        "step_seconds": (speed and speed.seconds, "s"),
        "step_seconds_error": (speed and percent_error(speed.predicted_seconds, speed.seconds), PERCENT),
    }
    source = speed.source if speed else TIMED
    return {
        "matmul_ceiling": Metric(profile.measured.matmul_flops_per_second, "FLOP/s", SOURCE),
        **{name: optional_metric(value, unit, source, reason) for name, (value, unit) in values.items()},
    }


@dataclass(frozen=True)
class RunGroup:
    """The runs of one shape of model, batch size and precision on the device that was measured.

    `ceiling` is the device's FLOP/s.
    """

    runs: list[Run]
    ceiling: float

    @property
    def model(self) -> ModelConfig:
        """The shape of the model."""
        return self.runs[0].config.model

    @property
    def batch_size(self) -> int:
        """Sequences of a step."""
        return self.runs[0].setting("batch_size")

    @property
    def name(self) -> str:
        """The first run of the group."""
        return f"{self.runs[0].config.experiment}/{self.runs[0].name}"

    @property
    def predicted_bytes(self) -> int:
        """The most memory that a run should add to its process."""
        at_once = min(self.batch_size, self.runs[0].summary.micro_batch_size)
        return step_bytes(self.model, self.runs[0].setting("precision"), at_once) + validation_bytes(self.model)

    @property
    def added_bytes(self) -> int:
        """The most memory that a run added to what its process held before it had the model."""
        return max(run.summary.peak_memory_bytes - run.summary.memory_before_bytes for run in self.runs)

    @property
    def memory_error(self) -> float:
        """Error of the predicted memory in percent of what the runs added."""
        return percent_error(self.predicted_bytes, self.added_bytes)

    @property
    def flops(self) -> int:
        """Matrix-multiply FLOPs of all their training steps."""
        sequences = self.batch_size * sum(run.summary.steps for run in self.runs)
        return 3 * forward_flops(self.model) * sequences

    @property
    def seconds(self) -> float:
        """The training time of all of them, evaluations left out."""
        return sum(run.summary.train_seconds for run in self.runs)

    @property
    def predicted_seconds(self) -> float:
        """The same at the utilization that the handout assumes."""
        return self.flops / (MODEL_FLOPS_UTILIZATION * self.ceiling)

    @property
    def utilization(self) -> float | None:
        """The share of the ceiling that the runs used; None if they took no time."""
        return self.flops / self.seconds / self.ceiling if self.seconds else None


def run_groups(results: Results, profile: StepProfile) -> Iterator[RunGroup]:
    """Return the groups of runs on the device and with the threads that were measured."""
    groups: dict[str, list[Run]] = {}
    for run in results.runs():
        if (run.summary.device, run.summary.threads) == (profile.device, profile.threads):
            key = repr((run.config.model, run.setting("batch_size"), run.setting("precision")))
            groups.setdefault(key, []).append(run)
    for runs in groups.values():
        yield RunGroup(runs, profile.measured.matmul_flops_per_second)


def runs_table(groups: list[RunGroup]) -> Table:
    """Return FLOPs and time of all runs of each group."""
    rows = [
        [group.name, len(group.runs), group.batch_size, group.flops, group.predicted_seconds, group.seconds,
         percent_error(group.predicted_seconds, group.seconds), 100 * group.utilization]
        for group in groups
        if group.utilization is not None
    ]  # fmt: skip
    assumed = format_percent(MODEL_FLOPS_UTILIZATION)
    columns = ["first run of its group", "runs", "batch size", "training FLOPs", f"seconds at {assumed} of the ceiling"]
    return Table(
        "FLOPs and training time of runs, which may have shared the machine, by model and batch size",
        [*columns, "measured seconds", "error (%)", "MFU (%)"],
        rows,
    )
