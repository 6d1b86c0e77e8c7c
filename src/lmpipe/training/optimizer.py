"""AdamW, gradient clipping and the cosine learning rate schedule."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from lmpipe.errors import InputError
from lmpipe.io.validation import require_type, short_repr
from lmpipe.study.settings import TrainingSettings

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
# Devices whose fused kernel uses grad_scale and found_inf; that of MPS ignores both (pytorch#186360, after torch 2.13).
SCALING_DEVICES = ("cpu", "cuda")


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) over a model's parameters, in torch's fused kernel.

    `AdamW(model.parameters(), lr=1e-3)`, then `step()` and `zero_grad()`, as with torch's; `step(lr)` or
    `param_groups` change the rate. The order is torch's: weights decay first, eps is added after the bias correction.
    Matrices decay; vectors (the gains of norms) do not. `exp_avg` and `exp_avg_sq` hold the moments by parameter name,
    `step_count` the number of updates. `found_inf` is a scalar on the device: while it is 1, updates change nothing.

    torch.optim.AdamW(fused=True) calls the same kernel, but its first step loads torch's compiler: two seconds in
    every run of a study, most of the time of a short run.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        found_inf: Tensor | None = None,
    ):
        """Take a module, its `parameters()` or its `named_parameters()`; the settings have torch's names and defaults.

        Raises InputError for anything else.
        """
        settings = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        for where, value in settings.items():
            if not isinstance(value, Real) or not 0 <= value < math.inf:
                raise InputError(where, f"is {short_repr(value)}", "pass a number of 0 or more")
        if not isinstance(betas, Sequence) or [isinstance(b, Real) and 0 <= b < 1 for b in betas] != [True, True]:
            raise InputError("betas", f"is {short_repr(betas)}", "pass two numbers below 1, such as (0.9, 0.95)")
        self.betas, self.eps = betas, eps
        self.parameters = name_parameters(params)
        self.exp_avg = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        self.exp_avg_sq = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        device = next(iter(self.parameters.values())).device
        self.is_scaled_by_kernel = device.type in SCALING_DEVICES
        self.step_count = torch.zeros((), device=device)
        self.found_inf = torch.zeros((), device=device) if found_inf is None else found_inf
        decaying = [name for name, parameter in self.parameters.items() if parameter.dim() >= 2]
        others = [name for name in self.parameters if name not in decaying]
        self.param_groups = [
            {"names": names, "lr": lr, "weight_decay": decay}
            for names, decay in ((decaying, weight_decay), (others, 0.0))
            if names
        ]

    @classmethod
    def from_settings(cls, model: nn.Module, training: TrainingSettings, found_inf: Tensor | None = None) -> Self:
        """Return the optimizer of a training run."""
        return cls(model, training.max_lr, training.betas, training.eps, training.weight_decay, found_inf)

    @torch.no_grad()
    def step(self, lr: float | None = None, grad_scale: Tensor | None = None) -> None:
        """Update the parameters from their gradients divided by `grad_scale` (a scalar), unless `found_inf` is 1.

        Parameters without a gradient, such as frozen ones, stay as they are. All share one number of updates, so that
        the first update of one that is unfrozen late is smaller than torch's. `lr` replaces that of the groups.
        """
        gradients = {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}
        if not self.is_scaled_by_kernel:
            if self.found_inf.item():
                return
            if grad_scale is not None:
                torch._foreach_div_(list(gradients.values()), grad_scale)
                grad_scale = None
        self.step_count += 1 - self.found_inf
        for group in self.param_groups:
            names = [name for name in group["names"] if name in gradients]
            if not names:
                continue
            torch._fused_adamw_(
                [self.parameters[name] for name in names],
                [gradients[name] for name in names],
                [self.exp_avg[name] for name in names],
                [self.exp_avg_sq[name] for name in names],
                [],
                [self.step_count] * len(names),
                lr=group["lr"] if lr is None else lr,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=group["weight_decay"],
                eps=self.eps,
                amsgrad=False,
                maximize=False,
                grad_scale=grad_scale,
                found_inf=self.found_inf,
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros."""
        for parameter in self.parameters.values():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return moments and number of updates, as torch.save writes them; nothing is copied."""
        return {"step_count": self.step_count, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy what `state_dict` returned."""
        self.step_count.copy_(state["step_count"])
        for moments in ("exp_avg", "exp_avg_sq"):
            for name, moment in getattr(self, moments).items():
                moment.copy_(state[moments][name])


def name_parameters(params: nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return parameters by name, or by their place if they have no names; raise InputError if they are none."""
    items = params.named_parameters() if isinstance(params, nn.Module) else params
    require_type("params", items, Iterable, "model.parameters()")
    items = [item if isinstance(item, tuple) else (str(index), item) for index, item in enumerate(items)]
    if not items or not all(isinstance(parameter, Tensor) for _, parameter in items):
        raise InputError("params", f"are {short_repr(params)}", "pass model.parameters()")
    return dict(items)


@torch.no_grad()
def grad_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the joint L2 norm of all gradients, a scalar that stays on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_coefficient(norm: Tensor, max_norm: float) -> Tensor:
    """Return the divisor that clips gradients of joint L2 norm `norm` to `max_norm` (handout, section 4.5).

    It is (norm + 1e-6) / max_norm if norm > max_norm, otherwise 1: the inverse of torch's coefficient, because the
    optimizer divides by `grad_scale` while it reads the gradients, which saves a pass over them.
    """
    return torch.where(norm > max_norm, (norm + CLIP_EPS) / max_norm, 1.0)


def cosine_lr(step: int, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, half a cosine to min_lr, then min_lr (handout, section 4.4).

    >>> [cosine_lr(step, 1.0, 0.1, 2, 6) for step in (1, 2, 4, 6, 9)]
    [0.5, 1.0, 0.55, 0.1, 0.1]
    """
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step > total_steps:
        return min_lr
    fraction = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return min_lr + 0.5 * (1 + math.cos(math.pi * fraction)) * (max_lr - min_lr)
