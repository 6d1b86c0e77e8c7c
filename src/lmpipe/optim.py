"""Optimisation: AdamW's parameter groups, the cosine schedule, gradient clipping, and the SGD toy of the handout."""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmpipe.files import atomic_write
from lmpipe.settings import TrainingSettings

CLIP_EPS = 1e-6
TOY_LEARNING_RATES = (1.0, 10.0, 100.0, 1000.0)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay, vectors (the norms' gains) do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, training: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over a model, as one kernel for all its parameters.

    torch's order: the weights decay first; eps is added after the bias correction.
    """
    groups = parameter_groups(model, training.weight_decay)
    return torch.optim.AdamW(groups, lr=training.max_lr, betas=training.betas, eps=training.eps, fused=True)


def cosine_lr(step: int, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of a step (handout, section 4.4): linear warm-up, half a cosine down to min_lr, then min_lr.

    >>> [cosine_lr(step, 1.0, 0.1, 2, 6) for step in (1, 2, 4, 6, 9)]
    [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step > total_steps:
        return min_lr
    descended = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return min_lr + 0.5 * (1 + math.cos(math.pi * descended)) * (max_lr - min_lr)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by max_norm / (norm + 1e-6) where their joint L2 norm exceeds max_norm; return that norm.

    Handout, section 4.5. The norm (a tensor without dimensions) stays on the device, so that nothing waits for it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale = torch.where(norm > max_norm, max_norm / (norm + CLIP_EPS), 1.0)
    torch._foreach_mul_(gradients, scale)
    return norm


class SGD(torch.optim.Optimizer):
    """Gradient descent whose rate falls as lr / sqrt(t + 1), t counting updates from 0 (handout, section 4.2)."""

    def __init__(self, parameters: Iterable[Tensor], lr: float):
        super().__init__(parameters, {"lr": lr})
        self.updates = 0

    @torch.no_grad()
    def step(self) -> None:
        """Make one update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] / math.sqrt(self.updates + 1) * parameter.grad
        self.updates += 1


def toy_losses(learning_rate: float, iterations: int, seed: int) -> Iterator[float]:
    """The losses of the toy before each update and after the last: the mean square of 10 x 10 weights 5 * randn."""
    generator = torch.Generator().manual_seed(seed)
    weights = nn.Parameter(5 * torch.randn((10, 10), generator=generator))
    optimizer = SGD([weights], learning_rate)
    for _ in range(iterations):
        optimizer.zero_grad()
        loss = (weights**2).mean()
        yield loss.item()
        loss.backward()
        optimizer.step()
    yield (weights**2).mean().item()


def tune_sgd_toy(
    path: str | Path, learning_rates: Iterable[float] = TOY_LEARNING_RATES, iterations: int = 10, seed: int = 0
) -> None:
    """Train the toy at several rates and write a CSV of learning_rate, step and loss; an overflow's cell is empty."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("learning_rate", "step", "loss"))
        for learning_rate in learning_rates:
            for step, loss in enumerate(toy_losses(learning_rate, iterations, seed)):
                writer.writerow((f"{learning_rate:g}", step, repr(loss) if math.isfinite(loss) else ""))
