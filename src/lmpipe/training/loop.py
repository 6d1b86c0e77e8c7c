"""The course of a run in one process: which batch, rate and parts each step has, and how it is computed."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmpipe.data.token_dataset import CHUNK_TOKENS, Tokens, batch_starts, get_batch
from lmpipe.model.accounting import forward_flops
from lmpipe.model.transformer import TransformerLM, init_stds
from lmpipe.training.compile import compile_step, is_worthwhile
from lmpipe.training.devices import free_memory_bytes
from lmpipe.training.distributed import Processes
from lmpipe.training.micro_batching import find_micro_batch_size
from lmpipe.training.optimizer import cosine_lr
from lmpipe.training.run_config import RunInputs
from lmpipe.training.step import Taken, TrainingStep, Watch

# A GPU is given so many steps before the host waits for what came of them.
GPU_STEPS_AT_ONCE = 16
# The share of a GPU's free memory that the training tokens may take.
RESIDENT_SHARE = 0.25


class ResidentTokens:
    """The training tokens as a tensor on the device, from which batches are taken without the host."""

    def __init__(self, tokens: Tokens, device: torch.device):
        # torch reckons with signed integers alone: the bits are kept, and the sign is taken off again.
        signed, self.mask = ("<i2", 0xFFFF) if tokens.dtype.itemsize == 2 else ("<i4", 0xFFFFFFFF)
        self.ids = torch.empty(len(tokens), dtype=torch.int16 if signed == "<i2" else torch.int32, device=device)
        for start in range(0, len(tokens), CHUNK_TOKENS):
            part = torch.from_numpy(tokens[start : start + CHUNK_TOKENS].view(signed).copy())
            self.ids[start : start + len(part)] = part.to(device)

    def batch(self, starts: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq) of the windows that begin at starts (batch,)."""
        places = starts[:, None] + torch.arange(context_length + 1, device=starts.device)
        windows = self.ids[places].long() & self.mask
        return windows[:, :-1], windows[:, 1:]


def weight_digests(model: TransformerLM) -> dict[str, dict[str, Any]]:
    """The size and digest of every matrix of a model on the CPU, by which models that begin alike are known."""
    return {name: {"parameters": weight.numel(), "sha256": digest(weight)} for name, weight, _ in init_stds(model)}


def digest(weight: Tensor) -> str:
    """The first half of the SHA-256 of a matrix on the CPU."""
    return hashlib.sha256(weight.detach().contiguous().numpy().tobytes()).hexdigest()[:32]


class Course:
    """The steps of one run, as this process makes its share of them."""

    def __init__(self, inputs: RunInputs, device: torch.device, processes: Processes | None = None):
        self.inputs, self.device, self.processes = inputs, device, processes or Processes()
        model = TransformerLM(inputs.model, inputs.seed)
        self.init_digests = weight_digests(model) if self.processes.is_first else {}
        self.model = model.to(device)
        self.watch = Watch(device, inputs.warmup_steps)
        self.step = TrainingStep(self.model, inputs.training, self.watch, self.processes)
        self.optimizer = self.step.optimizer
        tokens = inputs.train.tokens
        bytes_on_device = len(tokens) * tokens.dtype.itemsize
        is_resident = device.type == "cuda" and bytes_on_device < RESIDENT_SHARE * free_memory_bytes(device)
        self.resident = ResidentTokens(tokens, device) if is_resident else None

    def decide(self, recorded: dict[str, Any], cache: Path) -> dict[str, Any]:
        """Settle whether the step is compiled, and into how many parts a batch is taken; as `recorded`, if it is.

        Both depend on the whole run, and stay for all of it: they decide the last digits. The first process decides.
        """
        training, share = self.inputs.training, -(-self.inputs.training.batch_size // self.processes.count)
        decided = torch.zeros(2, dtype=torch.int64, device=self.device)
        if self.processes.is_first:
            decided[0] = recorded.get("compile", is_worthwhile(training.compile, self.flops, self.device))
            decided[1] = recorded.get("micro_batch_size") or find_micro_batch_size(
                self.step, self.inputs.model, training, share
            )
        self.processes.copy_from_first([decided])
        is_compiled, self.step.micro_batch_size = bool(decided[0]), int(decided[1])
        if is_compiled:
            own = self.processes.share(training.batch_size)
            is_compiled = compile_step(self.step, own.stop - own.start, cache)
        return {"compile": is_compiled, "micro_batch_size": self.step.micro_batch_size}

    @property
    def flops(self) -> int:
        """Matrix-multiply FLOPs of all steps; a backward pass costs as much as two forward passes."""
        return 3 * forward_flops(self.inputs.model) * self.inputs.training.batch_size * self.inputs.steps

    def start_together(self, step: int) -> int:
        """Give all processes the weights, moments and losses that the first one has after a step; return that step."""
        made = torch.tensor(step, device=self.device)
        optimizer, watch = self.optimizer, self.watch
        moments = [*optimizer.exp_avg.values(), *optimizer.exp_avg_sq.values()]
        weights = [parameter.data for parameter in self.model.parameters()]
        tensors = [*weights, *moments, optimizer.updates, watch.initial, watch.latest, watch.halted, made]
        self.processes.copy_from_first(tensors)
        return int(made)

    def learning_rate(self, step: int) -> float:
        """The rate of a step; steps count from 1, so that no update is wasted at rate 0."""
        training = self.inputs.training
        min_lr = training.max_lr * training.min_lr_ratio
        return cosine_lr(step, training.max_lr, min_lr, self.inputs.warmup_steps, self.inputs.steps)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (batch, seq) of this process's share of a step, on the device."""
        inputs, batch_size = self.inputs, self.inputs.training.batch_size
        tokens, context_length = inputs.train.tokens, inputs.model.context_length
        share = self.processes.share(batch_size)
        if self.resident is None:
            arrays = get_batch(tokens, inputs.seed, step, batch_size, context_length)
            return tuple(torch.from_numpy(array[share]).to(self.device) for array in arrays)
        starts = torch.from_numpy(batch_starts(len(tokens), inputs.seed, step, batch_size, context_length)[share])
        # From pinned memory the copy does not wait.
        return self.resident.batch(starts.pin_memory().to(self.device, non_blocking=True), context_length)

    def steps_at_once(self) -> int:
        """How many steps are made before the host looks at what came of them; a CPU does not run ahead."""
        return GPU_STEPS_AT_ONCE if self.device.type == "cuda" else 1

    def make_steps(self, first: int, last: int) -> list[Taken]:
        """Make the steps from `first` to `last`, and tell what they came to, up to one with which the run diverged."""
        for step in range(first, last + 1):
            self.step.make(step, *self.batch(step), self.learning_rate(step))
        return self.step.fetch()

    def last_at_once(self, first: int, stops: frozenset[int]) -> int:
        """The last of the steps that are made at once from `first` on: none of `stops`, or the run's end, is passed."""
        limit = min(first + self.steps_at_once() - 1, self.inputs.steps)
        return next((step for step in range(first, limit) if step in stops), limit)
