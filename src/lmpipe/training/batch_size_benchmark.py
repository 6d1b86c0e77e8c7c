"""What each batch size costs on this machine: a timed step for each doubling, up to the largest batch that fits."""

import statistics
import time
from typing import Any

import torch

from lmpipe.model.accounting import account_adamw
from lmpipe.model.activation_memory import step_memory
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import (
    compute_reproducibly,
    device_name,
    forget_peak_memory,
    free_memory_bytes,
    held_memory_bytes,
    peak_memory_bytes,
)
from lmpipe.training.gpu_locks import held_device
from lmpipe.training.micro_batching import USABLE_SHARE
from lmpipe.training.profiling import load_code
from lmpipe.training.step import TrainingStep, Watch

# The measurement takes about so long: a batch that would take it further is not tried.
MOST_SECONDS = 10.0
# A step of a small batch is too short to be timed once, so it is repeated for so long.
TIMED_SECONDS = 0.3

Row = dict[str, Any]


def measure_batch_sizes(
    model_config: ModelConfig, training: TrainingSettings, *, threads: int = 1, device: str | None = None
) -> dict[str, Any]:
    """Time a training step of each doubling of the batch size, and find the largest batch that fits.

    The doublings end where the next batch would not fit (`stop_reason` "memory"), has more tokens than a whole run
    ("run"), or would take too long ("time"). `largest_batch_size` is the largest that was made, 0 where none fits;
    `estimated_largest_batch_size` follows from the memory that the last two took. Memory is in bytes that a step, the
    model and its optimizer add to a process that has loaded the code and computed nothing else; the limit is what such
    a process may still take. Beside it stand what `lmpipe.model.activation_memory` predicts, and the handout's list.
    """
    with held_device(device) as found:
        return measure_on(found, model_config, training, threads)


def measure_on(
    found: torch.device, model_config: ModelConfig, training: TrainingSettings, threads: int
) -> dict[str, Any]:
    """The same on a device that no other process of this user computes on, if it is a GPU."""
    compute_reproducibly(threads, found)
    load_code(model_config, training, found)
    limit = round(USABLE_SHARE * free_memory_bytes(found))
    ours, listed = step_memory(model_config, training.precision), account_adamw(model_config, limit)
    predicted, handout = within(limit, *ours), within(limit, listed.fixed_bytes, listed.bytes_per_sequence)
    sizes, stop_reason = [], "memory"
    if predicted["largest_batch_size"]:
        sizes, stop_reason = Measurement(model_config, training, found, limit, ours.per_sequence).run()
    return {
        "model": model_config.model_dump(mode="json"),
        "precision": training.precision,
        "device": device_name(found),
        "threads": threads,
        "memory_limit_bytes": limit,
        "predicted": predicted,
        "handout": handout,
        "sizes": sizes,
        "largest_batch_size": sizes[-1]["batch_size"] if sizes else 0,
        "estimated_largest_batch_size": estimated_largest(sizes, ours.per_sequence, limit),
        "stop_reason": stop_reason,
    }


def within(limit: int, fixed: int, per_sequence: int) -> Row:
    """A line of memory over the batch size, and the largest batch whose memory by it is within a limit.

    >>> within(100, 20, 30)
    {'fixed_bytes': 20, 'bytes_per_sequence': 30, 'largest_batch_size': 2}
    """
    largest = max(0, (limit - fixed) // per_sequence)
    return {"fixed_bytes": fixed, "bytes_per_sequence": per_sequence, "largest_batch_size": largest}


class Measurement:
    """Steps of growing batches of one model, none of which is trained: tokens are random, and the rate is 0."""

    def __init__(
        self,
        model_config: ModelConfig,
        training: TrainingSettings,
        device: torch.device,
        limit: int,
        bytes_per_sequence: int,
    ):
        self.training, self.device, self.limit, self.bytes_per_sequence = training, device, limit, bytes_per_sequence
        self.context_length, self.vocab_size = model_config.context_length, model_config.vocab_size
        forget_peak_memory(device)
        self.held = held_memory_bytes(device)
        model = TransformerLM(model_config, seed=0).to(device)
        self.training_step = TrainingStep(model, training, Watch(device, warmup_steps=0))

    def run(self) -> tuple[list[Row], str]:
        """The rows of all sizes, the smallest first, and what stopped them."""
        sizes: list[Row] = []
        started = time.perf_counter()
        while True:
            try:
                sizes.append(self.row(2 ** len(sizes)))
            except torch.OutOfMemoryError:
                return sizes, "memory"
            if reason := self.reason_to_stop(sizes, time.perf_counter() - started):
                return sizes, reason

    def row(self, batch_size: int) -> Row:
        """Time a batch size, and watch its memory."""
        forget_peak_memory(self.device)
        seconds = self.timed_steps(batch_size)
        step_seconds = statistics.median(seconds)
        return {
            "batch_size": batch_size,
            "steps": len(seconds),
            "step_seconds": step_seconds,
            "tokens_per_second": batch_size * self.context_length / step_seconds,
            "memory_bytes": max(0, peak_memory_bytes(self.device) - self.held),
        }

    def timed_steps(self, batch_size: int) -> list[float]:
        """Seconds of each step; the first one is left out, since it asks the system for memory."""
        generator = torch.Generator().manual_seed(batch_size)
        shape = (batch_size, self.context_length)
        batch = [torch.randint(self.vocab_size, shape, generator=generator).to(self.device) for _ in range(2)]
        seconds: list[float] = []
        self.step(*batch)
        while sum(seconds) < TIMED_SECONDS or not seconds:
            started = time.perf_counter()
            self.step(*batch)
            seconds.append(time.perf_counter() - started)
        return seconds

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Make one training step of a batch (batch, seq), and wait for it."""
        self.training_step.micro_batch_size = len(inputs)
        self.training_step.make(1, inputs, targets, learning_rate=0.0)
        self.training_step.fetch()

    def reason_to_stop(self, sizes: list[Row], spent: float) -> str | None:
        """Why no larger batch is tried, if so. A GPU says itself what does not fit."""
        last = sizes[-1]
        if 2 * last["batch_size"] * self.context_length > self.training.total_tokens:
            return "run"
        if self.device.type != "cuda":
            more = bytes_of_another(sizes, self.bytes_per_sequence) * last["batch_size"]
            if last["memory_bytes"] + more > self.limit:
                return "memory"
        # At least two steps of twice the tokens.
        return "time" if spent + 4 * last["step_seconds"] > MOST_SECONDS else None


def bytes_of_another(sizes: list[Row], predicted: int) -> float:
    """Memory of one more sequence: as the last two sizes differ, or as predicted where they do not tell."""
    if len(sizes) < 2:
        return predicted
    before, last = sizes[-2:]
    measured = (last["memory_bytes"] - before["memory_bytes"]) / (last["batch_size"] - before["batch_size"])
    return measured if measured > 0 else predicted


def estimated_largest(sizes: list[Row], predicted: int, limit: int) -> int:
    """The largest batch size whose memory, continued in a straight line from the last two sizes, is within a limit.

    >>> sizes = [{"batch_size": 8, "memory_bytes": 180}, {"batch_size": 16, "memory_bytes": 260}]
    >>> estimated_largest(sizes, predicted=9, limit=500)
    40
    """
    if not sizes:
        return 0
    last = sizes[-1]
    left = max(0, limit - last["memory_bytes"])
    return last["batch_size"] + int(left // bytes_of_another(sizes, predicted))
