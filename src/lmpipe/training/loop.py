"""Per-process training loop: batch, learning rate and execution (compiled? micro-batches?) of each step."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lmpipe.data.token_dataset import CHUNK_TOKENS, Tokens, batch_starts, get_batch
from lmpipe.model.accounting import forward_flops
from lmpipe.model.functional import load_kernels
from lmpipe.model.transformer import TransformerLM, init_stds
from lmpipe.training.compile import compile_step, should_compile
from lmpipe.training.devices import device_name, free_memory_bytes, is_deterministic, set_threads
from lmpipe.training.distributed import ProcessGroup
from lmpipe.training.optimizer import cosine_lr
from lmpipe.training.run import RunInputs
from lmpipe.training.run_documents import InitDigest
from lmpipe.training.step import DivergenceMonitor, StepResult, TrainingStep, find_micro_batch_size

# Steps at most before the host fetches their results; a CPU does not run ahead. Signals and checkpoints wait for them,
# so that fewer are taken if they need more than a second.
GPU_STEPS_PER_SYNC, CPU_STEPS_PER_SYNC = 128, 1
SYNC_SECONDS = 1.0
MAX_DEVICE_FRACTION = 0.25  # of a GPU's free memory, for the training tokens


@dataclass(frozen=True)
class Execution:
    """Choices beside the settings that decide the last digits of a result, fixed for the whole run."""

    device: str
    threads: int
    processes: int
    compile: bool
    micro_batch_size: int
    deterministic: bool


class DeviceTokens:
    """Training tokens on the device, which are gathered to batches without the host."""

    def __init__(self, tokens: Tokens, device: torch.device):
        # torch has few operations on unsigned integers: the bits are stored as signed, and masked when they are read.
        signed, self.mask = ("<i2", 0xFFFF) if tokens.dtype.itemsize == 2 else ("<i4", 0xFFFFFFFF)
        self.ids = torch.empty(len(tokens), dtype=torch.int16 if signed == "<i2" else torch.int32, device=device)
        for start in range(0, len(tokens), CHUNK_TOKENS):
            chunk = torch.from_numpy(tokens[start : start + CHUNK_TOKENS].view(signed).copy())
            self.ids[start : start + len(chunk)] = chunk.to(device)

    def get_batch(self, starts: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each (batch, seq), of the windows that start at `starts` (batch,)."""
        indices = starts[:, None] + torch.arange(context_length + 1, device=starts.device)
        windows = self.ids[indices].long() & self.mask
        return windows[:, :-1], windows[:, 1:]


def init_digests(model: TransformerLM) -> dict[str, InitDigest]:
    """Digest each weight matrix of a model on the CPU; equal digests show that runs are paired."""
    digests = {}
    for name, weight, _ in init_stds(model):
        data = weight.detach().contiguous().numpy().tobytes()
        digests[name] = InitDigest(parameters=weight.numel(), sha256=hashlib.sha256(data).hexdigest()[:32])
    return digests


def evaluation_steps(steps: int, num_evaluations: int) -> frozenset[int]:
    """Return the steps after which the curve is evaluated: evenly spread, the last one included.

    >>> sorted(evaluation_steps(10, 3))
    [3, 7, 10]
    """
    return frozenset(max(1, round(steps * i / num_evaluations)) for i in range(1, num_evaluations + 1))


class TrainLoop:
    """Steps of one run on this process's slice of each batch."""

    def __init__(self, inputs: RunInputs, device: torch.device, threads: int, group: ProcessGroup | None = None):
        self.inputs, self.config, self.device, self.threads = inputs, inputs.config, device, threads
        self.group = group or ProcessGroup()
        model = TransformerLM(inputs.config.model, inputs.config.seed)
        self.init_digests = init_digests(model) if self.group.is_main else {}
        self.model = model.to(device)
        self.monitor = DivergenceMonitor(device, inputs.config.warmup_steps)
        self.step = TrainingStep(self.model, inputs.config.training, self.monitor, self.group)
        self.optimizer = self.step.optimizer
        self.evaluation_steps = evaluation_steps(inputs.config.steps, inputs.config.training.num_evaluations)
        tokens = inputs.train.tokens
        num_bytes = len(tokens) * tokens.dtype.itemsize
        fits = device.type == "cuda" and num_bytes < MAX_DEVICE_FRACTION * free_memory_bytes(device)
        self.device_tokens = DeviceTokens(tokens, device) if fits else None
        self.compile_seconds = 0.0

    def choose_execution(self, recorded: Execution | None, cache: Path) -> Execution:
        """Choose if the step is compiled, its micro-batch size and threads, as `recorded` if the run is resumed.

        Rank 0 chooses for all processes. `cache` keeps compiled code. Returns the present execution.
        """
        training, group = self.config.training, self.group
        choice = torch.tensor([0, 0, self.threads], device=self.device)
        if self.device.type == "cuda":
            group.broadcast([choice])  # NCCL allocates its buffers before the search for what fits into the rest
            self.step.warm_up()
        if recorded is not None:
            for index, value in enumerate((recorded.compile, recorded.micro_batch_size, recorded.threads)):
                choice[index] = value
        elif group.is_main:
            # A backward pass costs as much as two forward passes.
            flops = 3 * forward_flops(self.config.model) * training.batch_size * self.config.steps
            choice[0] = should_compile(training.compile, flops, self.device)
            choice[1] = find_micro_batch_size(self.step, -(-training.batch_size // group.world_size))
        group.broadcast([choice])
        is_compiled, self.step.micro_batch_size, self.threads = choice.tolist()
        set_threads(self.threads)
        # Before the first step, so that no step's time includes it.
        started = time.perf_counter()
        load_kernels(self.device)
        if is_compiled:
            rows = group.local_slice(training.batch_size)
            is_compiled = compile_step(self.step, rows.stop - rows.start, cache)
        self.compile_seconds = time.perf_counter() - started
        name, is_exact = device_name(self.device), is_deterministic(self.device)
        return Execution(name, self.threads, group.world_size, bool(is_compiled), self.step.micro_batch_size, is_exact)

    def broadcast_state(self, step: int) -> int:
        """Give all processes the weights, moments and losses of rank 0 after `step`, and return that step."""
        step_tensor = torch.tensor(step, device=self.device)
        optimizer, monitor = self.optimizer, self.monitor
        moments = [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()]
        weights = [parameter.data for parameter in self.model.parameters()]
        losses = [monitor.initial_loss, monitor.recent_losses, monitor.diverged]
        self.group.broadcast([*weights, *moments, optimizer.step_count, *losses, step_tensor])
        return int(step_tensor)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step; steps count from 1, so that no update has rate 0."""
        training = self.config.training
        min_lr = training.max_lr * training.min_lr_ratio
        return cosine_lr(step, training.max_lr, min_lr, self.config.warmup_steps, self.config.steps)

    def get_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each (batch, seq), of this process's slice of a step, on the device."""
        inputs, batch_size = self.inputs, self.config.training.batch_size
        tokens, context_length = inputs.train.tokens, inputs.config.model.context_length
        rows = self.group.local_slice(batch_size)
        if self.device_tokens is None:
            arrays = get_batch(tokens, inputs.config.seed, step, batch_size, context_length)
            return tuple(torch.from_numpy(array[rows]).to(self.device) for array in arrays)
        starts = torch.from_numpy(batch_starts(len(tokens), inputs.config.seed, step, batch_size, context_length)[rows])
        # A copy from pinned memory does not wait for the GPU.
        return self.device_tokens.get_batch(starts.pin_memory().to(self.device, non_blocking=True), context_length)

    def steps_per_sync(self, step_seconds: float) -> int:
        """Return how many steps of `step_seconds` to take before their results are fetched."""
        limit = GPU_STEPS_PER_SYNC if self.device.type == "cuda" else CPU_STEPS_PER_SYNC
        return min(limit, max(1, int(SYNC_SECONDS / step_seconds)))

    def run_chunk(self, first: int, count: int) -> list[StepResult]:
        """Run `count` steps, or those to the next evaluation or the end; return results up to a diverged step."""
        last = min(first + count - 1, self.config.steps)
        last = next((step for step in range(first, last) if step in self.evaluation_steps), last)
        for step in range(first, last + 1):
            self.step.run(step, *self.get_batch(step), self.learning_rate(step))
        return self.step.collect()

    def run_worker(self, cache: Path) -> None:
        """Run this process's share of the run, until rank 0 ends it."""
        self.choose_execution(None, cache)
        step = self.broadcast_state(0)
        while count := self.group.broadcast_number(0, self.device):
            step += len(self.run_chunk(step + 1, count))
