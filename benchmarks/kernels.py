"""Layers with compiled kernels against torch's own operations: python -m benchmarks.kernels.

Each layer computes forward and backward, lmpipe's and the plain formulation in turns, so that other work on the machine
disturbs both; the ratio is the median over the pairs. Nothing is compiled by torch.compile. With bfloat16, layers run
under autocast as in training.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lmpipe.kernels.transformer.structs import NORM_EPS
from lmpipe.model.architecture import rope_cos_sin
from lmpipe.model.functional import (
    CausalAttentionFn,
    RMSNormFn,
    SwiGLUFeedForwardFn,
    apply_rope,
    linear_cross_entropy,
    reduced_dtype,
)
from lmpipe.study.settings import ModelConfig

Layer = Callable[..., Tensor]
SHAPES = {
    "laptop study": ModelConfig(context_length=128, d_model=64, d_ff=192, num_layers=1, num_heads=4, vocab_size=1024),
    "d_model 256": ModelConfig(context_length=128, d_model=256, d_ff=768, num_layers=1, num_heads=8, vocab_size=1024),
}
BATCH_SIZE = 8


class Case(NamedTuple):
    """Layer in two formulations, with the inputs whose gradients are computed."""

    name: str
    kernel: Layer
    plain: Layer
    inputs: list[Tensor]


def plain_attention(qkv: Tensor, cos_sin: Tensor, num_heads: int) -> Tensor:
    """Causal attention by scaled_dot_product_attention, with RoPE by complex multiplication."""
    queries_keys, values = qkv.unflatten(-1, (3 * num_heads, -1)).split((2 * num_heads, num_heads), dim=2)
    queries_keys = apply_rope(queries_keys.to(cos_sin.dtype), cos_sin).type_as(values)
    queries, keys = queries_keys.transpose(1, 2).chunk(2, dim=1)
    output = F.scaled_dot_product_attention(queries, keys, values.transpose(1, 2), is_causal=True)
    return output.transpose(1, 2).flatten(-2)


def plain_feed_forward(x: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
    """SwiGLU feed-forward by torch's operations."""
    gate, up = F.linear(x, w13).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, w2)


def cases(config: ModelConfig, dtype: torch.dtype) -> Iterator[Case]:
    """Yield the layers of a model's shape; `dtype` is that of matrix products."""
    seq, d_model, d_ff, heads = config.context_length, config.d_model, config.d_ff, config.num_heads
    x = torch.randn(BATCH_SIZE, seq, d_model)
    yield Case(
        "RMSNorm",
        lambda x, w: RMSNormFn.apply(x.flatten(0, 1), w, NORM_EPS, dtype).view(x.shape),
        lambda x, w: F.rms_norm(x, (d_model,), w, NORM_EPS).to(dtype),
        [x, torch.ones(d_model)],
    )
    w13, w2 = torch.randn(2 * d_ff, d_model) / d_model**0.5, torch.randn(d_model, d_ff) / d_ff**0.5
    yield Case("SwiGLU feed-forward", SwiGLUFeedForwardFn.apply, plain_feed_forward, [x, w13, w2])
    cos_sin = torch.from_numpy(rope_cos_sin(config)).float()[:, None]
    yield Case(
        "causal attention",
        lambda qkv: CausalAttentionFn.apply(qkv, cos_sin, heads),
        lambda qkv: plain_attention(qkv, cos_sin, heads),
        [torch.randn(BATCH_SIZE, seq, 3 * d_model).to(dtype)],
    )
    targets = torch.randint(config.vocab_size, (BATCH_SIZE, seq))
    yield Case(
        "linear cross-entropy",
        lambda x, w: linear_cross_entropy(x, w, targets, dtype),
        lambda x, w: F.cross_entropy(F.linear(x, w).float().flatten(0, 1), targets.flatten(), reduction="sum"),
        [x, torch.randn(config.vocab_size, d_model) / d_model**0.5],
    )


def timed(layer: Layer, inputs: list[Tensor], dtype: torch.dtype) -> float:
    """Return the seconds of a forward and a backward pass."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = layer(*leaves)
    torch.autograd.grad(output, leaves, torch.ones_like(output))
    return time.perf_counter() - start


def compare(case: Case, pairs: int, dtype: torch.dtype) -> str:
    """Time both formulations in turns; return a row of the table."""
    layers = (case.kernel, case.plain)
    for layer in layers * 10:  # the first calls compile and load
        timed(layer, case.inputs, dtype)
    seconds = [[timed(layer, case.inputs, dtype) for layer in layers] for _ in range(pairs)]
    kernel, plain = (1e3 * statistics.median(column) for column in zip(*seconds, strict=True))
    ratio = statistics.median(plain / kernel for kernel, plain in seconds)
    return f"| {case.name} | {kernel:.2f} | {plain:.2f} | {ratio:.2f} |"


def main() -> None:
    """Print a table of milliseconds and ratios for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="timed pairs of each layer (default: 200)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch and the kernels (default: 1)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    dtype = reduced_dtype(args.precision) or torch.float32
    for name, config in SHAPES.items():
        setup = f"{BATCH_SIZE} sequences of {config.context_length}, {args.precision}, {args.threads} thread(s)"
        print(f"\n{name}, {setup}\n\n| layer | lmpipe (ms) | torch (ms) | ratio |\n|---|---|---|---|")
        for case in cases(config, dtype):
            print(compare(case, args.pairs, dtype), flush=True)


if __name__ == "__main__":
    main()
