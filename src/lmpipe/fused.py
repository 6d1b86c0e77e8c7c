"""Layers whose backward pass is written out: fewer passes over the memory than autograd makes, and no logits kept.

Each gives what torch's own operations give, to rounding. Where torch compiles, it fuses those by itself, so they are
used there. N counts rows (batch * seq).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

ChunkLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
# Logits that are held at once: so few that a CPU's cache holds them, so many that a GPU is busy. But each part
# reads the whole matrix and writes all of its gradient, so that parts of a few rows are slow: of 8, four times as slow.
CPU_LOGITS = 1 << 18
GPU_LOGITS = 1 << 26
FEWEST_ROWS = 128


class NormalizeRows(Function):
    """RMSNorm over rows of width d_model; it keeps the normalised rows, not the rows."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        """Normalise (N, d_model)."""
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scales = norms.square_().div_(x.shape[1]).add_(eps).rsqrt_()
        normal = x * scales
        ctx.save_for_backward(normal, scales, gain)
        return normal * gain

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n."""
        normal, scales, gain = ctx.saved_tensors
        products = grad * normal
        grad_gain = products.sum(0)
        means = torch.mv(products, gain).div_(-len(gain))
        grad_x = torch.mul(grad, gain, out=products).addcmul_(normal, means[:, None]).mul_(scales)
        return grad_x, grad_gain, None


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019, equation 4): (..., d_model) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each row to a root mean square of 1, and apply the gains."""
        if torch.compiler.is_compiling():
            return super().forward(x)
        return NormalizeRows.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps).view(x.shape)


class Gate(Function):
    """silu(gate) * up, for both side by side in one tensor, whose gradient is one tensor, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_up: Tensor) -> Tensor:
        """Gate (..., 2 d_ff), giving (..., d_ff)."""
        gate, up = gate_up.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """Write both halves where they belong, instead of joining them afterwards."""
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, dim=-1)
        torch.mul(grad, opened, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grads


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of (..., 2 d_ff), the halves being gate and up: (..., d_ff)."""
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return Gate.apply(gate_up)


class HeadLoss(Function):
    """The cross-entropy of the output matrix's logits, a few rows at a time, with its gradients at once.

    The logits of a large batch, in float32 and with their gradients, would be the largest tensors of a step.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor, precision: str, chunk: ChunkLoss
    ) -> Tensor:
        """Sum of the losses of hidden (N, d_model) against targets (N,), with weight (vocab, d_model)."""
        dtype = torch.bfloat16 if precision == "bfloat16" else weight.dtype
        inputs, matrix = hidden.to(dtype), weight.to(dtype)
        grad_hidden, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=weight.dtype, device=weight.device)
        rows = max(FEWEST_ROWS, (CPU_LOGITS if weight.device.type == "cpu" else GPU_LOGITS) // len(weight))
        for start in range(0, len(inputs), rows):
            part = slice(start, start + rows)
            loss += chunk(inputs[part], matrix, targets[part], grad_hidden[part], grad_weight)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype = hidden.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale the gradients that are there already."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.hidden_dtype), grad_weight.mul_(grad), None, None, None


def chunk_loss(inputs: Tensor, matrix: Tensor, targets: Tensor, grad_inputs: Tensor, grad_matrix: Tensor) -> Tensor:
    """The sum of a few rows' losses; writes their gradient, and adds to that of the matrix."""
    logits = F.linear(inputs, matrix).to(grad_matrix.dtype)
    largest, wanted = logits.amax(-1), logits.gather(1, targets[:, None])[:, 0]
    chances = logits.softmax(-1)
    # log(sum(exp(logits))) is the largest logit minus the logarithm of its share, which is never near 0.
    losses = largest - wanted - chances.amax(-1).log_()
    # The gradient of a logit is its chance, less 1 for the target's.
    chances.scatter_(1, targets[:, None], chances.gather(1, targets[:, None]) - 1)
    grad_logits = chances.to(inputs.dtype)
    torch.mm(grad_logits, matrix, out=grad_inputs)
    if grad_logits.dtype == grad_matrix.dtype:
        grad_matrix.addmm_(grad_logits.t(), inputs)
    else:
        grad_matrix += grad_logits.t() @ inputs
    return losses.sum()


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, precision: str, chunk: ChunkLoss = chunk_loss) -> Tensor:
    """The summed loss in nats of targets (batch, seq) after hidden (batch, seq, d_model), weight (vocab, d_model).

    With precision `bfloat16` the matrix products are made in it, and the softmax still in float32. `chunk` is
    `chunk_loss`, or the same compiled.
    """
    return HeadLoss.apply(hidden.flatten(0, -2), weight, targets.flatten(), precision, chunk)
