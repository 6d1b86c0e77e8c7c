"""One training step on its device: the gradients of a whole batch, an update, and the watch over divergence.

The host gives the work and waits for nothing: what came of the steps is fetched later, several at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmpipe.model.functional import CrossEntropyChunk, autocast_type, cross_entropy_chunk, linear_cross_entropy
from lmpipe.model.transformer import TransformerLM
from lmpipe.study.settings import TrainingSettings
from lmpipe.training.distributed import Processes
from lmpipe.training.optimizer import AdamW, clipping_divisor, gradient_norm

# A run has diverged when its loss, averaged over so many steps, lies so many nats above where it began.
DIVERGENCE_STEPS = 20
DIVERGENCE_NATS = 0.5

Hidden = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Taken:
    """What a step came to: loss in nats per token, gradient norm, and whether the run has diverged with it."""

    loss: float
    norm: float
    diverged: bool

    @property
    def is_updated(self) -> bool:
        """Whether the update was made; one that would break the weights is not."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Watch:
    """Judges on the device whether a run has diverged; from then on `halted` is 1, and nothing is updated any more.

    A loss or gradient that is not finite halts before its update, a loss that climbed after it. `warmup_steps` later
    than DIVERGENCE_STEPS the climbing counts.
    """

    def __init__(self, device: torch.device, warmup_steps: int):
        self.first_judged = warmup_steps + DIVERGENCE_STEPS
        self.halted = torch.zeros((), device=device)
        self.initial = torch.zeros((), device=device)
        self.latest = torch.zeros(DIVERGENCE_STEPS, device=device)

    def restore(self, step: int, initial: float, latest: list[float]) -> None:
        """Put back what was seen up to a step: the first loss, and the latest ones in their order."""
        self.initial.fill_(initial)
        for back, loss in enumerate(reversed(latest)):
            self.latest[(step - 1 - back) % DIVERGENCE_STEPS] = loss

    @torch.no_grad()
    def before_update(self, loss: Tensor, norm: Tensor) -> None:
        """Halt where the update would break the weights."""
        is_broken = ~(torch.isfinite(loss) & torch.isfinite(norm))
        torch.maximum(self.halted, is_broken.to(self.halted.dtype), out=self.halted)

    @torch.no_grad()
    def after_update(self, step: int, loss: Tensor) -> None:
        """Halt where the loss has climbed; steps count from 1."""
        if step == 1:
            self.initial.copy_(loss)
        self.latest[(step - 1) % DIVERGENCE_STEPS] = loss
        if step >= self.first_judged:
            has_climbed = self.latest.mean() - self.initial > DIVERGENCE_NATS
            torch.maximum(self.halted, has_climbed.to(self.halted.dtype), out=self.halted)


class TrainingStep:
    """Makes the steps of one run, a batch in as many parts as fit, in as many processes as there are.

    `hidden` is the model up to its output matrix, and `chunk` the loss of a few rows, as they are or compiled.
    """

    def __init__(
        self,
        model: TransformerLM,
        training: TrainingSettings,
        watch: Watch,
        processes: Processes | None = None,
    ):
        self.model, self.training, self.watch = model, training, watch
        self.processes = processes or Processes()
        self.parameters = list(model.parameters())
        self.optimizer = AdamW(model, training)
        self.optimizer.skips = watch.halted
        self.hidden: Hidden = model.forward_hidden
        self.chunk: CrossEntropyChunk = cross_entropy_chunk
        self.micro_batch_size = training.batch_size
        self.pending: list[Tensor] = []

    def make(self, step: int, inputs: Tensor, targets: Tensor, learning_rate: float) -> None:
        """Make a step from this process's share of a batch, (batch, seq); what it came to is fetched later."""
        loss = self.gradients(inputs, targets)
        norm = gradient_norm(self.parameters)
        self.watch.before_update(loss, norm)
        self.optimizer.divisor = clipping_divisor(norm, self.training.max_grad_norm)
        self.optimizer.step(learning_rate)
        self.optimizer.zero_grad()
        self.watch.after_update(step, loss)
        self.pending.append(torch.stack((loss, norm, self.watch.halted)))

    def gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of the whole batch, of all processes; its gradients are left in the parameters."""
        tokens = targets.numel() * self.training.batch_size // len(targets)
        total = torch.zeros((), device=inputs.device)
        for start in range(0, len(inputs), self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            loss = self.loss(inputs[part], targets[part]) / tokens
            loss.backward()
            total += loss.detach()
        return self.processes.sum_gradients(self.parameters, total)

    def part_sizes(self, batch_size: int) -> list[int]:
        """The different sizes of the parts in which so many sequences are computed, the largest first."""
        starts = range(0, batch_size, self.micro_batch_size)
        return sorted({min(self.micro_batch_size, batch_size - start) for start in starts}, reverse=True)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of a part of a batch."""
        dtype = autocast_type(self.training.precision)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype is not None):
            # Windows overlap with their targets in memory; compiled code is that of one layout.
            hidden = self.hidden(inputs.contiguous())
        return linear_cross_entropy(hidden, self.model.lm_head.weight, targets, dtype, self.chunk)

    def fetch(self) -> list[Taken]:
        """What the steps came to that were made since the last call, up to one with which the run diverged."""
        rows, self.pending = torch.stack(self.pending).tolist(), []
        taken = []
        for loss, norm, halted in rows:
            taken.append(Taken(loss, norm, bool(halted)))
            if halted:
                break
        return taken

    def try_batch(self, batch_size: int) -> None:
        """Compute the gradients of a batch of one token, repeated, and forget them."""
        token_ids = torch.zeros((batch_size, self.model.config.context_length), dtype=torch.long, device=self.device)
        self.loss(token_ids, token_ids).backward()
        self.optimizer.zero_grad()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.lm_head.weight.device
