"""One training run under way: repeatable to the byte, going on where it was killed, with divergence as a result."""

import contextlib
import hashlib
import math
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from lmpipe.data.token_dataset import batch_starts
from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import Progress, log, progress
from lmpipe.provenance.code_digest import code_digest
from lmpipe.provenance.environment import environment
from lmpipe.study.paths import METRICS, WEIGHTS
from lmpipe.study.planned_run import PlannedRun
from lmpipe.training.checkpoint import load_checkpoint, restore_tensors, save_checkpoint, save_weights, training_tensors
from lmpipe.training.devices import compute_reproducibly, device_name, find_device, peak_memory_bytes
from lmpipe.training.distributed import Processes, together
from lmpipe.training.evaluation import Evaluation, evaluate, mean_loss, text_bytes_of, window_batches
from lmpipe.training.gpu_locks import held_devices
from lmpipe.training.loop import Course
from lmpipe.training.micro_batching import out_of_memory_is_told
from lmpipe.training.progress_file import RunProgress
from lmpipe.training.run_config import RunInputs, resolve
from lmpipe.training.run_store import StoredRun
from lmpipe.training.step import DIVERGENCE_STEPS, Taken

# A run that ends closer than that to the unigram entropy knows little but the frequencies of tokens: they differ by
# some hundredths of a nat between two splits.
UNIGRAM_MARGIN_NATS = 0.05
COLUMNS = "step,tokens,wall_seconds,learning_rate,train_loss,validation_loss,grad_norm\n"
METRICS_TENSOR = "metrics.csv"


def train_together(
    inputs: RunInputs, stored: StoredRun, job: dict[str, Any], processes: int, gpus: int, checkpoint_seconds: float
) -> None:
    """Train a run in so many processes, of which this is the first, and leave its finished files in the store.

    With GPUs there is one for each of `gpus`. `job` holds the arguments of `train` that the other processes need, as
    JSON values.
    """
    device = find_device(job["device"])
    if device.type == "cuda":
        processes = max(processes, gpus)
    most = torch.cuda.device_count() if device.type == "cuda" else inputs.training.batch_size
    if processes > min(most, inputs.training.batch_size):
        raise InputError(
            f"--processes or --gpus: expected at most {min(most, inputs.training.batch_size)}, for so many GPUs and "
            f"sequences of a batch there are, found {processes}; lower it"
        )
    with (
        held_devices(job["device"], processes, job["runs_per_gpu"]) as device,
        out_of_memory_is_told(inputs.model, inputs.training),
    ):
        compute_reproducibly(job["threads"], device)
        with together(processes, device, job) as joined:
            Trainer(inputs, stored, device, job["threads"], checkpoint_seconds, joined).run()


def follow(job: dict[str, Any], device: torch.device, processes: Processes) -> None:
    """Make this process's share of all steps of a run whose first process is another."""
    compute_reproducibly(job["threads"], device)
    inputs = resolve(PlannedRun.model_validate(job["run"]), Path(job["results"]), job["best_path"], Path(job["output"]))
    stops = evaluation_steps(inputs.steps, inputs.training.num_evaluations)
    course = Course(inputs, device, processes)
    course.decide({}, StoredRun.of(job["results"], job["digest"]).compiled)
    step, has_diverged = course.start_together(0), False
    while step < inputs.steps and not has_diverged and not course.watch.halted:
        taken = course.make_steps(step + 1, course.last_at_once(step + 1, stops))
        step, has_diverged = step + len(taken), taken[-1].diverged


@dataclass
class Counted:
    """What a run has counted so far; a checkpoint keeps it as JSON. Losses are in nats per token."""

    step: int = 0
    wall_seconds: float = 0.0
    initial_loss: float | None = None
    best_validation_loss: float | None = None
    latest_losses: list[float] = field(default_factory=list)
    divergence: str | None = None
    diverged_step: int | None = None
    num_resumes: int = 0
    peak_memory_bytes: int = 0
    batches_sha256: str = ""
    setup: dict[str, Any] = field(default_factory=dict)

    def add_step(self, loss: float) -> None:
        """Count one more update, made from a batch of this loss."""
        self.step += 1
        if self.initial_loss is None:
            self.initial_loss = loss
        self.latest_losses = [*self.latest_losses[1 - DIVERGENCE_STEPS :], loss]

    def add_batch(self, starts: np.ndarray) -> None:
        """Take the windows of one more batch into the digest of all, by which runs on the same ones are known."""
        self.batches_sha256 = hashlib.sha256(self.batches_sha256.encode() + starts.tobytes()).hexdigest()

    @property
    def latest_loss(self) -> float:
        """The mean over the last steps, up to DIVERGENCE_STEPS of them."""
        return sum(self.latest_losses) / len(self.latest_losses)


class Trainer:
    """One run under way: model, optimizer, what was counted, and the rows of metrics.csv."""

    def __init__(
        self,
        inputs: RunInputs,
        stored: StoredRun,
        device: torch.device,
        threads: int,
        checkpoint_seconds: float,
        processes: Processes | None = None,
    ):
        self.inputs, self.stored, self.device = inputs, stored, device
        self.training, self.checkpoint_seconds = inputs.training, checkpoint_seconds
        self.course = Course(inputs, device, processes)
        self.model, self.optimizer = self.course.model, self.course.optimizer
        setup = {"device": device_name(device), "threads": threads, "processes": self.course.processes.count}
        self.counted = Counted(batches_sha256=inputs.train.info.sha256, setup=setup)
        self.rows = [COLUMNS]
        self.told = RunProgress(stored.folder, inputs.config, inputs.steps, inputs.tokens_per_step)
        self.evaluation_steps = evaluation_steps(inputs.steps, inputs.training.num_evaluations)
        windows = window_batches(inputs.valid.tokens, inputs.model.context_length, inputs.training.eval_tokens)
        self.curve_batches = [(ids.to(device), targets.to(device)) for ids, targets in windows]

    def run(self) -> None:
        """Train from the start or the newest checkpoint to the end, and leave finished files in the store."""
        self.resume()
        with Interruption() as interruption:
            try:
                self.train_steps(interruption)
                final = self.evaluate_whole_split(interruption)
            except Interrupted as stop:
                path = self.save()
                log(f"interrupted after step {self.counted.step}; saved {path}")
                raise SystemExit(128 + stop.signal_number) from None
        self.finish(final)

    def resume(self) -> None:
        """Go on from the newest checkpoint where there is one, computing as it did; otherwise decide how to compute."""
        loaded = load_checkpoint(self.stored.checkpoints, self.stored.digest)
        setup, recorded = self.counted.setup, {}
        if loaded is not None:
            tensors, counted = loaded
            self.counted = Counted(**counted)
            recorded = self.counted.setup
            self.rows = [bytes(tensors.pop(METRICS_TENSOR).numpy()).decode()]
            restore_tensors(self.model, self.optimizer, tensors, self.counted.step)
            if self.counted.step:
                self.course.watch.restore(self.counted.step, self.counted.initial_loss, self.counted.latest_losses)
            if self.counted.divergence is not None:
                self.course.watch.halted.fill_(1)
            log(f"going on after step {self.counted.step} of {self.inputs.steps}")
            self.counted.num_resumes += 1
        setup |= self.course.decide(recorded, self.stored.compiled)
        if recorded and recorded != setup:
            log(f"begun with {recorded}, going on with {setup}: last digits may differ")
        self.counted.setup = recorded or setup
        self.course.start_together(self.counted.step)

    def train_steps(self, interruption: "Interruption") -> None:
        """Make the steps that are left, evaluating and saving on the way, until the end or divergence."""
        steps, counted = self.inputs.steps, self.counted
        if self.rows == [COLUMNS]:
            self.add_row(0, validation_loss=self.curve_loss())
        saved = time.monotonic()
        left = (steps - counted.step) * self.inputs.tokens_per_step
        with progress("training", left, "tokens") as shown:
            while counted.step < steps and counted.divergence is None:
                self.told.tell(counted)
                self.train_some(shown)
                interruption.check()
                if time.monotonic() - saved >= self.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()

    def train_some(self, shown: Progress) -> None:
        """Make as many steps as are made at once, and write their rows."""
        started = time.perf_counter()
        first = self.counted.step + 1
        taken = self.course.make_steps(first, self.course.last_at_once(first, self.evaluation_steps))
        seconds = (time.perf_counter() - started) / len(taken)
        for one in taken:
            self.count(one, seconds)
        shown.advance(len(taken) * self.inputs.tokens_per_step, f"loss {taken[-1].loss:.3f}")

    def count(self, taken: Taken, seconds: float) -> None:
        """Count a step that took so long, and write its row."""
        counted, step = self.counted, self.counted.step + 1
        counted.wall_seconds += seconds
        counted.add_batch(self.starts(step))
        if taken.is_updated:
            counted.add_step(taken.loss)
        if taken.diverged:
            counted.divergence, counted.diverged_step = self.why_diverged(taken, step), step
        is_evaluated = step in self.evaluation_steps or taken.diverged
        curve_loss = self.curve_loss() if is_evaluated else None
        self.add_row(step, self.course.learning_rate(step), taken.loss, curve_loss, taken.norm)

    def starts(self, step: int) -> np.ndarray:
        """Where the windows of a step's batch begin in the training tokens, int64 (batch,)."""
        tokens, context_length = self.inputs.train.tokens, self.inputs.model.context_length
        return batch_starts(len(tokens), self.inputs.seed, step, self.training.batch_size, context_length)

    def why_diverged(self, taken: Taken, step: int) -> str:
        """What made the step the last one."""
        if not taken.is_updated:
            return f"the loss or its gradient was not finite at step {step}"
        climbed = self.counted.latest_loss - self.counted.initial_loss
        return f"the loss, averaged over {DIVERGENCE_STEPS} steps, was {climbed:.2f} nats above its start"

    def curve_loss(self) -> float:
        """Loss on the fixed windows of the curve in nats per token."""
        loss = mean_loss(self.model, self.curve_batches, self.training.precision)
        best = self.counted.best_validation_loss
        if math.isfinite(loss) and (best is None or loss < best):
            self.counted.best_validation_loss = loss
        return loss

    def add_row(
        self,
        step: int,
        learning_rate: float | None = None,
        train_loss: float | None = None,
        validation_loss: float | None = None,
        grad_norm: float | None = None,
    ) -> None:
        """Add a row of metrics.csv; what is missing or not finite is an empty cell."""
        seconds = f"{self.counted.wall_seconds:.4f}"
        cells = [str(step), str(step * self.inputs.tokens_per_step), seconds]
        cells += map(cell, (learning_rate, train_loss, validation_loss, grad_norm))
        self.rows.append(",".join(cells) + "\n")

    def save(self) -> Path:
        """Write a checkpoint."""
        counted = self.counted
        counted.peak_memory_bytes = max(counted.peak_memory_bytes, peak_memory_bytes(self.device))
        tensors = training_tensors(self.model, self.optimizer)
        tensors[METRICS_TENSOR] = torch.from_numpy(np.frombuffer("".join(self.rows).encode(), np.uint8).copy())
        return save_checkpoint(self.stored.checkpoints, self.stored.digest, counted.step, tensors, asdict(counted))

    def evaluate_whole_split(self, interruption: "Interruption") -> Evaluation:
        """The loss on the whole validation split at the end."""
        tokens = self.inputs.valid.tokens
        with progress("validating", len(tokens) - 1, "tokens") as shown:

            def after_batch(targets: int) -> None:
                shown.advance(targets)
                self.told.tell(self.counted)
                interruption.check()

            text_bytes = text_bytes_of(self.inputs.tokenizer)
            return evaluate(self.model, tokens, text_bytes, self.training.precision, after_batch)

    def finish(self, final: Evaluation) -> None:
        """Write metrics, weights and, last, the summary."""
        with atomic_write(self.stored.folder / METRICS) as file:
            file.writelines(self.rows)
        save_weights(self.stored.folder / WEIGHTS, self.model)
        self.stored.finish(self.summary(final))

    def summary(self, final: Evaluation) -> dict[str, Any]:
        """What summary.json says."""
        counted, inputs = self.counted, self.inputs
        status, reason = self.status(final.loss)
        tokens = counted.step * inputs.tokens_per_step
        return {
            "status": status,
            "reason": reason,
            "steps": counted.step,
            "planned_steps": inputs.steps,
            "diverged_step": counted.step if status == "diverged" and not counted.divergence else counted.diverged_step,
            "tokens": tokens,
            "initial_loss": counted.initial_loss,
            "final_train_loss": counted.latest_loss if counted.latest_losses else None,
            "validation_loss": finite(final.loss),
            "best_validation_loss": counted.best_validation_loss,
            "perplexity": finite(perplexity(final.loss)),
            "bits_per_byte": finite(final.bits_per_byte),
            "validation_tokens": final.validation_tokens,
            "validation_bytes": final.validation_bytes,
            "init_digests": self.course.init_digests,
            "batches_sha256": counted.batches_sha256,
            "unigram_entropy": inputs.train.info.unigram_entropy,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "train_seconds": counted.wall_seconds,
            "tokens_per_second": tokens / counted.wall_seconds,
            "peak_memory_bytes": max(counted.peak_memory_bytes, peak_memory_bytes(self.device)),
            **counted.setup,
            "precision": self.training.precision,
            "num_resumes": counted.num_resumes,
            "code": code_digest("training.run"),
            "environment": environment("torch", "numpy"),
        }

    def status(self, validation_loss: float) -> tuple[str, str | None]:
        """`finished`, `diverged` or `not_learning`, with the reason of the last two."""
        if self.counted.divergence is not None:
            return "diverged", self.counted.divergence
        if not math.isfinite(validation_loss):
            return "diverged", "the loss on the validation split was not finite"
        entropy = self.inputs.train.info.unigram_entropy
        if validation_loss > entropy - UNIGRAM_MARGIN_NATS:
            limit = f"the training tokens' unigram entropy of {entropy:.3f}"
            return "not_learning", f"the loss did not fall {UNIGRAM_MARGIN_NATS} nats below {limit}"
        return "finished", None


def evaluation_steps(steps: int, evaluations: int) -> frozenset[int]:
    """The steps after which the curve is evaluated: evenly spread, the last one included.

    >>> sorted(evaluation_steps(10, 3))
    [3, 7, 10]
    """
    return frozenset(max(1, round(steps * part / evaluations)) for part in range(1, evaluations + 1))


def cell(value: float | None) -> str:
    """A number of metrics.csv with all digits that a float32 has; empty where there is none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"


def finite(value: float) -> float | None:
    """A number that JSON can hold; None for NaN and infinity."""
    return value if math.isfinite(value) else None


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


class Interrupted(Exception):  # noqa: N818 (a request, not an error)
    """The process was asked to stop."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number


class Interruption(contextlib.AbstractContextManager):
    """Turns SIGTERM (a cluster's notice of preemption) and SIGINT into a request that is obeyed between two steps."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "Interruption":
        self.previous = {number: signal.signal(number, self.receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the request."""
        self.received = number

    def check(self) -> None:
        """Raise Interrupted where the process was asked to stop."""
        if self.received is not None:
            raise Interrupted(self.received)
