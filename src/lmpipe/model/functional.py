"""Layers whose backward pass is written out: fewer passes over the memory than autograd makes, and no logits kept.

Each gives what torch's own operations give, to rounding. On a CPU, in float32 and bfloat16, kernels of our own compute
them (lmpipe.kernels.transformer.train), mostly in one pass; elsewhere torch's operations do, and where torch
compiles, it fuses
those by itself. N counts rows (batch * seq).
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from lmpipe.kernels.runtime import structs
from lmpipe.kernels.runtime.openmp import run

ChunkLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
# Logits that are held at once: so few that a CPU's cache holds them, so many that a GPU is busy. But each part
# reads the whole matrix and writes all of its gradient, so that parts of a few rows are slow: of 8, four times as slow.
CPU_LOGITS = 1 << 18
GPU_LOGITS = 1 << 26
FEWEST_ROWS = 128
# Rows of a feed-forward that are computed together on a CPU.
FEED_FORWARD_ROWS = 256
# A thread is given so many numbers at least, as in torch: for fewer it takes longer to wake it.
FEWEST_NUMBERS = 1 << 15
# The bytes of a number that kernels read and write.
KERNEL_BYTES = {torch.float32: 4, torch.bfloat16: 2}


def computed_dtype(x: Tensor) -> torch.dtype:
    """The type in which a matrix multiplies a tensor: autocast's, where that is on."""
    kind = x.device.type
    is_lowered = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if is_lowered else x.dtype


def has_kernels(x: Tensor) -> bool:
    """Whether what is made of a tensor is computed by our own kernels."""
    is_known = x.dtype in KERNEL_BYTES and computed_dtype(x) in KERNEL_BYTES
    return x.device.type == "cpu" and is_known and not torch.compiler.is_compiling()


def compute(name: str, units: int, numbers: int, *arguments: Tensor | int | None) -> None:
    """Let a kernel do so many units of work, each over so many numbers. Tensors are contiguous, None is 0."""
    given = [(one.data_ptr(), one.nbytes) if isinstance(one, Tensor) else one or 0 for one in arguments]
    threads = min(torch.get_num_threads(), max(1, units * numbers // FEWEST_NUMBERS))
    run(name, units, threads, *given)


class NormalizeRows(Function):
    """RMSNorm over rows of width d_model, whose derivative needs the rows and the scale of each.

    The result is float32, or at once of another type that the matrix behind it multiplies in.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Normalise (N, d_model)."""
        # The kernels know one eps.
        ctx.has_kernels = has_kernels(x) and x.dtype == gain.dtype == torch.float32 and eps == structs.NORM_EPS
        if ctx.has_kernels:
            x = x.contiguous()
            scales, output = x.new_empty(len(x), 1), torch.empty_like(x, dtype=dtype)
            shape = (len(x), x.shape[1], KERNEL_BYTES[output.dtype])
            compute("normalize_rows", len(x), x.shape[1], x, gain, output, scales, None, None, *shape)
        else:
            norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scales = norms.square_().div_(x.shape[1]).add_(eps).rsqrt_()
            output = (x * scales * gain).to(dtype)
        ctx.save_for_backward(x, scales, gain)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """With r the scale and n = r x: dx = r (g w - n mean(g w n)), and dw sums g n."""
        x, scales, gain = ctx.saved_tensors
        if ctx.has_kernels:
            groups, d_model = -(-len(x) // structs.NORM_GROUP), x.shape[1]
            grad, grad_x, sums = grad.contiguous(), torch.empty_like(x), x.new_empty(groups, d_model)
            rest = (scales, grad_x, sums, len(x), d_model, KERNEL_BYTES[grad.dtype])
            compute("normalize_rows_back", groups, structs.NORM_GROUP * d_model, x, gain, grad, *rest)
            return grad_x, sums.sum(0), None, None
        grad, normal = grad.to(x.dtype), x * scales
        products = grad * normal
        grad_gain = products.sum(0)
        means = torch.mv(products, gain).div_(-len(gain))
        grad_x = torch.mul(grad, gain, out=products).addcmul_(normal, means[:, None]).mul_(scales)
        return grad_x, grad_gain, None, None


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019, equation 4): (..., d_model) -> the same.

    `feeds_matrix` says that a matrix alone reads the result, which under autocast is then of the type for that.
    """

    def __init__(self, d_model: int, eps: float, feeds_matrix: bool = False, device: torch.device | str | None = None):
        super().__init__(d_model, eps=eps, device=device)
        self.feeds_matrix = feeds_matrix

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each row to a root mean square of 1, and apply the gains."""
        if torch.compiler.is_compiling():
            return super().forward(x)
        dtype = computed_dtype(x) if self.feeds_matrix else x.dtype
        return NormalizeRows.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps, dtype).view(x.shape)


class Gate(Function):
    """silu(gate) * up, for both side by side in one tensor, whose gradient is one tensor, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_up: Tensor) -> Tensor:
        """Gate (..., 2 d_ff), giving (..., d_ff)."""
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        """Write both halves where they belong, instead of joining them afterwards."""
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grads = torch.empty_like(gate_up)
        grad_gate, grad_up = grads.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grads


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of (..., 2 d_ff), the halves being gate and up: (..., d_ff)."""
    if torch.compiler.is_compiling():
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return Gate.apply(gate_up)


class FeedForward(Function):
    """SwiGLU with both of its matrices, on a CPU: some rows at a time, whose numbers stay in the processor's cache.

    It keeps what the first matrix makes; the derivative computes the gated product again.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
        """w2(silu(w1 x) * w3 x) of (..., d_model), w13 (2 d_ff, d_model) and w2 (d_model, d_ff)."""
        dtype, d_ff = computed_dtype(x), w2.shape[1]
        inputs, wide, narrow = x.flatten(0, -2).to(dtype), w13.to(dtype), w2.to(dtype)
        gate_up, output = inputs.new_empty(len(inputs), 2 * d_ff), torch.empty_like(inputs)
        for part in row_parts(inputs):
            torch.mm(inputs[part], wide.t(), out=gate_up[part])
            product = inputs.new_empty(len(inputs[part]), d_ff)
            compute("open_gates", len(product), d_ff, gate_up[part], product, None, d_ff, KERNEL_BYTES[dtype])
            torch.mm(product, narrow.t(), out=output[part])
        ctx.save_for_backward(inputs, gate_up, wide, narrow)
        ctx.input_dtype = x.dtype
        return output.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the input and of both matrices."""
        inputs, gate_up, wide, narrow = ctx.saved_tensors
        grad_rows, grad_inputs = grad.flatten(0, -2).to(inputs.dtype).contiguous(), torch.empty_like(inputs)
        grad_wide, grad_narrow = (torch.zeros_like(one, dtype=torch.float32) for one in (wide, narrow))
        d_ff = narrow.shape[1]
        for part in row_parts(inputs):
            product = torch.mm(grad_rows[part], narrow)
            grads = torch.empty_like(gate_up[part])
            # Reads the gradients of the product, and leaves it in their place.
            compute("open_gates_back", len(product), d_ff, gate_up[part], product, grads, d_ff, product.element_size())
            torch.mm(grads, wide, out=grad_inputs[part])
            add_product(grad_wide, grads.t(), inputs[part])
            add_product(grad_narrow, grad_rows[part].t(), product)
        return grad_inputs.view(grad.shape).to(ctx.input_dtype), grad_wide, grad_narrow


def row_parts(rows: Tensor) -> Iterator[slice]:
    """The rows that a feed-forward computes together; in bfloat16 all, lest sums of its products are rounded to it."""
    size = FEED_FORWARD_ROWS if rows.dtype == torch.float32 else max(1, len(rows))
    return (slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size))


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of two matrices, which may be of a smaller type, to a third one."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


# Causal attention as an operation that torch's compiler leaves as it is: what it would make of torch's own is slower.
LIBRARY = torch.library.Library("lmpipe", "DEF")
LIBRARY.define("attend(Tensor qkv, Tensor? turns, int num_heads) -> Tensor")
LIBRARY.define("attend_back(Tensor qkv, Tensor grad, Tensor? turns, int num_heads) -> Tensor")


def attended(qkv: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
    """Causal attention of all heads, RoPE included: queries, keys and values (batch, seq, 3 d_model) to d_model.

    `turns` are as `lmpipe.model.transformer.rotate` has them.
    """
    output = like_attended(qkv, turns, num_heads)
    attend("attend_heads", qkv.contiguous(), output, None, turns, num_heads)
    return output


def attention_gradients(qkv: Tensor, grad: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
    """The gradients of queries, keys and values; the shares of the softmax are computed again, from those alone."""
    grads = like_gradients(qkv, grad, turns, num_heads)
    attend("attend_heads_back", qkv.contiguous(), grad.contiguous(), grads, turns, num_heads)
    return grads


def like_attended(qkv: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
    """An empty tensor of the shape of what attention gives."""
    return qkv.new_empty((*qkv.shape[:2], qkv.shape[2] // 3))


def like_gradients(qkv: Tensor, grad: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
    """An empty tensor of the shape of the gradients of queries, keys and values."""
    return qkv.new_empty(qkv.shape)


LIBRARY.impl("attend", attended, "CPU")
LIBRARY.impl("attend_back", attention_gradients, "CPU")


class Attend(Function):
    """Causal attention, see `attended`; it keeps queries, keys and values."""

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
        """Attend from (batch, seq, 3 d_model) to (batch, seq, d_model)."""
        ctx.save_for_backward(qkv, turns)
        ctx.num_heads = num_heads
        return attended(qkv, turns, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradients of queries, keys and values, side by side, too."""
        qkv, turns = ctx.saved_tensors
        return attention_gradients(qkv, grad, turns, ctx.num_heads), None, None


def save_attention(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor | None, int], output: Tensor) -> None:
    """Keep what the compiled backward pass needs."""
    qkv, turns, ctx.num_heads = inputs
    ctx.save_for_backward(qkv, turns)


def compiled_gradients(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    """The backward pass in compiled code."""
    qkv, turns = ctx.saved_tensors
    return torch.ops.lmpipe.attend_back(qkv, grad, turns, ctx.num_heads), None, None


def attend(name: str, qkv: Tensor, output: Tensor, grads: Tensor | None, turns: Tensor | None, num_heads: int) -> None:
    """Call a kernel of attention with scratch memory for each thread."""
    batch, seq, d_qkv = qkv.shape
    width = d_qkv // 3 // num_heads
    if turns is not None:
        if turns.dtype != torch.float32 or turns.numel() != seq * width:
            raise ValueError(f"expected turns of {seq} positions in float32, found {turns.dtype} of {len(turns)}")
        turns = turns.contiguous()
    positions, channels = structs.filled_up(seq, structs.ATTENTION_BLOCK), structs.filled_up(width, structs.LANES)
    # Of the greater need, the backward pass's: five matrices of a head, three blocks of rows and two of scores.
    floats = 5 * positions * channels + structs.ATTENTION_BLOCK * (3 * channels + 2 * positions)
    scratch = torch.empty(torch.get_num_threads(), floats)
    shape = (seq, num_heads, width, KERNEL_BYTES[qkv.dtype])
    compute(name, batch * num_heads, seq * (seq + width), qkv, output, grads, turns, scratch, 4 * floats, *shape)


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
    logits = F.linear(inputs, matrix)
    if has_kernels(logits):
        told = logits.new_empty((len(logits), 2), dtype=torch.float32)
        compute(
            "lose", len(logits), logits.shape[1], logits, targets, told, logits.shape[1], KERNEL_BYTES[logits.dtype]
        )
        losses, grad_logits = told[:, 0] + told[:, 1].log_(), logits
    else:
        losses, grad_logits = losses_and_gradients(logits.to(grad_matrix.dtype), targets)
        grad_logits = grad_logits.to(inputs.dtype)
    torch.mm(grad_logits, matrix, out=grad_inputs)
    add_product(grad_matrix, grad_logits.t(), inputs)
    return losses.sum()


def losses_and_gradients(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row of logits, and the gradients of the logits."""
    largest, wanted = logits.amax(-1), logits.gather(1, targets[:, None])[:, 0]
    chances = logits.softmax(-1)
    # log(sum(exp(logits))) is the largest logit minus the logarithm of its share, which is never near 0.
    losses = largest - wanted - chances.amax(-1).log_()
    # The gradient of a logit is its chance, less 1 for the target's.
    return losses, chances.scatter_(1, targets[:, None], chances.gather(1, targets[:, None]) - 1)


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, precision: str, chunk: ChunkLoss = chunk_loss) -> Tensor:
    """The summed loss in nats of targets (batch, seq) after hidden (batch, seq, d_model), weight (vocab, d_model).

    With precision `bfloat16` the matrix products are made in it, and the softmax still in float32. `chunk` is
    `chunk_loss`, or the same compiled. Raises IndexError for a target that is no row of weight, on a CPU.
    """
    targets = targets.flatten().contiguous()
    if targets.device.type == "cpu" and len(targets):
        least, greatest = torch.aminmax(targets)
        if targets.dtype != torch.int64 or least < 0 or greatest >= len(weight):
            raise IndexError(f"expected targets from 0 to {len(weight) - 1} as int64, found {targets.dtype} beyond")
    return HeadLoss.apply(hidden.flatten(0, -2), weight, targets, precision, chunk)
