"""Training one model: repeatable to the byte, going on where it was killed, with divergence as a result."""

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
from torch import Tensor

from lmpipe.checkpoint import (
    load_checkpoint,
    restore_tensors,
    save_checkpoint,
    save_weights,
    training_tensors,
)
from lmpipe.device_locks import held_device
from lmpipe.devices import compute_reproducibly, device_name, peak_memory_bytes
from lmpipe.evaluation import Evaluation, evaluate, mean_loss, next_token_losses, text_bytes_of, window_batches
from lmpipe.files import atomic_write, read_json
from lmpipe.model import TransformerLM, initial_deviations
from lmpipe.optim import AdamW, clip_gradients, cosine_lr
from lmpipe.progress import Progress, progress, say
from lmpipe.provenance import code_digest, environment
from lmpipe.run_inputs import RunInputs, resolve
from lmpipe.run_progress import RunProgress
from lmpipe.shapes import RUN_SUMMARY, check_shape
from lmpipe.store import METRICS, SUMMARY, WEIGHTS, StoredRun, digest_of
from lmpipe.tensor_files import open_tensors
from lmpipe.tokens import batch

CHECKPOINT_SECONDS = 30.0
# A run has diverged when its loss, averaged over so many steps, lies so many nats above where it began.
DIVERGENCE_STEPS = 20
DIVERGENCE_NATS = 0.5
# A run that ends closer than that to the unigram entropy knows little but the frequencies of tokens: they differ by
# some hundredths of a nat between two splits.
STUCK_NATS = 0.05
COLUMNS = "step,tokens,wall_seconds,learning_rate,train_loss,validation_loss,grad_norm\n"
METRICS_TENSOR = "metrics.csv"


def train(
    settings: dict[str, Any],
    results: str | Path,
    output: str | Path,
    *,
    best_path: str | Path | None = None,
    threads: int = 1,
    device: str | None = None,
    runs_per_gpu: int = 1,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> bool:
    """Train the run that `settings` describes, unless the store has it, and publish its files to the folder `output`.

    `results` is the study's folder with tokens/, tokenizers/ and store/; `best_path` the best.json that a best_of rate
    is taken from. Returns whether the run was trained now. Raises InputError for settings and files that do not fit;
    SystemExit after a signal, with all saved.
    """
    inputs = resolve(settings, Path(results), best_path, Path(output))
    stored = StoredRun.of(results, digest_of(inputs.identity()))
    with stored.locked():
        is_new = not stored.is_finished
        if is_new:
            with held_device(device, runs_per_gpu) as found:
                compute_reproducibly(threads, found)
                Trainer(inputs, stored, found, threads, checkpoint_seconds).run()
        else:
            check_stored(stored)
        stored.publish(output, inputs.config)
    return is_new


def check_stored(stored: StoredRun) -> None:
    """Raise InputError where the store's files of a finished run have been damaged since."""
    path = stored.folder / SUMMARY
    check_shape(read_json(path), RUN_SUMMARY, str(path), "delete it, and the run is trained anew")
    with open_tensors(stored.folder / WEIGHTS):
        pass


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
    resumed: int = 0
    peak_memory_bytes: int = 0
    batches_sha256: str = ""
    setup: dict[str, Any] = field(default_factory=dict)

    def add_step(self, loss: float) -> None:
        """Count one more update, made from a batch of this loss."""
        self.step += 1
        if self.initial_loss is None:
            self.initial_loss = loss
        self.latest_losses = [*self.latest_losses[1 - DIVERGENCE_STEPS :], loss]

    def add_batch(self, token_ids: np.ndarray) -> None:
        """Take one more batch into the digest of all of them, by which runs on the same ones are known."""
        self.batches_sha256 = hashlib.sha256(self.batches_sha256.encode() + token_ids.tobytes()).hexdigest()

    @property
    def latest_loss(self) -> float:
        """The mean over the last steps, up to DIVERGENCE_STEPS of them."""
        return sum(self.latest_losses) / len(self.latest_losses)


class Trainer:
    """One run under way: model, optimizer, what was counted, and the rows of metrics.csv."""

    def __init__(
        self, inputs: RunInputs, stored: StoredRun, device: torch.device, threads: int, checkpoint_seconds: float
    ):
        self.inputs, self.stored, self.device = inputs, stored, device
        self.model_config, self.training = inputs.model, inputs.training
        self.checkpoint_seconds = checkpoint_seconds
        model = TransformerLM(inputs.model, inputs.seed)
        self.initial_weights = weight_digests(model)
        self.model = model.to(device)
        self.optimizer = AdamW(self.model, inputs.training)
        self.parameters = list(self.model.parameters())
        self.counted = Counted(setup={"device": device_name(device), "threads": threads})
        self.rows = [COLUMNS]
        self.told = RunProgress(stored.folder, inputs.config, inputs.steps, inputs.tokens_per_step)
        self.evaluation_steps = evaluation_steps(inputs.steps, inputs.training.evaluations)
        windows = window_batches(inputs.valid.tokens, inputs.model.context_length, inputs.training.eval_tokens)
        self.curve_batches = [(inputs.to(device), targets.to(device)) for inputs, targets in windows]

    def run(self) -> None:
        """Train from the start or the newest checkpoint to the end, and leave finished files in the store."""
        self.resume()
        with Interruption() as interruption:
            try:
                self.train_steps(interruption)
                final = self.evaluate_whole_split(interruption)
            except Interrupted as stop:
                path = self.save()
                say(f"interrupted after step {self.counted.step}; saved {path}")
                raise SystemExit(128 + stop.signal_number) from None
        self.finish(final)

    def resume(self) -> None:
        """Go on from the newest checkpoint where there is one."""
        loaded = load_checkpoint(self.stored.checkpoints, self.stored.digest)
        if loaded is None:
            return
        tensors, counted = loaded
        setup = self.counted.setup
        self.counted = Counted(**counted)
        self.rows = [bytes(tensors.pop(METRICS_TENSOR).numpy()).decode()]
        restore_tensors(self.model, self.optimizer, tensors, self.counted.step)
        say(f"going on after step {self.counted.step} of {self.inputs.steps}")
        if self.counted.setup != setup:
            say(f"begun with {self.counted.setup}, going on with {setup}: last digits may differ")
        self.counted.resumed += 1

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
                self.train_step(shown)
                interruption.check()
                if time.monotonic() - saved >= self.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()

    def train_step(self, shown: Progress) -> None:
        """Make one update from one batch and write its row; an update that would break the weights is not made."""
        started = time.perf_counter()
        counted, step = self.counted, self.counted.step + 1
        learning_rate = self.learning_rate(step)
        loss, norm = self.gradients(step)
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step(learning_rate)
            counted.add_step(loss)
            counted.divergence = self.climb()
        else:
            counted.divergence = f"the loss or its gradient was not finite at step {step}"
        self.optimizer.zero_grad()
        counted.wall_seconds += time.perf_counter() - started
        if counted.divergence is not None:
            counted.diverged_step = step
        is_evaluated = step in self.evaluation_steps or counted.divergence is not None
        self.add_row(step, learning_rate, loss, self.curve_loss() if is_evaluated else None, norm)
        shown.advance(self.inputs.tokens_per_step, f"loss {loss:.3f}")

    def learning_rate(self, step: int) -> float:
        """The rate of a step; steps count from 1, so that no update is wasted at rate 0."""
        max_lr = self.training.max_lr
        min_lr = max_lr * self.training.min_lr_ratio
        return cosine_lr(step, max_lr, min_lr, self.inputs.warmup_steps, self.inputs.steps)

    def gradients(self, step: int) -> tuple[float, float]:
        """Loss and gradient norm of a step's batch; the gradients are left clipped in the parameters."""
        inputs, targets = self.batch(step)
        loss = next_token_losses(self.model, inputs, targets, self.training.precision).mean()
        loss.backward()
        norm = clip_gradients(self.parameters, self.training.max_grad_norm)
        return loss.item(), norm.item()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq) of a step, on the device."""
        context_length = self.model_config.context_length
        arrays = batch(self.inputs.train.tokens, self.inputs.seed, step, self.training.batch_size, context_length)
        self.counted.add_batch(arrays[0])
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)

    def climb(self) -> str | None:
        """How far the loss has climbed since the first step, where that is divergence."""
        counted = self.counted
        if counted.step < self.inputs.warmup_steps + DIVERGENCE_STEPS:
            return None
        climbed = counted.latest_loss - counted.initial_loss
        if climbed <= DIVERGENCE_NATS:
            return None
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
            "initial_weights": self.initial_weights,
            "batches_sha256": counted.batches_sha256,
            "unigram_entropy": inputs.train.info["unigram_entropy"],
            "parameters": sum(parameter.numel() for parameter in self.parameters),
            "wall_seconds": counted.wall_seconds,
            "tokens_per_second": tokens / counted.wall_seconds,
            "peak_memory_bytes": max(counted.peak_memory_bytes, peak_memory_bytes(self.device)),
            **counted.setup,
            "precision": self.training.precision,
            "resumed": counted.resumed,
            "code": code_digest("train"),
            "environment": environment("torch", "numpy"),
        }

    def status(self, validation_loss: float) -> tuple[str, str | None]:
        """`finished`, `diverged` or `stuck`, with the reason of the last two."""
        if self.counted.divergence is not None:
            return "diverged", self.counted.divergence
        if not math.isfinite(validation_loss):
            return "diverged", "the loss on the validation split was not finite"
        entropy = self.inputs.train.info["unigram_entropy"]
        if validation_loss > entropy - STUCK_NATS:
            limit = f"the training tokens' unigram entropy of {entropy:.3f}"
            return "stuck", f"the loss did not fall {STUCK_NATS} nats below {limit}"
        return "finished", None


def weight_digests(model: TransformerLM) -> dict[str, dict[str, Any]]:
    """The size and digest of every matrix as it is now, by which models that begin alike are known."""
    return {
        name: {"parameters": weight.numel(), "sha256": digest(weight)} for name, weight, _ in initial_deviations(model)
    }


def digest(weight: Tensor) -> str:
    """The first half of the SHA-256 of a matrix on the CPU."""
    return hashlib.sha256(weight.detach().contiguous().numpy().tobytes()).hexdigest()[:32]


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
