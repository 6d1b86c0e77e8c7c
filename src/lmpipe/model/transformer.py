"""The transformer language model of the handout: all its layers, and its reproducible initial weights.

Shapes are written (batch, seq, d_model); `width` is the width of one head, d_model / num_heads.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every PyTorch reader knows)
from torch import Tensor, nn

from lmpipe.kernels.runtime.structs import NORM_EPS
from lmpipe.model.functional import KERNEL_BYTES, Attend, FeedForward, RMSNorm, gated, has_kernels
from lmpipe.model.random import stream_seed
from lmpipe.study.settings import ModelConfig


class Linear(nn.Module):
    """A matrix without bias: (..., d_in) -> (..., d_out). It may hold several matrices of one input, one below another.

    `parts` gives the name and the output width of each; they are multiplied at once, but initialised apart.
    """

    def __init__(self, d_in: int, parts: dict[str, int], device: torch.device | str | None = None):
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(sum(parts.values()), d_in, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., d_in) by the transposed weight, giving (..., d_out)."""
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """A vector for each token id: (batch, seq) -> (batch, seq, d_model)."""

    def __init__(self, vocab_size: int, d_model: int, device: torch.device | str | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model, device=device))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up (batch, seq) token ids."""
        return F.embedding(token_ids, self.weight)


def norm_layer(config: ModelConfig, device: torch.device | str | None) -> nn.Module:
    """RMSNorm with eps 1e-5 (Zhang and Sennrich 2019, equation 4), or nothing where the model has no norms."""
    if config.norm == "none":
        return nn.Identity()
    return RMSNorm(config.d_model, NORM_EPS, feeds_matrix=config.norm == "pre", device=device)


def rope_turns(config: ModelConfig, device: torch.device | str | None = None) -> Tensor:
    """Cosine and sine of each angle position / theta^(2k / width): float64, (context_length, width / 2, 2).

    Su et al. 2021, equation 15.
    """
    pairs = torch.arange(config.head_width // 2, dtype=torch.float64, device=device)
    frequencies = config.rope_theta ** (-2 * pairs / config.head_width)
    positions = torch.arange(config.context_length, dtype=torch.float64, device=device)
    angles = positions[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the channel pairs (2k, 2k + 1) of x (..., width) by cosines and sines, turns (..., width / 2, 2).

    As complex numbers they take one pass over the memory, forwards and backwards, where real ones would take several.
    torch's compiler makes one pass of the real ones, and none of the complex ones.
    """
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (cosines, sines), (first, second) = turns.unbind(-1), pairs.unbind(-1)
        turned = (first * cosines - second * sines, first * sines + second * cosines)
        return torch.stack(turned, dim=-1).flatten(-2)
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns)).flatten(-2)


def causal_attention(qkv: Tensor, turns: Tensor | None, num_heads: int) -> Tensor:
    """Attend from each position to itself and those before: (batch, seq, 3 d_model), queries first, to d_model.

    `turns` are RoPE's, (seq, 1, width / 2, 2).
    """
    if torch.compiler.is_compiling() and qkv.device.type == "cpu" and qkv.dtype in KERNEL_BYTES:
        return torch.ops.lmpipe.attend(qkv, turns, num_heads)
    if has_kernels(qkv):
        return Attend.apply(qkv, turns, num_heads)
    queries_keys, values = qkv.unflatten(-1, (3 * num_heads, -1)).split((2 * num_heads, num_heads), dim=2)
    if turns is not None:
        queries_keys = rotate(queries_keys.to(turns.dtype), turns).type_as(values)
    queries, keys = queries_keys.transpose(1, 2).chunk(2, dim=1)
    attended = F.scaled_dot_product_attention(queries, keys, values.transpose(1, 2), is_causal=True)
    return attended.transpose(1, 2).flatten(-2)


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2): (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        d_model = config.d_model
        self.num_heads = config.num_heads
        self.qkv_proj = Linear(d_model, {"q_proj": d_model, "k_proj": d_model, "v_proj": d_model}, device)
        self.output_proj = Linear(d_model, {"output_proj": d_model}, device)

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """Attend from each position to itself and those before; `turns` are RoPE's, (seq, 1, width / 2, 2)."""
        return self.output_proj(causal_attention(self.qkv_proj(x), turns, self.num_heads))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x) (Shazeer 2020): (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.w13 = Linear(config.d_model, {"w1": config.d_ff, "w3": config.d_ff}, device)
        self.w2 = Linear(config.d_ff, {"w2": config.d_model}, device)

    def forward(self, x: Tensor) -> Tensor:
        """Gate and project (batch, seq, d_model)."""
        if has_kernels(x):
            return FeedForward.apply(x, self.w13.weight, self.w2.weight)
        return self.w2(gated(self.w13(x)))


class SiLU(nn.Module):
    """w2(silu(w1 x)), the feed-forward without a gate: (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.w1 = Linear(config.d_model, {"w1": config.d_ff}, device)
        self.w2 = Linear(config.d_ff, {"w2": config.d_model}, device)

    def forward(self, x: Tensor) -> Tensor:
        """Project, bend and project back (batch, seq, d_model)."""
        return self.w2(F.silu(self.w1(x)))


FEED_FORWARDS = {"swiglu": SwiGLU, "silu": SiLU}


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual sum and a norm before it, after the sum, or nowhere."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.norm_is_after = config.norm == "post"
        self.ln1 = norm_layer(config, device)
        self.attn = Attention(config, device)
        self.ln2 = norm_layer(config, device)
        self.ffn = FEED_FORWARDS[config.feed_forward](config, device)

    def forward(self, x: Tensor, turns: Tensor | None) -> Tensor:
        """Transform (batch, seq, d_model)."""
        if self.norm_is_after:
            x = self.ln1(x + self.attn(x, turns))
            return self.ln2(x + self.ffn(x))
        x = x + self.attn(self.ln1(x), turns)
        return x + self.ffn(self.ln2(x))


class TransformerLM(nn.Module):
    """A decoder-only language model (handout, section 3): (batch, seq) token ids -> (batch, seq, vocab) logits.

    With a seed, each weight is a pure function of (seed, its name); without one, weights wait to be loaded. Weights
    are made on the CPU, so that a seed means the same numbers on every device. `device="meta"` allocates nothing.
    """

    def __init__(self, config: ModelConfig, seed: int | None = None, device: torch.device | str | None = None):
        super().__init__()
        self.config = config
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device)
        self.layers = nn.ModuleList(Block(config, device) for _ in range(config.num_layers))
        # With norm: post every layer ends normalised; norm: none removes the final norm, too.
        self.ln_final = norm_layer(config, device) if config.norm == "pre" else nn.Identity()
        self.lm_head = Linear(config.d_model, {"lm_head": config.vocab_size}, device)
        if config.position_embedding == "rope":
            turns = rope_turns(config, device).float()
            self.register_buffer("turns", turns[:, None], persistent=False)
        if seed is not None:
            initialize(self, seed)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits of the next token at each position; seq may not exceed context_length where there is RoPE."""
        return self.lm_head(self.hidden(token_ids))

    def hidden(self, token_ids: Tensor) -> Tensor:
        """What the output matrix sees: (batch, seq) token ids -> (batch, seq, d_model)."""
        turns = self.turns[: token_ids.shape[1]] if self.config.position_embedding == "rope" else None
        x = self.token_embeddings(token_ids)
        for layer in self.layers:
            x = layer(x, turns)
        return self.ln_final(x)


def initialize(model: TransformerLM, seed: int) -> None:
    """Give every matrix the handout's initial weights (section 3.4.1); norms start at 1, as they are built.

    Linear: normal with variance 2 / (d_in + d_out); embedding: variance 1; both cut at three standard deviations.
    """
    with torch.no_grad():
        for name, weight, deviation in initial_deviations(model):
            values = torch.empty(weight.shape)
            generator = torch.Generator().manual_seed(stream_seed(seed, name))
            nn.init.trunc_normal_(values, 0.0, deviation, -3 * deviation, 3 * deviation, generator=generator)
            weight.copy_(values)


def initial_deviations(model: TransformerLM) -> Iterator[tuple[str, Tensor, float]]:
    """Name, view and standard deviation of each matrix, a fused one as its parts."""
    for name, module in model.named_modules():
        if isinstance(module, Embedding):
            yield f"{name}.weight", module.weight, 1.0
        elif isinstance(module, Linear):
            parent = name.rpartition(".")[0]
            matrices = module.weight.split(list(module.parts.values()))
            for part, weight in zip(module.parts, matrices, strict=True):
                yield f"{parent}.{part}.weight".lstrip("."), weight, math.sqrt(2 / sum(weight.shape))
