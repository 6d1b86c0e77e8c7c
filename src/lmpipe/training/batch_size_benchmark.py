"""Cost of each batch size on this machine: a timed step for each doubling, up to the largest batch that fits."""

import statistics
import time

import torch

from lmpipe.model.accounting import account_adamw
from lmpipe.model.activation_memory import step_memory
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.training.devices import (
    acquire_device,
    allocated_memory_bytes,
    device_name,
    free_memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
    set_deterministic,
)
from lmpipe.training.measurements import BatchSizeBenchmark, BatchSizeRow, MemoryLine, StopReason
from lmpipe.training.profiling import warm_up
from lmpipe.training.step import MAX_MEMORY_FRACTION, DivergenceMonitor, TrainingStep

MAX_SECONDS = 10.0  # of the whole benchmark; a batch that would exceed it is not tried
MIN_TIMED_SECONDS = 0.3  # a step of a small batch is repeated for so long


def benchmark_batch_sizes(
    config: ModelConfig, training: TrainingSettings, *, threads: int = 1, device: str | None = None
) -> BatchSizeBenchmark:
    """Time a training step at each doubling of the batch size, and find the largest batch that fits."""
    with acquire_device(device) as acquired:
        set_deterministic(threads, acquired)
        warm_up(config, training, acquired)
        limit = round(MAX_MEMORY_FRACTION * free_memory_bytes(acquired))
        memory, handout = step_memory(config, training.precision), account_adamw(config, limit)
        predicted = memory_line(limit, *memory)
        rows, stop_reason = [], "memory"
        if predicted.largest_batch_size:
            rows, stop_reason = StepTimer(config, training, acquired, limit, memory.per_sequence).run()
        return BatchSizeBenchmark(
            model=config,
            precision=training.precision,
            device=device_name(acquired),
            threads=threads,
            memory_limit_bytes=limit,
            predicted=predicted,
            handout=memory_line(limit, handout.fixed_bytes, handout.bytes_per_sequence),
            sizes=rows,
            largest_batch_size=rows[-1].batch_size if rows else 0,
            estimated_largest_batch_size=extrapolate_largest(rows, memory.per_sequence, limit),
            stop_reason=stop_reason,
        )


def memory_line(limit: int, fixed_bytes: int, bytes_per_sequence: int) -> MemoryLine:
    """Return a line of memory over the batch size, with the largest batch within `limit` bytes.

    >>> memory_line(100, 20, 30).largest_batch_size
    2
    """
    largest = max(0, (limit - fixed_bytes) // bytes_per_sequence)
    return MemoryLine(fixed_bytes=fixed_bytes, bytes_per_sequence=bytes_per_sequence, largest_batch_size=largest)


class StepTimer:
    """Steps of growing batches of one model on random tokens, with learning rate 0."""

    def __init__(
        self,
        config: ModelConfig,
        training: TrainingSettings,
        device: torch.device,
        limit: int,
        predicted_bytes_per_sequence: int,
    ):
        self.training, self.device, self.limit = training, device, limit
        self.predicted_bytes_per_sequence = predicted_bytes_per_sequence
        self.context_length, self.vocab_size = config.context_length, config.vocab_size
        reset_peak_memory(device)
        self.initial_bytes = allocated_memory_bytes(device)
        model = TransformerLM(config, seed=0).to(device)
        self.training_step = TrainingStep(model, training, DivergenceMonitor(device, warmup_steps=0))

    def run(self) -> tuple[list[BatchSizeRow], StopReason]:
        """Measure each doubling; return the rows, the smallest batch first, and why they end."""
        rows: list[BatchSizeRow] = []
        started = time.perf_counter()
        while True:
            try:
                rows.append(self.measure(2 ** len(rows)))
            except torch.OutOfMemoryError:
                return rows, "memory"
            if reason := self.stop_reason(rows, time.perf_counter() - started):
                return rows, reason

    def measure(self, batch_size: int) -> BatchSizeRow:
        """Time steps of one batch size, and measure their peak memory."""
        reset_peak_memory(self.device)
        seconds = self.time_steps(batch_size)
        step_seconds = statistics.median(seconds)
        return BatchSizeRow(
            batch_size=batch_size,
            steps=len(seconds),
            step_seconds=step_seconds,
            tokens_per_second=batch_size * self.context_length / step_seconds,
            memory_bytes=max(0, peak_memory_bytes(self.device) - self.initial_bytes),
        )

    def time_steps(self, batch_size: int) -> list[float]:
        """Return the seconds of each step but the first, which allocates memory."""
        generator = torch.Generator().manual_seed(batch_size)
        shape = (batch_size, self.context_length)
        batch = [torch.randint(self.vocab_size, shape, generator=generator).to(self.device) for _ in range(2)]
        seconds: list[float] = []
        self.run_step(*batch)
        while sum(seconds) < MIN_TIMED_SECONDS or not seconds:
            started = time.perf_counter()
            self.run_step(*batch)
            seconds.append(time.perf_counter() - started)
        return seconds

    def run_step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Take one training step on a batch, (batch, seq), and wait for it."""
        self.training_step.micro_batch_size = len(inputs)
        self.training_step.run(1, inputs, targets, lr=0.0)
        self.training_step.collect()

    def stop_reason(self, rows: list[BatchSizeRow], elapsed: float) -> StopReason | None:
        """Return why the next doubling is not tried, if so. A GPU itself reports what does not fit."""
        last = rows[-1]
        if 2 * last.batch_size * self.context_length > self.training.total_tokens:
            return "run"
        if self.device.type != "cuda":
            growth = bytes_per_sequence(rows, self.predicted_bytes_per_sequence) * last.batch_size
            if last.memory_bytes + growth > self.limit:
                return "memory"
        # At least two steps of twice the tokens.
        return "time" if elapsed + 4 * last.step_seconds > MAX_SECONDS else None


def bytes_per_sequence(rows: list[BatchSizeRow], predicted: int) -> float:
    """Return the slope of memory between the last two rows, or `predicted` if it is not positive."""
    if len(rows) < 2:
        return predicted
    before, last = rows[-2:]
    measured = (last.memory_bytes - before.memory_bytes) / (last.batch_size - before.batch_size)
    return measured if measured > 0 else predicted


def extrapolate_largest(rows: list[BatchSizeRow], predicted: int, limit: int) -> int:
    """Return the largest batch size within `limit` bytes, on the line through the last two rows.

    `predicted` are the bytes per sequence to use if the rows give no slope.
    """
    if not rows:
        return 0
    last = rows[-1]
    available = max(0, limit - last.memory_bytes)
    return last.batch_size + int(available // bytes_per_sequence(rows, predicted))
