"""Predictions of the accounting beside measurements of this study, with the errors: parameters, FLOPs and time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import run_summary
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import Run
from lmpipe.io.formatting import format_command, format_int, format_number, format_percent, format_seconds
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


def format_signed_percent(value: float) -> str:
    """Return an error in percent with its sign.

    >>> format_signed_percent(-12.345), format_signed_percent(0.26)
    ('−12.3 %', '+0.3 %')
    """
    return f"{value:+.1f} %".replace("-", "−")


def describe_error(predicted: float, measured: float) -> str:
    """Return an error in words.

    >>> describe_error(110, 100), describe_error(95, 100), describe_error(7, 7)
    ('10 % too much', '5 % too little', 'exactly right')
    """
    if predicted == measured:
        return "exactly right"
    return (
        f"{format_number(abs(percent_error(predicted, measured)))} % too {'much' if predicted > measured else 'little'}"
    )


@dataclass(frozen=True)
class Measurement:
    """Metrics, sentences and tables for a problem's finding."""

    metrics: dict[str, Metric]
    sentences: list[str]
    tables: list[Table]


def read_profile(results: Results) -> StepProfile | None:
    """Return the measurement of the study's own model; None if there is none."""
    return results.document(StepProfile, SOURCE)


# --- parameters, FLOPs and time --------------------------------------------------------------------------------------


def flops_and_time(results: Results) -> Measurement:
    """Parameters, FLOPs and the time of a step, predicted and measured."""
    profile = read_profile(results)
    if profile is None:
        return Measurement(
            {"step_flops_error": run_summary.metric(None, PERCENT, SOURCE, MISSING)}, [missing_sentence(results)], []
        )
    speed = Throughput.of(results, profile)
    rows, groups = [*counted_rows(profile), *(speed.rows() if speed else [])], list(run_groups(results, profile))
    table = Table(
        "Predicted beside measured: a training step of the study's own model, "
        f"{format_int(profile.batch_size)} sequences.",
        ["quantity", "predicted", "measured", "error (%)", "how it was measured"],
        rows,
    )
    sentences = [counted_sentence(results, profile), *(speed.sentences() if speed else []), *run_sentences(groups)]
    tables = [table, *([runs_table(groups)] if any(group.seconds for group in groups) else [])]
    return Measurement(counted_metrics(results, profile) | speed_metrics(profile, speed), sentences, tables)


def missing_sentence(results: Results) -> str:
    """Report that nothing was measured, with the remedy."""
    problem = "What the study's own model really takes has not been measured"
    return f"{problem}; run {format_command(results.folder / SOURCE)}."


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
        "largest_parameters_error": run_summary.metric(largest, PERCENT, RUNS, "no run finished"),
    }


def counted_sentence(results: Results, profile: StepProfile) -> str:
    """Describe the errors of the quantities that can be counted exactly."""
    predicted, measured = profile.predicted, profile.measured
    errors = parameter_errors(results)
    largest = max(errors, key=abs, default=0.0)
    step_error = describe_error(predicted.step_flops, measured.step_flops)
    parameters_error = "exactly right" if largest == 0 else f"wrong by up to {format_number(abs(largest))} %"
    return (
        f"Against this study's own runs, the predicted parameters are {parameters_error} for each shape of model that "
        f"was trained ({format_int(len(errors))}); torch counts {format_int(measured.step_flops)} FLOPs of a training "
        f"step of {format_int(profile.batch_size)} sequences, and the prediction, 3 × the forward pass, is "
        f"{step_error}."
    )


@dataclass(frozen=True)
class Throughput:
    """Training speed of the study's own model at the measured batch size.

    `tokens_per_second` is from a step timed alone on the machine, or the mean of the study's runs.
    """

    tokens_per_second: float
    flops_per_token: float
    ceiling: float
    tokens: int
    threads: int
    source: str
    method: str

    @classmethod
    def of(cls, results: Results, profile: StepProfile) -> "Throughput | None":
        """Return the speed of the measured model; None if neither a step nor a run of it was timed."""
        timed = results.document(BatchSizeBenchmark, TIMED)
        sizes = timed.sizes if timed and timed.model == profile.model else []
        step_speeds = [row.tokens_per_second for row in sizes if row.batch_size == profile.batch_size]
        runs = [
            run.summary.tokens_per_second
            for run in results.runs()
            if (run.config.model, run.setting("batch_size")) == (profile.model, profile.batch_size)
            and run.summary.tokens_per_second
        ]
        speeds, source, method = step_speeds, TIMED, "a step timed alone on the machine"
        if not step_speeds:
            speeds, source, method = runs, RUNS, "the mean of the runs, which may have had company"
        if not speeds:
            return None
        tokens = profile.batch_size * profile.model.context_length
        flops, ceiling = profile.measured.step_flops, profile.measured.matmul_flops_per_second
        mean = sum(speeds) / len(speeds)
        return cls(mean, flops / tokens, ceiling, tokens, profile.threads, source, method)

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
        """Rows of the table of predictions."""
        assumed = format_percent(MODEL_FLOPS_UTILIZATION)
        time = [self.predicted_seconds, self.seconds, percent_error(self.predicted_seconds, self.seconds), self.method]
        rates = [self.tokens / self.predicted_seconds, self.tokens_per_second]
        shares = [100 * MODEL_FLOPS_UTILIZATION, 100 * self.utilization]
        return [
            [f"seconds of a step, at {assumed} of the ceiling", *time],
            ["tokens per second", *rates, percent_error(*rates), self.method],
            ["share of the ceiling, MFU (%)", *shares, percent_error(*shares), "FLOPs × speed ÷ ceiling"],
        ]

    def sentences(self) -> list[str]:
        """Return the ceiling, the share that training uses, and how well the handout's assumption predicts the time."""
        threads = f"{format_int(self.threads)} thread{'s' if self.threads > 1 else ''}"
        assumed = format_percent(MODEL_FLOPS_UTILIZATION)
        return [
            f"With {threads} the device multiplies large matrices at "
            f"{format_number(self.ceiling / 1e9)} GFLOP/s at best, and "
            f"training runs at {format_int(self.tokens_per_second)} tokens a second ({self.method}), which is "
            f"{format_percent(self.utilization)} of that ceiling (MFU).",
            f"A step takes {format_seconds(self.seconds)}; with the {assumed} that the handout "
            f"assumes it would take {format_seconds(self.predicted_seconds)}, which is "
            f"{describe_error(self.predicted_seconds, self.seconds)}.",
        ]


def speed_metrics(profile: StepProfile, speed: Throughput | None) -> dict[str, Metric]:
    """Return the metrics of time and speed; they are undefined if nothing was timed."""
    reason = "" if speed else "no step or run of this model was timed"
    source = speed.source if speed else TIMED
    seconds_error = percent_error(speed.predicted_seconds, speed.seconds) if speed else None
    ceiling = profile.measured.matmul_flops_per_second
    return {
        "matmul_ceiling": Metric(ceiling, "FLOP/s", SOURCE),
        "tokens_per_second": run_summary.metric(speed and speed.tokens_per_second, "tokens per second", source, reason),
        "utilization": run_summary.metric(speed and speed.utilization, "share of the ceiling", source, reason),
        "step_seconds": run_summary.metric(speed and speed.seconds, "s", source, reason),
        "step_seconds_error": run_summary.metric(seconds_error, PERCENT, source, reason),
    }


@dataclass(frozen=True)
class RunGroup:
    """The runs of one shape of model, batch size and precision on the device that was measured.

    `process` are the bytes of the process without a model, `ceiling` the device's FLOP/s.
    """

    runs: list[Run]
    process: int
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
    def predicted_peak(self) -> int:
        """The most memory that a run should hold, in bytes."""
        at_once = min(self.batch_size, self.runs[0].summary.micro_batch_size)
        step = step_bytes(self.model, self.runs[0].setting("precision"), at_once)
        return self.process + step + validation_bytes(self.model)

    @property
    def peak(self) -> int:
        """The most memory that a run held, in bytes."""
        return max(run.summary.peak_memory_bytes for run in self.runs)

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
    measured = profile.measured
    for runs in groups.values():
        yield RunGroup(runs, measured.process_bytes, measured.matmul_flops_per_second)


def runs_table(groups: list[RunGroup]) -> Table:
    """FLOPs and time of all runs of each group."""
    rows = [
        [group.name, len(group.runs), group.batch_size, group.flops, group.predicted_seconds, group.seconds,
         percent_error(group.predicted_seconds, group.seconds), 100 * group.utilization]
        for group in groups
        if group.utilization is not None
    ]  # fmt: skip
    assumed = format_percent(MODEL_FLOPS_UTILIZATION)
    columns = ["first run of its group", "runs", "batch size", "training FLOPs", f"seconds at {assumed} of the ceiling"]
    return Table(
        "FLOPs and training time of this study's runs, by shape of model and batch size; runs may have shared the "
        "machine.",
        [*columns, "measured seconds", "error (%)", "MFU (%)"],
        rows,
    )


def run_sentences(groups: list[RunGroup]) -> list[str]:
    """Return the shares of the ceiling that whole runs reached."""
    shares = sorted(group.utilization for group in groups if group.utilization is not None)
    if not shares:
        return []
    spread = " to ".join(dict.fromkeys([format_percent(shares[0]), format_percent(shares[-1])]))
    return [f"Over whole runs, which may have shared the machine, MFU is {spread} by shape of model and batch size."]
