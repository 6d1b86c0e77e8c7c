"""The accounting beside what this study measured: parameters, FLOPs and time, and memory by part, with the errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lmpipe.accounting import FLOAT32_BYTES, MODEL_FLOPS_UTILIZATION, parameters
from lmpipe.activations import kept_bytes
from lmpipe.problem_shapes import BATCH_SIZES, MEASUREMENTS
from lmpipe.problems import Figure, Table, training
from lmpipe.problems.wording import bytes_text, count, listing, number, percent, seconds_text
from lmpipe.results import Results, Run
from lmpipe.settings import ModelConfig

SOURCE, TIMED, RUNS = "model_measurements.json", "batch_sizes.json", "runs"
MISSING = "the study's own model has not been measured"
PERCENT = "% of the measured value"
# What the handout's list says, and what is kept.
SIZES = ("handout_bytes", "kept_bytes")
PART_NAMES = {
    "embedding": "token embedding",
    "norms": "RMSNorms",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "lm_head": "output head",
    "loss": "loss",
}
# Gradients of the loss that stand beside all that is kept, for a moment: those of the log-softmax and of the logits.
GRADIENTS_OF_LOSS = 2

Measurements = dict[str, Any]


def error(predicted: float, measured: float) -> float:
    """How far a prediction lies above what was measured, in percent of that.

    >>> error(110, 100)
    10.0
    """
    return 100 * (predicted - measured) / measured


def error_words(predicted: float, measured: float) -> str:
    """An error in words.

    >>> error_words(110, 100), error_words(95, 100), error_words(7, 7)
    ('10 % too much', '5 % too little', 'exactly right')
    """
    if predicted == measured:
        return "exactly right"
    return f"{number(abs(error(predicted, measured)))} % too {'much' if predicted > measured else 'little'}"


@dataclass(frozen=True)
class Part:
    """What a problem's finding gains: figures, sentences and tables."""

    figures: dict[str, Figure]
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
        return Part({"step_flops_error": training.known(None, PERCENT, SOURCE, MISSING)}, [missing_sentence()], [])
    speed = Speed.of(results, found)
    rows = [*counted_rows(found), *(speed.rows() if speed else [])]
    table = Table(
        f"Predicted beside measured: a training step of the study's own model, {count(found['batch_size'])} sequences.",
        ["quantity", "predicted", "measured", "error (%)", "how it was measured"],
        rows,
    )
    sentences = [counted_sentence(results, found), *(speed.sentences() if speed else [])]
    return Part(counted_figures(results, found) | speed_figures(found, speed), sentences, [table])


def missing_sentence() -> str:
    """That nothing was measured, and how to."""
    return "What the study's own model really takes has not been measured; run the rule measure_model."


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
        error(parameters(ModelConfig(**run.config["model"]))["total"], run.summary["parameters"])
        for run in models_of(results).values()
    ]


def counted_figures(results: Results, found: Measurements) -> dict[str, Figure]:
    """The errors of what can be counted exactly."""
    predicted, measured = found["predicted"], found["measured"]
    largest = max(parameter_errors(results), key=abs, default=None)
    return {
        "step_flops_counted": Figure(measured["step_flops"], "FLOPs", SOURCE),
        "step_flops_error": Figure(error(predicted["step_flops"], measured["step_flops"]), PERCENT, SOURCE),
        "largest_parameters_error": training.known(largest, PERCENT, RUNS, "no run finished"),
    }


def counted_sentence(results: Results, found: Measurements) -> str:
    """The errors of what can be counted exactly, in a sentence."""
    predicted, measured = found["predicted"], found["measured"]
    errors = parameter_errors(results)
    wrong = max(errors, key=abs, default=0.0)
    step_told = error_words(predicted["step_flops"], measured["step_flops"])
    told = "exactly right" if wrong == 0 else f"wrong by up to {number(abs(wrong))} %"
    shapes = f"{count(len(errors))} shape{'s' if len(errors) > 1 else ''} of model"
    return (
        f"Against this study's own runs, the predicted parameters are {told} for all {shapes} that were trained; of a "
        f"training step of {count(found['batch_size'])} sequences torch counts {count(measured['step_flops'])} FLOPs, "
        f"of which the prediction, 3 × the forward pass, is {step_told}."
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
        assumed = percent(MODEL_FLOPS_UTILIZATION)
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
        threads = f"{count(self.threads)} thread{'s' if self.threads > 1 else ''}"
        assumed = percent(MODEL_FLOPS_UTILIZATION)
        return [
            f"With {threads} the device multiplies large matrices at {number(self.ceiling / 1e9)} GFLOP/s at best, and "
            f"training runs at {count(self.tokens_per_second)} tokens a second ({self.how}), which is "
            f"{percent(self.utilization)} of that ceiling (MFU).",
            f"A step takes {seconds_text(self.seconds)}; with the {assumed} that the handout "
            f"assumes it would take {seconds_text(self.predicted_seconds)}, which is "
            f"{error_words(self.predicted_seconds, self.seconds)}.",
        ]


def speed_figures(found: Measurements, speed: Speed | None) -> dict[str, Figure]:
    """Figures of time and speed; undefined where nothing was timed."""
    reason = "" if speed else "no step or run of this model was timed"
    source = speed.source if speed else TIMED
    seconds_error = error(speed.predicted_seconds, speed.seconds) if speed else None
    ceiling = found["measured"]["matmul_flops_per_second"]
    return {
        "matmul_ceiling": Figure(ceiling, "FLOP/s", SOURCE),
        "tokens_per_second": training.known(speed and speed.tokens_per_second, "tokens per second", source, reason),
        "utilization": training.known(speed and speed.utilization, "share of the ceiling", source, reason),
        "step_seconds": training.known(speed and speed.seconds, "s", source, reason),
        "step_seconds_error": training.known(seconds_error, PERCENT, source, reason),
    }


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(results: Results) -> Part:
    """Memory by part, predicted and measured; where the handout's list differs from what is kept; peaks of runs."""
    found = read(results)
    if found is None:
        unknown = training.known(None, PERCENT, SOURCE, MISSING)
        return Part({"kept_activations_error": unknown}, [missing_sentence()], [])
    peaks = list(peaks_of(results, found))
    sentences = [activations_sentence(found), *gap_sentences(found), *peak_sentences(found, peaks)]
    tables = [parts_table(found), gaps_table(found), *([peaks_table(peaks)] if peaks else [])]
    return Part(memory_figures(found, peaks), sentences, tables)


def parts_table(found: Measurements) -> Table:
    """Bytes by part, with the handout's list beside ours."""
    predicted, measured = found["predicted"], found["measured"]
    held = {"parameters": "parameter_bytes", "gradients": "gradient_bytes", "AdamW's moments": "moment_bytes"}
    rows: list[list[Any]] = []
    for name, key in held.items():
        size, real = predicted[key], measured[key]
        rows.append([name, size, size, real, error(size, real), error(size, real)])
    values = predicted["activations"]["values"]
    for part, name in PART_NAMES.items():
        handout, ours = (sum(value[key] for value in values if value["part"] == part) for key in SIZES)
        if real := measured["saved_bytes_by_part"].get(part, 0):
            rows.append([f"activations: {name}", handout, ours, real, error(handout, real), error(ours, real)])
    handout, ours, real = (*(predicted["activations"][key] for key in SIZES), measured["saved_bytes"])
    rows.append(["all activations", handout, ours, real, error(handout, real), error(ours, real)])
    columns = ["part", "the handout's list (bytes)", "our formula (bytes)", "measured (bytes)"]
    return Table(
        f"Memory of a training step by part: {setting_words(found)}; activations as autograd saves them.",
        [*columns, "error of the list (%)", "error of our formula (%)"],
        rows,
    )


def setting_words(found: Measurements) -> str:
    """What was measured."""
    return f"the study's own model, {count(found['batch_size'])} sequences, {found['precision']}"


def gaps_table(found: Measurements) -> Table:
    """Every value that the handout's list counts or that is kept, and why they differ."""
    rows = [
        [value["name"], *(value[key] for key in SIZES), value["kept_bytes"] - value["handout_bytes"], value["reason"]]
        for value in found["predicted"]["activations"]["values"]
    ]
    columns = ["value", "the handout's list (bytes)", "kept (bytes)", "difference (bytes)", "reason"]
    return Table(
        f"What the handout's list of activations counts, and what is kept: {setting_words(found)}.", columns, rows
    )


def activations_sentence(found: Measurements) -> str:
    """How well both lists predict the bytes that autograd saves."""
    predicted, real = found["predicted"]["activations"], found["measured"]["saved_bytes"]
    handout, ours = (predicted[key] for key in SIZES)
    return (
        f"Measured on the study's own model ({count(found['batch_size'])} sequences, {found['precision']}), autograd "
        f"saves {count(real)} bytes of activations for the backward pass; our formula of what lmpipe's model keeps "
        f"gives {count(ours)} ({error_words(ours, real)}), the handout's simplified list {count(handout)} "
        f"({error_words(handout, real)})."
    )


def gap_sentences(found: Measurements) -> list[str]:
    """What the handout's list counts in vain and what it leaves out, by size."""
    values = found["predicted"]["activations"]["values"]
    gaps = {value["name"]: value["kept_bytes"] - value["handout_bytes"] for value in values}
    over = sorted((name for name in gaps if gaps[name] < 0), key=lambda name: gaps[name])
    under = sorted((name for name in gaps if gaps[name] > 0), key=lambda name: -gaps[name])
    told = [
        f"{words} {bytes_text(sum(abs(gaps[name]) for name in names))}: "
        f"{listing([f'{name} ({bytes_text(abs(gaps[name]))})' for name in names])}"
        for words, names in (("It counts what is not kept,", over), ("It leaves out what is kept,", under))
        if names
    ]
    return [f"{sentence}." for sentence in told]


@dataclass(frozen=True)
class Peak:
    """The most memory that runs of one shape and batch size held at once, and its prediction, in bytes."""

    run: str
    batch_size: int
    precision: str
    runs: int
    process: int
    predicted: int
    measured: int


def peaks_of(results: Results, found: Measurements) -> Iterator[Peak]:
    """The peaks of the runs on the device that was measured, one for each shape and batch size."""
    groups: dict[str, list[Run]] = {}
    for run in results.runs():
        if (run.summary["device"], run.summary["threads"]) == (found["device"], found["threads"]):
            key = repr((sorted(run.config["model"].items()), run.setting("batch_size"), run.setting("precision")))
            groups.setdefault(key, []).append(run)
    process = found["measured"]["process_bytes"]
    for runs in groups.values():
        run = runs[0]
        batch_size, precision = run.setting("batch_size"), run.setting("precision")
        predicted = process + step_bytes(ModelConfig(**run.config["model"]), precision, batch_size)
        measured = max(one.summary["peak_memory_bytes"] for one in runs)
        name = f"{run.config['experiment']}/{run.name}"
        yield Peak(name, batch_size, precision, len(runs), process, predicted, measured)


def step_bytes(model: ModelConfig, precision: str, batch_size: int) -> int:
    """The most that a training step holds: weights, gradients, moments, activations, and the loss's gradients."""
    weights = 4 * FLOAT32_BYTES * parameters(model)["total"]
    logits = FLOAT32_BYTES * batch_size * model.context_length * model.vocab_size
    return weights + kept_bytes(model, precision, batch_size) + GRADIENTS_OF_LOSS * logits


def peaks_table(peaks: list[Peak]) -> Table:
    """A row for each shape and batch size."""
    rows = [
        [peak.run, peak.runs, peak.batch_size, peak.predicted - peak.process, peak.predicted, peak.measured,
         error(peak.predicted, peak.measured)]
        for peak in peaks
    ]  # fmt: skip
    columns = ["first run of its kind", "runs", "batch size", "of the step (bytes)", "predicted peak (bytes)"]
    return Table(
        "The most memory that a run's process held: that of a process without a model, and a step's by the accounting "
        "(16 bytes a parameter, the activations kept, and two gradients as large as the logits).",
        [*columns, "measured peak (bytes)", "error (%)"],
        rows,
    )


def peak_sentences(found: Measurements, peaks: list[Peak]) -> list[str]:
    """How well the peaks of whole runs are predicted."""
    if not peaks:
        return []
    errors = [error(peak.predicted, peak.measured) for peak in peaks]
    low, high = (f"{value:+.1f}".replace("-", "−") for value in (min(errors), max(errors)))
    spread = f"{low} %" if low == high else f"{low} to {high} %"
    share = percent(found["measured"]["process_bytes"] / max(peak.measured for peak in peaks))
    return [
        f"The peak memory of whole runs is predicted with an error of {spread}; of the largest, {share} is the process "
        f"itself ({bytes_text(found['measured']['process_bytes'])} before there is this model), and what the "
        "prediction leaves out is room that the allocator keeps, and the validation."
    ]


def memory_figures(found: Measurements, peaks: list[Peak]) -> dict[str, Figure]:
    """Figures of the activations and of the peaks."""
    predicted, real = found["predicted"]["activations"], found["measured"]["saved_bytes"]
    handout, ours = (predicted[key] for key in SIZES)
    largest = max((error(peak.predicted, peak.measured) for peak in peaks), key=abs, default=None)
    no_run = "no run on the device that was measured"
    return {
        "saved_activation_bytes": Figure(real, "bytes", SOURCE),
        "kept_activation_bytes": Figure(ours, "bytes", SOURCE),
        "kept_activations_error": Figure(error(ours, real), PERCENT, SOURCE),
        "handout_activation_bytes": Figure(handout, "bytes", SOURCE),
        "handout_activations_error": Figure(error(handout, real), PERCENT, SOURCE),
        "largest_peak_memory_error": training.known(largest, PERCENT, RUNS, no_run),
    }
