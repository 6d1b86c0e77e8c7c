"""Optimisation: AdamW, the cosine schedule, gradient clipping, and the SGD toy of the handout."""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lmpipe.io.files import atomic_write
from lmpipe.study.settings import TrainingSettings

CLIP_EPS = 1e-6
TOY_LEARNING_RATES = (1.0, 10.0, 100.0, 1000.0)


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over a model's parameters, in torch's one fused kernel.

    torch's order: the weights decay first; eps is added after the bias correction. Matrices decay, vectors (the norms'
    gains) do not. `exp_avg` and `exp_avg_sq` hold the moments by parameter name, `updates` the number of steps made.
    Two numbers on the device, which the host need not know, steer an update: gradients are first divided by `divisor`,
    and where `skips` is 1, nothing changes.

    torch.optim.AdamW(fused=True) calls the same kernel, but its first step loads torch's compiler: two seconds for
    every run of a study, most of what a short run takes.
    """

    def __init__(self, model: nn.Module, training: TrainingSettings):
        self.betas, self.eps = training.betas, training.eps
        self.parameters = dict(model.named_parameters())
        self.exp_avg = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        device = next(iter(self.parameters.values())).device
        self.updates, self.divisor, self.skips = (torch.full((), value, device=device) for value in (0.0, 1.0, 0.0))
        decaying = [name for name, parameter in self.parameters.items() if parameter.dim() >= 2]
        others = [name for name in self.parameters if name not in decaying]
        self.groups = [(names, decay) for names, decay in ((decaying, training.weight_decay), (others, 0.0)) if names]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Make one update at a rate from the parameters' gradients, or none where `skips` says so."""
        self.updates += 1 - self.skips
        for names, weight_decay in self.groups:
            torch._fused_adamw_(
                [self.parameters[name] for name in names],
                [self.parameters[name].grad for name in names],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [self.updates] * len(names),
                lr=learning_rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=weight_decay,
                eps=self.eps,
                amsgrad=False,
                maximize=False,
                grad_scale=self.divisor,
                found_inf=self.skips,
            )

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None


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
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The joint L2 norm of all gradients, a tensor without dimensions that stays on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clipping_divisor(norm: Tensor, max_norm: float) -> Tensor:
    """What gradients of a joint norm are divided by: (norm + 1e-6) / max_norm above max_norm, otherwise 1.

    Handout, section 4.5. The optimizer divides while it reads the gradients, which saves a pass over them.
    """
    return torch.where(norm > max_norm, (norm + CLIP_EPS) / max_norm, 1.0)


def toy_losses(learning_rate: float, iterations: int, seed: int) -> Iterator[float]:
    """The losses of the toy before each update and after the last: the mean square of 10 x 10 weights 5 * randn.

    Gradient descent whose rate falls as lr / sqrt(t + 1), t counting updates from 0 (handout, section 4.2).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = nn.Parameter(5 * torch.randn((10, 10), generator=generator))
    for t in range(iterations):
        loss = (weights**2).mean()
        yield loss.item()
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= learning_rate / math.sqrt(t + 1) * gradient
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
