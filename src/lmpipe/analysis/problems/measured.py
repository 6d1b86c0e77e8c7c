"""The accounting beside what this study measured, with the errors: parameters, FLOPs and time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmpipe.analysis.finding import Metric, Table
from lmpipe.analysis.problems import training
from lmpipe.analysis.results import Results, Run
from lmpipe.analysis.schemas import BATCH_SIZES, MEASUREMENTS
from lmpipe.io.formatting import format_command, format_int, format_number, format_percent, format_seconds
from lmpipe.model.accounting import MODEL_FLOPS_UTILIZATION, count_parameters, forward_flops
from lmpipe.model.activation_memory import step_bytes, validation_bytes
from lmpipe.study.settings import ModelConfig

SOURCE, TIMED = "model_measurements.json", "batch_sizes.json"
RUNS = "runs/*/*/seed*/summary.json"
MISSING = "the study's own model has not been measured"
PERCENT = "% of the measured value"

Measurements = dict[str, Any]


def error(predicted: float, measured: float) -> float:
    """How far a prediction lies above what was measured, in percent of that.

    >>> error(110, 100)
    10.0
    """
    return 100 * (predicted - measured) / measured


def signed_percent(value: float) -> str:
    """An error in percent with its sign.

    >>> signed_percent(-12.345), signed_percent(0.26)
    ('−12.3 %', '+0.3 %')
    """
    return f"{value:+.1f} %".replace("-", "−")


def error_words(predicted: float, measured: float) -> str:
    """An error in words.

    >>> error_words(110, 100), error_words(95, 100), error_words(7, 7)
    ('10 % too much', '5 % too little', 'exactly right')
    """
    if predicted == measured:
        return "exactly right"
    return f"{format_number(abs(error(predicted, measured)))} % too {'much' if predicted > measured else 'little'}"


@dataclass(frozen=True)
class Part:
    """What a problem's finding gains: metrics, sentences and tables."""

    metrics: dict[str, Metric]
    sentences: list[str]
    tables: list[Table]


def read(results: Results) -> Measurements | None:
    """What was measured of the study's own model; None where the study has not measured it."""
    return results.json(SOURCE, MEASUREMENTS)


# --- parameters, FLOPs and time --------------------------------------------------------------------------------------


def flops_and_time(results: Results) -> Part:
    """Parameters, FLOPs and the time of a step, predicted and measured."""
    found = read(results)
    if found is None:
        return Part(
            {"step_flops_error": training.metric(None, PERCENT, SOURCE, MISSING)}, [missing_sentence(results)], []
        )
    speed = Speed.of(results, found)
    rows, kinds = [*counted_rows(found), *(speed.rows() if speed else [])], list(kinds_of(results, found))
    table = Table(
        "Predicted beside measured: a training step of the study's own model, "
        f"{format_int(found['batch_size'])} sequences.",
        ["quantity", "predicted", "measured", "error (%)", "how it was measured"],
        rows,
    )
    sentences = [counted_sentence(results, found), *(speed.sentences() if speed else []), *run_sentences(kinds)]
    tables = [table, *([runs_table(kinds)] if any(kind.seconds for kind in kinds) else [])]
    return Part(counted_metrics(results, found) | speed_metrics(found, speed), sentences, tables)


def missing_sentence(results: Results) -> str:
    """That nothing was measured, and how to."""
    told = "What the study's own model really takes has not been measured"
    return f"{told}; run {format_command(results.folder / SOURCE)}."


def counted_rows(found: Measurements) -> list[list[Any]]:
    """What can be counted exactly."""
    predicted, measured = found["predicted"], found["measured"]
    words = {
        "parameters": ("parameters", "counted on the model"),
        "forward_flops": ("FLOPs of the forward pass", "torch's FlopCounterMode on the meta device"),
        "step_flops": ("FLOPs of a whole step (3 × forward)", "the same, forwards and backwards"),
    }
    return [
        [name, predicted[key], measured[key], error(predicted[key], measured[key]), how]
        for key, (name, how) in words.items()
    ]


def models_of(results: Results) -> dict[str, Run]:
    """One run for each shape of model that this study trained."""
    return {repr(sorted(run.config["model"].items())): run for run in results.runs()}


def parameter_errors(results: Results) -> list[float]:
    """The error of the predicted parameters of every shape of model that was trained, in percent."""
    return [
        error(count_parameters(ModelConfig(**run.config["model"])).total, run.summary["parameters"])
        for run in models_of(results).values()
    ]


def counted_metrics(results: Results, found: Measurements) -> dict[str, Metric]:
    """The errors of what can be counted exactly."""
    predicted, measured = found["predicted"], found["measured"]
    largest = max(parameter_errors(results), key=abs, default=None)
    return {
        "step_flops_counted": Metric(measured["step_flops"], "FLOPs", SOURCE),
        "step_flops_error": Metric(error(predicted["step_flops"], measured["step_flops"]), PERCENT, SOURCE),
        "largest_parameters_error": training.metric(largest, PERCENT, RUNS, "no run finished"),
    }


def counted_sentence(results: Results, found: Measurements) -> str:
    """The errors of what can be counted exactly, in a sentence."""
    predicted, measured = found["predicted"], found["measured"]
    errors = parameter_errors(results)
    wrong = max(errors, key=abs, default=0.0)
    step_told = error_words(predicted["step_flops"], measured["step_flops"])
    told = "exactly right" if wrong == 0 else f"wrong by up to {format_number(abs(wrong))} %"
    return (
        f"Against this study's own runs, the predicted parameters are {told} for each shape of model that was trained "
        f"({format_int(len(errors))}); torch counts {format_int(measured['step_flops'])} FLOPs of a training step of "
        f"{format_int(found['batch_size'])} sequences, and the prediction, 3 × the forward pass, is {step_told}."
    )


@dataclass(frozen=True)
class Speed:
    """How fast the study's own model trained at the measured batch size, and how that was timed.

    `tokens_per_second` is from a step timed alone on the machine; where the study has none, the mean of its runs.
    """

    tokens_per_second: float
    flops_per_token: float
    ceiling: float
    tokens: int
    threads: int
    source: str
    how: str

    @classmethod
    def of(cls, results: Results, found: Measurements) -> "Speed | None":
        """Look up the speed of the model that was measured; None where neither a step nor a run of it was timed."""
        timed = results.json(TIMED, BATCH_SIZES)
        sizes = timed["sizes"] if timed and timed["model"] == found["model"] else []
        alone = [row["tokens_per_second"] for row in sizes if row["batch_size"] == found["batch_size"]]
        runs = [
            run.summary["tokens_per_second"]
            for run in results.runs()
            if (run.config["model"], run.setting("batch_size")) == (found["model"], found["batch_size"])
            and run.summary["tokens_per_second"]
        ]
        speeds, source, how = alone, TIMED, "a step timed alone on the machine"
        if not alone:
            speeds, source, how = runs, RUNS, "the mean of the runs, which may have had company"
        if not speeds:
            return None
        tokens = found["batch_size"] * found["model"]["context_length"]
        flops, ceiling = found["measured"]["step_flops"], found["measured"]["matmul_flops_per_second"]
        mean = sum(speeds) / len(speeds)
        return cls(mean, flops / tokens, ceiling, tokens, found["threads"], source, how)

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
        time = [self.predicted_seconds, self.seconds, error(self.predicted_seconds, self.seconds), self.how]
        rates = [self.tokens / self.predicted_seconds, self.tokens_per_second]
        used = [100 * MODEL_FLOPS_UTILIZATION, 100 * self.utilization]
        return [
            [f"seconds of a step, at {assumed} of the ceiling", *time],
            ["tokens per second", *rates, error(*rates), self.how],
            ["share of the ceiling, MFU (%)", *used, error(*used), "FLOPs × speed ÷ ceiling"],
        ]

    def sentences(self) -> list[str]:
        """The ceiling, the share that training uses, and how well the handout's assumption predicts the time."""
        threads = f"{format_int(self.threads)} thread{'s' if self.threads > 1 else ''}"
        assumed = format_percent(MODEL_FLOPS_UTILIZATION)
        return [
            f"With {threads} the device multiplies large matrices at "
            f"{format_number(self.ceiling / 1e9)} GFLOP/s at best, and "
            f"training runs at {format_int(self.tokens_per_second)} tokens a second ({self.how}), which is "
            f"{format_percent(self.utilization)} of that ceiling (MFU).",
            f"A step takes {format_seconds(self.seconds)}; with the {assumed} that the handout "
            f"assumes it would take {format_seconds(self.predicted_seconds)}, which is "
            f"{error_words(self.predicted_seconds, self.seconds)}.",
        ]


def speed_metrics(found: Measurements, speed: Speed | None) -> dict[str, Metric]:
    """Metrics of time and speed; undefined where nothing was timed."""
    reason = "" if speed else "no step or run of this model was timed"
    source = speed.source if speed else TIMED
    seconds_error = error(speed.predicted_seconds, speed.seconds) if speed else None
    ceiling = found["measured"]["matmul_flops_per_second"]
    return {
        "matmul_ceiling": Metric(ceiling, "FLOP/s", SOURCE),
        "tokens_per_second": training.metric(speed and speed.tokens_per_second, "tokens per second", source, reason),
        "utilization": training.metric(speed and speed.utilization, "share of the ceiling", source, reason),
        "step_seconds": training.metric(speed and speed.seconds, "s", source, reason),
        "step_seconds_error": training.metric(seconds_error, PERCENT, source, reason),
    }


@dataclass(frozen=True)
class Kind:
    """The runs of one shape of model, batch size and precision on the device that was measured.

    `process` are the bytes of the process without a model, `ceiling` the device's FLOP/s.
    """

    runs: list[Run]
    process: int
    ceiling: float

    @property
    def model(self) -> ModelConfig:
        """The shape of the model."""
        return ModelConfig(**self.runs[0].config["model"])

    @property
    def batch_size(self) -> int:
        """Sequences of a step."""
        return self.runs[0].setting("batch_size")

    @property
    def name(self) -> str:
        """The first run of the kind."""
        return f"{self.runs[0].config['experiment']}/{self.runs[0].name}"

    @property
    def predicted_peak(self) -> int:
        """The most memory that a run should hold, in bytes."""
        at_once = min(self.batch_size, self.runs[0].summary["micro_batch_size"])
        step = step_bytes(self.model, self.runs[0].setting("precision"), at_once)
        return self.process + step + validation_bytes(self.model)

    @property
    def peak(self) -> int:
        """The most memory that a run held, in bytes."""
        return max(run.summary["peak_memory_bytes"] for run in self.runs)

    @property
    def flops(self) -> int:
        """Matrix-multiply FLOPs of all their training steps."""
        sequences = self.batch_size * sum(run.summary["steps"] for run in self.runs)
        return 3 * forward_flops(self.model) * sequences

    @property
    def seconds(self) -> float:
        """The training time of all of them, evaluations left out."""
        return sum(run.summary["train_seconds"] for run in self.runs)

    @property
    def predicted_seconds(self) -> float:
        """The same at the utilization that the handout assumes."""
        return self.flops / (MODEL_FLOPS_UTILIZATION * self.ceiling)

    @property
    def utilization(self) -> float | None:
        """The share of the ceiling that the runs used; None where they took no time."""
        return self.flops / self.seconds / self.ceiling if self.seconds else None


def kinds_of(results: Results, found: Measurements) -> Iterator[Kind]:
    """The kinds of runs on the device and with the threads that were measured."""
    groups: dict[str, list[Run]] = {}
    for run in results.runs():
        if (run.summary["device"], run.summary["threads"]) == (found["device"], found["threads"]):
            key = repr((sorted(run.config["model"].items()), run.setting("batch_size"), run.setting("precision")))
            groups.setdefault(key, []).append(run)
    measured = found["measured"]
    for runs in groups.values():
        yield Kind(runs, measured["process_bytes"], measured["matmul_flops_per_second"])


def runs_table(kinds: list[Kind]) -> Table:
    """FLOPs and time of all runs of each kind."""
    rows = [
        [kind.name, len(kind.runs), kind.batch_size, kind.flops, kind.predicted_seconds, kind.seconds,
         error(kind.predicted_seconds, kind.seconds), 100 * kind.utilization]
        for kind in kinds
        if kind.utilization is not None
    ]  # fmt: skip
    assumed = format_percent(MODEL_FLOPS_UTILIZATION)
    columns = ["first run of its kind", "runs", "batch size", "training FLOPs", f"seconds at {assumed} of the ceiling"]
    return Table(
        "FLOPs and training time of this study's runs, by shape of model and batch size; runs may have shared the "
        "machine.",
        [*columns, "measured seconds", "error (%)", "MFU (%)"],
        rows,
    )


def run_sentences(kinds: list[Kind]) -> list[str]:
    """The shares of the ceiling that whole runs reached."""
    shares = sorted(kind.utilization for kind in kinds if kind.utilization is not None)
    if not shares:
        return []
    spread = " to ".join(dict.fromkeys([format_percent(shares[0]), format_percent(shares[-1])]))
    return [f"Over whole runs, which may have shared the machine, MFU is {spread} by shape of model and batch size."]
