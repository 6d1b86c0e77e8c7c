"""Deterministic, resumable training of one run; divergence is recorded as a result."""

import hashlib
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lmpipe.data.token_dataset import batch_starts
from lmpipe.io.files import atomic_write
from lmpipe.io.progress import Progress, log, progress
from lmpipe.provenance.code_digest import code_digest
from lmpipe.provenance.environment import environment
from lmpipe.study.paths import METRICS, WEIGHTS
from lmpipe.training.checkpoint import load_checkpoint, restore_tensors, save_checkpoint, save_weights, training_tensors
from lmpipe.training.devices import allocated_memory_bytes, local_device, peak_memory_bytes, set_deterministic
from lmpipe.training.distributed import ProcessGroup, check_world_size, join_process_group
from lmpipe.training.evaluation import Evaluation, eval_batch_tokens, evaluate, mean_loss, window_batches
from lmpipe.training.interruption import StopGuard, TrainingInterrupted, requeue_job
from lmpipe.training.loop import Execution, TrainLoop
from lmpipe.training.progress import METRICS_TENSOR, ProgressWriter
from lmpipe.training.run import RunInputs, StoredRun
from lmpipe.training.run_documents import RunSummary
from lmpipe.training.step import DIVERGENCE_WINDOW, StepResult, translate_oom

# A run whose final loss is not this far below the unigram entropy has learnt little but token frequencies, which differ
# by some hundredths of a nat between two splits.
UNIGRAM_MARGIN_NATS = 0.05
MAX_SAVE_FRACTION = 0.02  # of the time between two checkpoints; a billion parameters take a minute to save
MAX_WAIT_SECONDS = 600.0  # between two checkpoints: a disk may have been slow once
HEADER = "step,tokens,wall_seconds,learning_rate,train_loss,validation_loss,grad_norm\n"
VALIDATION_COLUMN = HEADER.split(",").index("validation_loss")


def train_launched(
    inputs: RunInputs,
    stored: StoredRun,
    output: Path,
    device_name: str | None,
    threads: int,
    checkpoint_seconds: float,
    job_end: float,
) -> bool:
    """Take part in a run as one of torchrun's processes; returns whether the run was trained now.

    Only rank 0 returns, the others exit after the run. No GPU is locked: torchrun's caller decides which are used.
    """
    device = local_device(device_name, int(os.environ["LOCAL_RANK"]))
    check_world_size(int(os.environ["WORLD_SIZE"]), device, inputs.config.training.batch_size)
    set_deterministic(threads, device)
    # Processes join before rank 0 may have to wait for the run's lock; then it decides whether there is work to do.
    with join_process_group(device) as group:
        if not group.is_main:
            if group.broadcast_number(False, device):
                TrainLoop(inputs, device, threads, group).run_worker(stored.compiled)
            raise SystemExit(0)
        with stored.locked():
            is_new = bool(group.broadcast_number(not stored.is_finished, device))
            if is_new:
                with translate_oom(inputs.config):
                    Trainer(inputs, stored, device, threads, checkpoint_seconds, group, job_end).run()
            stored.publish(output, inputs.config)
    return is_new


@dataclass
class TrainState:
    """Counters of a run so far, which a checkpoint stores as JSON. Losses are in nats per token."""

    step: int = 0
    wall_seconds: float = 0.0
    compile_seconds: float = 0.0
    initial_loss: float | None = None
    best_validation_loss: float | None = None
    recent_losses: list[float] = field(default_factory=list)
    divergence: str | None = None
    detected_step: int | None = None
    last_step_below_start: int = 0
    num_resumes: int = 0
    peak_memory_bytes: int = 0
    batches_sha256: str = ""
    execution: Execution | None = None

    def add_loss(self, loss: float) -> None:
        """Count one update, with the loss of its batch."""
        self.step += 1
        if self.initial_loss is None:
            self.initial_loss = loss
        if loss <= self.initial_loss:
            self.last_step_below_start = self.step
        self.recent_losses = [*self.recent_losses[1 - DIVERGENCE_WINDOW :], loss]

    def add_validation_loss(self, loss: float) -> None:
        """Record a loss of the learning curve."""
        if math.isfinite(loss):
            best = self.best_validation_loss
            self.best_validation_loss = loss if best is None else min(loss, best)

    @property
    def recent_loss(self) -> float:
        """Mean over the last DIVERGENCE_WINDOW steps, or all if there are fewer."""
        return sum(self.recent_losses) / len(self.recent_losses)


class Trainer:
    """Training of one run in rank 0: the loop, its state, the rows of metrics.csv, checkpoints and results."""

    def __init__(
        self,
        inputs: RunInputs,
        stored: StoredRun,
        device: torch.device,
        threads: int,
        checkpoint_seconds: float,
        group: ProcessGroup | None = None,
        job_end: float = math.inf,
    ):
        self.job_end = job_end
        self.inputs, self.config, self.stored, self.device = inputs, inputs.config, stored, device
        self.training, self.checkpoint_seconds = inputs.config.training, checkpoint_seconds
        self.memory_before_bytes = allocated_memory_bytes(device)
        self.loop = TrainLoop(inputs, device, threads, group)
        self.model, self.optimizer = self.loop.model, self.loop.optimizer
        self.state = TrainState(batches_sha256=inputs.train.info.sha256)
        self.rows, self.checkpoint = [HEADER], None
        self.progress_file = ProgressWriter(stored.folder, inputs.config)
        shape = (inputs.config.model.context_length, inputs.config.training.eval_tokens, eval_batch_tokens(self.model))
        windows = window_batches(inputs.valid.tokens, *shape)
        self.curve_batches = [(ids.to(device), targets.to(device)) for ids, targets in windows]

    def run(self) -> None:
        """Train from the start or the newest checkpoint to the end, and write the results into the store.

        After SIGTERM or SIGINT, and before the end of a cluster's job, save a checkpoint and raise SystemExit.
        """
        self.resume()
        with StopGuard(self.job_end) as guard:
            try:
                self.train_steps(guard)
                final = self.evaluate_whole_split(guard)
            except TrainingInterrupted as interrupted:
                (code,), path = interrupted.args, self.save()
                is_queued = code == os.EX_TEMPFAIL and requeue_job()
                reason = ", as the job's time is over" if code == os.EX_TEMPFAIL else ""
                then = "; the job is queued again" if is_queued else ""
                log(f"interrupted after step {self.state.step}{reason}; saved {path}{then}")
                raise SystemExit(code) from None
        self.finish(final)

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one, and prepare all processes for the next step."""
        loaded = load_checkpoint(self.stored.checkpoints, self.stored.fingerprint)
        recorded = None
        if loaded is not None:
            tensors, state = loaded
            recorded = Execution(**state.pop("execution"))
            self.state = TrainState(**state, execution=recorded)
            self.rows = [bytes(tensors.pop(METRICS_TENSOR).numpy()).decode()]
            restore_tensors(self.model, self.optimizer, tensors, self.state.step)
            if self.state.step:
                self.loop.monitor.restore(self.state.step, self.state.initial_loss, self.state.recent_losses)
            if self.state.divergence is not None:
                self.loop.monitor.diverged.fill_(1)
            log(f"resuming from step {self.state.step} of {self.config.steps}")
            if recorded.threads != self.loop.threads:
                log(f"with the {recorded.threads} threads that it started with, not with {self.loop.threads}")
            self.state.num_resumes += 1
        execution = self.loop.choose_execution(recorded, self.stored.compiled)
        if recorded not in (None, execution):
            log(f"resuming with {execution}, but the run started with {recorded}: the last digits may differ")
        self.state.execution = recorded or execution
        self.state.compile_seconds += self.loop.compile_seconds
        self.loop.broadcast_state(self.state.step)

    def train_steps(self, guard: StopGuard) -> None:
        """Run the remaining steps, with evaluations and checkpoints, until the end, divergence or a signal."""
        steps, state = self.config.steps, self.state
        if self.rows == [HEADER]:
            self.add_row(0, None, None, self.estimate_loss(), None)
        step_seconds = math.inf
        # Only a saved checkpoint shows how long one takes: a job with an end begins with it.
        next_save = time.monotonic() + (self.checkpoint_seconds if guard.job_end == math.inf else 0.0)
        with progress("training", (steps - state.step) * self.config.tokens_per_step, "tokens") as bar:
            while True:
                is_training = state.step < steps and state.divergence is None and guard.exit_code is None
                count = self.loop.steps_per_sync(step_seconds) if is_training else 0
                if not (count := self.loop.group.broadcast_number(count, self.device)):
                    break
                self.progress_file.write(state)
                step_seconds = self.train_chunk(count, bar)
                if (started := time.monotonic()) >= next_save:
                    self.save()
                    wait = min((time.monotonic() - started) / MAX_SAVE_FRACTION, MAX_WAIT_SECONDS)
                    wait = max(self.checkpoint_seconds, wait) if self.checkpoint_seconds else 0.0
                    next_save = time.monotonic() + wait
                guard.mark_progress()
        guard.check()

    def train_chunk(self, count: int, bar: Progress) -> float:
        """Run `count` steps, or those up to an evaluation, and record them; return the seconds of a step."""
        started = time.perf_counter()
        results = self.loop.run_chunk(self.state.step + 1, count)
        seconds = (time.perf_counter() - started) / len(results)
        for result in results:
            self.record_step(result, seconds)
        bar.advance(len(results) * self.config.tokens_per_step, f"loss {results[-1].loss:.3f}")
        return seconds

    def record_step(self, result: StepResult, seconds: float) -> None:
        """Count a step that took `seconds`, and add its row to metrics.csv."""
        state, step = self.state, self.state.step + 1
        state.wall_seconds += seconds
        tokens, context_length = self.inputs.train.tokens, self.config.model.context_length
        starts = batch_starts(len(tokens), self.config.seed, step, self.training.batch_size, context_length)
        state.batches_sha256 = hashlib.sha256(state.batches_sha256.encode() + starts.tobytes()).hexdigest()
        if result.is_updated:
            state.add_loss(result.loss)
        if result.diverged:
            state.divergence, state.detected_step = self.divergence_reason(result, step), step
        # The last step is evaluated on the whole split, after which `finish` completes its row.
        is_evaluated = step in self.loop.evaluation_steps and step < self.config.steps and not result.diverged
        validation_loss = self.estimate_loss() if is_evaluated else None
        self.add_row(step, self.loop.learning_rate(step), result.loss, validation_loss, result.grad_norm)

    def divergence_reason(self, result: StepResult, step: int) -> str:
        """Explain the divergence at `step`."""
        if not result.is_updated:
            return f"the loss or its gradient was not finite at step {step}"
        rise = self.state.recent_loss - self.state.initial_loss
        return f"the loss, averaged over {DIVERGENCE_WINDOW} steps, was {rise:.2f} nats above its start"

    def estimate_loss(self) -> float:
        """Return the loss on the learning curve's validation windows, in nats per token."""
        loss = mean_loss(self.model, self.curve_batches, self.training.precision)
        self.state.add_validation_loss(loss)
        return loss

    def add_row(self, step: int, *values: float | None) -> None:
        """Add a row to metrics.csv; `values` are those of HEADER's last columns, and missing ones are empty cells."""
        cells = [str(step), str(step * self.config.tokens_per_step), f"{self.state.wall_seconds:.4f}"]
        self.rows.append(",".join([*cells, *map(metric_cell, values)]) + "\n")

    def save(self) -> Path:
        """Write a checkpoint, unless this process wrote one after the same step; return its path."""
        state = self.state
        if self.checkpoint and self.checkpoint[0] == state.step:
            return self.checkpoint[1]
        state.peak_memory_bytes = max(state.peak_memory_bytes, peak_memory_bytes(self.device))
        tensors = training_tensors(self.model, self.optimizer)
        tensors[METRICS_TENSOR] = torch.from_numpy(np.frombuffer("".join(self.rows).encode(), np.uint8).copy())
        run = self.stored.fingerprint
        path = save_checkpoint(self.stored.checkpoints, run, state.step, tensors, asdict(state))
        self.checkpoint = state.step, path
        return path

    def evaluate_whole_split(self, guard: StopGuard) -> Evaluation:
        """Evaluate the final model on the whole validation split."""
        tokens = self.inputs.valid.tokens
        with progress("validating", len(tokens) - 1, "tokens") as bar:

            def after_batch(num_targets: int) -> None:
                bar.advance(num_targets)
                self.progress_file.write(self.state)
                guard.check()

            byte_lengths = self.inputs.tokenizer.byte_lengths
            return evaluate(self.model, tokens, byte_lengths, self.training.precision, after_batch)

    def finish(self, final: Evaluation) -> None:
        """Write metrics, with the final loss in the last row, weights and, last, the summary."""
        self.state.add_validation_loss(final.loss)
        *rows, last = "".join(self.rows).splitlines(keepends=True)
        cells = last.split(",")
        cells[VALIDATION_COLUMN] = metric_cell(final.loss)
        with atomic_write(self.stored.folder / METRICS) as file:
            file.writelines([*rows, ",".join(cells)])
        save_weights(self.stored.folder / WEIGHTS, self.model)
        self.stored.finish(self.summary(final))

    def summary(self, final: Evaluation) -> RunSummary:
        """Build summary.json."""
        state, inputs = self.state, self.inputs
        status, reason = self.status(final.loss)
        tokens = state.step * inputs.config.tokens_per_step
        return RunSummary(
            status=status,
            reason=reason,
            steps=state.step,
            planned_steps=inputs.config.steps,
            detected_step=state.step if status == "diverged" and not state.divergence else state.detected_step,
            divergence_step=state.last_step_below_start if status == "diverged" else None,
            tokens=tokens,
            initial_loss=state.initial_loss,
            final_train_loss=state.recent_loss if state.recent_losses else None,
            validation_loss=finite(final.loss),
            validation_loss_se=finite(final.loss_se),
            best_validation_loss=state.best_validation_loss,
            perplexity=finite(perplexity(final.loss)),
            bits_per_byte=finite(final.bits_per_byte),
            validation_tokens=final.validation_tokens,
            validation_bytes=final.validation_bytes,
            init_digests=self.loop.init_digests,
            batches_sha256=state.batches_sha256,
            unigram_entropy=inputs.train.info.unigram_entropy,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            train_seconds=state.wall_seconds,
            compile_seconds=state.compile_seconds,
            tokens_per_second=tokens / state.wall_seconds,
            peak_memory_bytes=max(state.peak_memory_bytes, peak_memory_bytes(self.device)),
            memory_before_bytes=self.memory_before_bytes,
            **asdict(state.execution),
            precision=self.training.precision,
            num_resumes=state.num_resumes,
            code=code_digest("training.run"),
            environment=environment("torch", "numpy"),
        )

    def status(self, validation_loss: float) -> tuple[Literal["finished", "diverged", "not_learning"], str | None]:
        """Return the run's status, with a reason unless it finished."""
        if self.state.divergence is not None:
            return "diverged", self.state.divergence
        if not math.isfinite(validation_loss):
            return "diverged", "the loss on the validation split was not finite"
        entropy = self.inputs.train.info.unigram_entropy
        if validation_loss > entropy - UNIGRAM_MARGIN_NATS:
            limit = f"the training tokens' unigram entropy of {entropy:.3f}"
            return "not_learning", f"the loss did not fall {UNIGRAM_MARGIN_NATS} nats below {limit}"
        return "finished", None


def finite(value: float) -> float | None:
    """Return `value`, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def metric_cell(value: float | None) -> str:
    """Return a cell of metrics.csv: all digits of a float32; empty if a value is missing or not finite."""
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite if that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
