"""Autograd functions of the layers with handwritten backward passes: less memory traffic than autograd, no logits kept.

Each computes what torch's own operations do, to rounding. On a CPU, in float32 and bfloat16, compiled kernels do the
work (lmpipe.kernels.transformer.train); elsewhere torch's operations do, and under torch.compile its compiler fuses
those. N counts rows (batch * seq). Each kernel's docstring states its gain, measured by benchmarks/kernels.py.
"""

from collections.abc import Callable, Iterator
from typing import assert_never

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.openmp import parallel_for
from lmpipe.kernels.runtime.structs import LANES, round_up
from lmpipe.kernels.transformer.structs import ATTENTION_BLOCK, NORM_EPS, NORM_GROUP
from lmpipe.study.settings import GPU_CHUNK_LOGITS

KERNEL_MODULE = "lmpipe.kernels.transformer.train"
Device = torch.device | str | None
CrossEntropyChunk = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
# Logits computed at once: few enough for a CPU's cache, many enough to keep a GPU busy. Each chunk reads the whole
# matrix and updates all of its gradient, so chunks of few rows are slow: of 8 rows, four times as slow.
CPU_CHUNK_LOGITS = 1 << 18
MIN_CHUNK_ROWS = 128
# Rows of a feed-forward that are computed together on a CPU.
FEED_FORWARD_CHUNK_ROWS = 256
# A thread gets at least this many elements, as in torch: for fewer, waking it takes longer than it saves.
MIN_ELEMENTS_PER_THREAD = 1 << 15
# torch 2.9 and later have one CUDA kernel for each pass: 40 bytes of memory traffic a number in place of 88.
HAS_FUSED_RMS_NORM = hasattr(torch, "_fused_rms_norm")
# Bytes of an element, for the types that kernels read and write.
KERNEL_ITEMSIZE = {torch.float32: 4, torch.bfloat16: 2}


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the type in which a linear layer multiplies `x`: autocast's if that is on, else its own."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on else x.dtype


def reduced_dtype(precision: str) -> torch.dtype | None:
    """Return the lower type that a study's precision uses for matrix products; None for the type of the weights."""
    match precision:
        case "float32":
            return None
        case "bfloat16":
            return torch.bfloat16
        case unknown:
            assert_never(unknown)


def use_cpu_kernels(x: Tensor) -> bool:
    """Return True if compiled kernels take `x`: on a CPU, in a supported type, and not under torch.compile."""
    is_supported = x.dtype in KERNEL_ITEMSIZE and autocast_dtype(x) in KERNEL_ITEMSIZE
    return x.device.type == "cpu" and is_supported and not torch.compiler.is_compiling()


def load_kernels(device: torch.device) -> None:
    """Load the kernels of a CPU, compiled if necessary, before a clock starts."""
    if device.type == "cpu":
        load(KERNEL_MODULE)


def run_kernel(name: str, units: int, unit_elements: int, *args: Tensor | int | None) -> None:
    """Run a kernel over `units` units of work of `unit_elements` elements; tensors are contiguous, None becomes 0."""
    numbers = [arg.data_ptr() if isinstance(arg, Tensor) else arg or 0 for arg in args]
    threads = min(torch.get_num_threads(), max(1, units * unit_elements // MIN_ELEMENTS_PER_THREAD))
    parallel_for(getattr(load(KERNEL_MODULE), name), units, threads, *numbers)


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


class RMSNormFn(Function):
    """RMSNorm of rows; saves the rows and the scale of each.

    The output is float32, or directly the type in which the next linear layer multiplies.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Normalize x (N, d_model) and multiply by weight (d_model,)."""
        is_float32 = x.dtype == weight.dtype == torch.float32
        # The kernels have one eps and check no shape; torch's operations refuse a wrong one.
        ctx.use_kernels = use_cpu_kernels(x) and is_float32 and eps == NORM_EPS and x.shape[1:] == weight.shape
        if ctx.use_kernels:
            x = x.contiguous()
            scales, output = x.new_empty(len(x), 1), torch.empty_like(x, dtype=dtype)
            shape = (len(x), x.shape[1], KERNEL_ITEMSIZE[output.dtype])
            run_kernel("rmsnorm", len(x), x.shape[1], x, weight, output, scales, None, None, *shape)
        else:
            norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scales = norms.square_().div_(x.shape[1]).add_(eps).rsqrt_()
            output = (x * scales * weight).to(dtype)
        ctx.save_for_backward(x, scales, weight)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """With scale r and n = r x: dx = r (g w - n mean(g w n)), dw = sum over rows of g n."""
        x, scales, weight = ctx.saved_tensors
        if ctx.use_kernels:
            groups, d_model = -(-len(x) // NORM_GROUP), x.shape[1]
            grad, grad_x, group_sums = grad.contiguous(), torch.empty_like(x), x.new_empty(groups, d_model)
            rest = (scales, grad_x, group_sums, len(x), d_model, KERNEL_ITEMSIZE[grad.dtype])
            run_kernel("rmsnorm_backward", groups, NORM_GROUP * d_model, x, weight, grad, *rest)
            return grad_x, group_sums.sum(0), None, None
        grad, normalized = grad.to(x.dtype), x * scales
        products = grad * normalized
        grad_weight = products.sum(0)
        means = torch.mv(products, weight).div_(-len(weight))
        grad_x = torch.mul(grad, weight, out=products).addcmul_(normalized, means[:, None]).mul_(scales)
        return grad_x, grad_weight, None, None


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019, equation 4), (..., d_model) -> the same.

    With `cast_output`, for a norm that only linear layers read, the output has their type under autocast.
    """

    def __init__(
        self,
        d_model: int,
        eps: float = NORM_EPS,
        device: Device = None,
        dtype: torch.dtype | None = None,
        cast_output: bool = False,
    ):
        super().__init__(d_model, eps=eps, device=device, dtype=dtype)
        self.cast_output = cast_output

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each row to a root mean square of 1 and multiply by the gains."""
        if torch.compiler.is_compiling() or (x.device.type == "cuda" and HAS_FUSED_RMS_NORM):
            return super().forward(x)
        dtype = autocast_dtype(x) if self.cast_output else x.dtype
        return RMSNormFn.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps, dtype).view(x.shape)


# --- SwiGLU ----------------------------------------------------------------------------------------------------------


class SwiGLUFn(Function):
    """SwiGLU activation, silu(gate) * up, of two halves of one tensor; the gradient is one tensor, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_up: Tensor) -> Tensor:
        """Activate (..., 2 d_ff), giving (..., d_ff)."""
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """Write both halves in place instead of concatenating them."""
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grads


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up of (..., 2 d_ff), gate being the first half: (..., d_ff)."""
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return SwiGLUFn.apply(gate_up)


class SwiGLUFeedForwardFn(Function):
    """SwiGLU feed-forward on a CPU, in chunks of rows whose intermediate values stay in the processor's cache.

    Saves the output of w13; the backward pass recomputes the activation.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        """Return w2(silu(w1 x) * w3 x) for x (..., d_model), w13 (2 d_ff, d_model) and w2 (d_model, d_ff)."""
        dtype, d_ff = autocast_dtype(x), w2.shape[1]
        inputs, w13, w2 = x.flatten(0, -2).to(dtype), w13.to(dtype), w2.to(dtype)
        gate_up, output = inputs.new_empty(len(inputs), 2 * d_ff), torch.empty_like(inputs)
        for chunk in row_chunks(inputs):
            torch.mm(inputs[chunk], w13.t(), out=gate_up[chunk])
            activation = inputs.new_empty(len(inputs[chunk]), d_ff)
            run_kernel("swiglu", len(activation), d_ff, gate_up[chunk], activation, None, d_ff, KERNEL_ITEMSIZE[dtype])
            torch.mm(activation, w2.t(), out=output[chunk])
        ctx.save_for_backward(inputs, gate_up, w13, w2)
        ctx.input_dtype = x.dtype
        return output.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the input and of both matrices."""
        inputs, gate_up, w13, w2 = ctx.saved_tensors
        grad_rows, grad_inputs = grad.flatten(0, -2).to(inputs.dtype).contiguous(), torch.empty_like(inputs)
        grad_w13, grad_w2 = (torch.zeros_like(weight, dtype=torch.float32) for weight in (w13, w2))
        d_ff, itemsize = w2.shape[1], inputs.element_size()
        for chunk in row_chunks(inputs):
            # The kernel reads the activation's gradient here and replaces it by the activation.
            activation = torch.mm(grad_rows[chunk], w2)
            grads = torch.empty_like(gate_up[chunk])
            run_kernel("swiglu_backward", len(activation), d_ff, gate_up[chunk], activation, grads, d_ff, itemsize)
            torch.mm(grads, w13, out=grad_inputs[chunk])
            add_matmul(grad_w13, grads.t(), inputs[chunk])
            add_matmul(grad_w2, grad_rows[chunk].t(), activation)
        return grad_inputs.view(grad.shape).to(ctx.input_dtype), grad_w13, grad_w2


def row_chunks(rows: Tensor) -> Iterator[slice]:
    """Yield slices of rows; in bfloat16 one of all, because sums of matrix products over chunks would be rounded."""
    size = FEED_FORWARD_CHUNK_ROWS if rows.dtype == torch.float32 else max(1, len(rows))
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


def add_matmul(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total`, in place; the factors may be of a smaller type."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


# --- causal attention ------------------------------------------------------------------------------------------------

# Operations that torch.compile does not compile: its own code for torch's attention on a CPU is slower.
LIBRARY = torch.library.Library("lmpipe", "DEF")
LIBRARY.define("causal_attention(Tensor qkv, Tensor? cos_sin, int num_heads) -> Tensor")
LIBRARY.define("causal_attention_backward(Tensor qkv, Tensor grad, Tensor? cos_sin, int num_heads) -> Tensor")


def causal_attention(qkv: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
    """Attend from each position to itself and those before it, with RoPE unless `cos_sin` is None.

    `qkv` is (batch, seq, 3 d_model), queries first; the output is (batch, seq, d_model). `cos_sin` is
    (seq, 1, head_dim / 2, 2).
    """
    if torch.compiler.is_compiling() and qkv.device.type == "cpu" and qkv.dtype in KERNEL_ITEMSIZE:
        return torch.ops.lmpipe.causal_attention(qkv, cos_sin, num_heads)
    if use_cpu_kernels(qkv):
        return CausalAttentionFn.apply(qkv, cos_sin, num_heads)
    queries_keys, values = qkv.unflatten(-1, (3 * num_heads, -1)).split((2 * num_heads, num_heads), dim=2)
    if cos_sin is not None:
        queries_keys = apply_rope(queries_keys.to(cos_sin.dtype), cos_sin).type_as(values)
    queries, keys = queries_keys.transpose(1, 2).chunk(2, dim=1)
    output = F.scaled_dot_product_attention(queries, keys, values.transpose(1, 2), is_causal=True)
    return output.transpose(1, 2).flatten(-2)


def apply_rope(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the channel pairs (2k, 2k + 1) of x (..., head_dim) by `cos_sin` (..., head_dim / 2, 2).

    Complex multiplication takes one pass over the memory, forward and backward; torch.compile fuses the real form and
    not the complex one.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (cos, sin), (first, second) = cos_sin.unbind(-1), pairs.unbind(-1)
        rotated = (first * cos - second * sin, first * sin + second * cos)
        return torch.stack(rotated, dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(cos_sin)).flatten(-2)


def causal_attention_cpu(qkv: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
    """Compute `causal_attention` with the compiled kernel."""
    output = causal_attention_fake(qkv, cos_sin, num_heads)
    run_attention_kernel("causal_attention", qkv.contiguous(), output, None, cos_sin, num_heads)
    return output


def causal_attention_backward_cpu(qkv: Tensor, grad: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
    """Return the gradient of `qkv` from that of the output; the softmax is recomputed."""
    grads = causal_attention_backward_fake(qkv, grad, cos_sin, num_heads)
    run_attention_kernel("causal_attention_backward", qkv.contiguous(), grad.contiguous(), grads, cos_sin, num_heads)
    return grads


def causal_attention_fake(qkv: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
    """Return an empty tensor of the output's shape, as torch.compile needs it."""
    return qkv.new_empty((*qkv.shape[:2], qkv.shape[2] // 3))


def causal_attention_backward_fake(qkv: Tensor, grad: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
    """Return an empty tensor of the gradient's shape."""
    return qkv.new_empty(qkv.shape)


LIBRARY.impl("causal_attention", causal_attention_cpu, "CPU")
LIBRARY.impl("causal_attention_backward", causal_attention_backward_cpu, "CPU")


class CausalAttentionFn(Function):
    """Causal attention with RoPE by the compiled kernels; saves queries, keys and values."""

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, cos_sin: Tensor | None, num_heads: int) -> Tensor:
        """Attend, (batch, seq, 3 d_model) -> (batch, seq, d_model)."""
        ctx.save_for_backward(qkv, cos_sin)
        ctx.num_heads = num_heads
        return causal_attention_cpu(qkv, cos_sin, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of queries, keys and values, side by side."""
        qkv, cos_sin = ctx.saved_tensors
        return causal_attention_backward_cpu(qkv, grad, cos_sin, ctx.num_heads), None, None


def setup_attention_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor | None, int], output: Tensor) -> None:
    """Save the inputs of the backward pass in compiled code."""
    qkv, cos_sin, ctx.num_heads = inputs
    ctx.save_for_backward(qkv, cos_sin)


def compiled_attention_backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    """Backward pass of attention in compiled code."""
    qkv, cos_sin = ctx.saved_tensors
    return torch.ops.lmpipe.causal_attention_backward(qkv, grad, cos_sin, ctx.num_heads), None, None


def run_attention_kernel(
    name: str, qkv: Tensor, output: Tensor, grads: Tensor | None, cos_sin: Tensor | None, num_heads: int
) -> None:
    """Run an attention kernel with scratch memory for each thread; raise ValueError if `cos_sin` does not fit."""
    batch, seq, d_qkv = qkv.shape
    head_dim = d_qkv // 3 // num_heads
    if cos_sin is not None:
        if cos_sin.dtype != torch.float32 or cos_sin.numel() != seq * head_dim:
            problem = f"cos_sin has {len(cos_sin)} positions in {cos_sin.dtype}, not {seq} in float32"
            raise ValueError(f"{problem}; in place of model.bfloat16(), use torch.autocast")
        cos_sin = cos_sin.contiguous()
    positions, channels = round_up(seq, ATTENTION_BLOCK), round_up(head_dim, LANES)
    # The backward pass needs more: five matrices of a head, three blocks of rows and two of scores.
    scratch_floats = 5 * positions * channels + ATTENTION_BLOCK * (3 * channels + 2 * positions)
    scratch = torch.empty(torch.get_num_threads(), scratch_floats)
    shape = (seq, num_heads, head_dim, KERNEL_ITEMSIZE[qkv.dtype])
    arrays = (qkv, output, grads, cos_sin, scratch, scratch.element_size() * scratch_floats)
    run_kernel(name, batch * num_heads, seq * (seq + head_dim), *arrays, *shape)


# --- linear cross-entropy --------------------------------------------------------------------------------------------


class LinearCrossEntropyFn(Function):
    """Cross-entropy of the output head's logits, in chunks of rows, with the gradients computed in the forward pass.

    The logits of a large batch, in float32 and with their gradients, would be the largest tensors of a step. (Liger
    Kernel, Hsu et al. 2024, calls this fused linear cross-entropy.)
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        chunk_fn: CrossEntropyChunk,
    ) -> Tensor:
        """Return the summed loss of hidden (N, d_model) against targets (N,), with weight (vocab, d_model)."""
        inputs, matrix = hidden.to(dtype), weight.to(dtype)
        grad_hidden, grad_weight = torch.empty_like(inputs), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=weight.dtype, device=weight.device)
        rows = chunk_rows(len(weight), weight.device)
        for start in range(0, len(inputs), rows):
            chunk = slice(start, start + rows)
            loss += chunk_fn(inputs[chunk], matrix, targets[chunk], grad_hidden[chunk], grad_weight)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype = hidden.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale the gradients of the forward pass."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.hidden_dtype), grad_weight.mul_(grad), None, None, None


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Return the rows whose logits are computed at once; on a GPU a multiple of the tiles of a matrix product."""
    if device.type == "cpu":
        return max(MIN_CHUNK_ROWS, CPU_CHUNK_LOGITS // vocab_size)
    return max(1, GPU_CHUNK_LOGITS // vocab_size // MIN_CHUNK_ROWS) * MIN_CHUNK_ROWS


def cross_entropy_chunk(
    inputs: Tensor, matrix: Tensor, targets: Tensor, grad_inputs: Tensor, grad_matrix: Tensor
) -> Tensor:
    """Return the summed loss of a chunk of rows; write `grad_inputs` and add to `grad_matrix`."""
    logits = F.linear(inputs, matrix)
    if use_cpu_kernels(logits):
        vocab_size, itemsize = logits.shape[1], KERNEL_ITEMSIZE[logits.dtype]
        terms = logits.new_empty((len(logits), 2), dtype=torch.float32)
        run_kernel("cross_entropy_fwd_bwd", len(logits), vocab_size, logits, targets, terms, vocab_size, itemsize)
        losses, grad_logits = terms[:, 0] + terms[:, 1].log_(), logits
    else:
        losses, grad_logits = cross_entropy_fwd_bwd(logits.to(grad_matrix.dtype), targets)
        grad_logits = grad_logits.to(inputs.dtype)
    torch.mm(grad_logits, matrix, out=grad_inputs)
    add_matmul(grad_matrix, grad_logits.t(), inputs)
    return losses.sum()


def cross_entropy_fwd_bwd(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each row of logits (N, vocab) and the gradient of the logits."""
    max_logits, target_logits = logits.amax(-1), logits.gather(1, targets[:, None])[:, 0]
    probs = logits.softmax(-1)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    # log(sum(exp(logits))) is the largest logit minus the log of its probability, which is never near 0.
    losses = max_logits - target_logits - probs.amax(-1).log_()
    # The gradient of a logit is its probability, less 1 for the target's. A deterministic scatter would be a sort of 35
    # kernels on a GPU, and could not be fused by a compiler.
    return losses, probs.add_(is_target, alpha=-1)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype | None = None,
    chunk_fn: CrossEntropyChunk = cross_entropy_chunk,
) -> Tensor:
    """Return the summed loss of the output head, in nats.

    `hidden` is (batch, seq, d_model), `weight` (vocab, d_model), `targets` (batch, seq). Matrix products use `dtype`,
    by default that of `weight`; the softmax always uses that. `chunk_fn` is `cross_entropy_chunk`, compiled or not.
    On a CPU, raises IndexError for targets that are no row of `weight`.
    """
    targets = targets.flatten().contiguous()
    if targets.device.type == "cpu" and len(targets):
        lowest, highest = torch.aminmax(targets)
        if targets.dtype != torch.int64 or lowest < 0 or highest >= len(weight):
            raise IndexError(f"targets are {targets.dtype} from {lowest} to {highest}, not int64 below {len(weight)}")
    return LinearCrossEntropyFn.apply(hidden.flatten(0, -2), weight, targets, dtype or weight.dtype, chunk_fn)
