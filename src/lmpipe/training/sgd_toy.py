"""SGD toy (handout, section 4.2): losses of ten gradient descent steps at several learning rates."""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import nn

from lmpipe.io.files import atomic_write


def sgd_toy_losses(lr: float, num_steps: int, seed: int) -> Iterator[float]:
    """Yield the mean square of 10 x 10 weights, initially 5 * randn, before each update and after the last.

    The learning rate decays as lr / sqrt(t + 1), where t counts updates from 0.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = nn.Parameter(5 * torch.randn((10, 10), generator=generator))
    for t in range(num_steps):
        loss = (weights**2).mean()
        yield loss.item()
        (gradient,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= lr / math.sqrt(t + 1) * gradient
    yield (weights**2).mean().item()


def run_sgd_toy(
    path: str | Path, learning_rates: Iterable[float] = (1.0, 10.0, 100.0, 1000.0), num_steps: int = 10, seed: int = 0
) -> None:
    """Write a CSV of learning_rate, step and loss; the loss is empty if it overflowed."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("learning_rate", "step", "loss"))
        for lr in learning_rates:
            for step, loss in enumerate(sgd_toy_losses(lr, num_steps, seed)):
                writer.writerow((f"{lr:g}", step, repr(loss) if math.isfinite(loss) else ""))
