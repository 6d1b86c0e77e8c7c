"""The transformer language model of the handout (section 3): all its layers, and their reproducible initial weights.

Shapes are (batch, seq, d_model); head_dim = d_model / num_heads. `cos_sin` is RoPE's table of cosines and sines,
(seq, 1, head_dim / 2, 2), or None without RoPE.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Self, assert_never

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that every PyTorch reader knows)
from torch import Tensor, nn

from lmpipe.kernels.transformer.structs import NORM_EPS
from lmpipe.model.architecture import derive_seed, has_rope, norm_placement, rope_cos_sin
from lmpipe.model.functional import RMSNorm, SwiGLUFeedForwardFn, causal_attention, swiglu, use_cpu_kernels
from lmpipe.study.settings import ModelConfig


class Linear(nn.Module):
    """Linear layer without bias, (..., d_in) -> (..., d_out).

    It may fuse several matrices of one input: `parts` maps each one's name to its output width. They are multiplied at
    once but initialized separately.
    """

    def __init__(self, d_in: int, parts: dict[str, int], device: torch.device | str | None = None):
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(sum(parts.values()), d_in, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., d_in) by the transposed weight, giving (..., d_out)."""
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """Token embedding, (batch, seq) -> (batch, seq, d_model)."""

    def __init__(self, vocab_size: int, d_model: int, device: torch.device | str | None = None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model, device=device))

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up (batch, seq) token ids."""
        return F.embedding(token_ids, self.weight)


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2), (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        d_model = config.d_model
        self.num_heads = config.num_heads
        self.qkv_proj = Linear(d_model, {"q_proj": d_model, "k_proj": d_model, "v_proj": d_model}, device)
        self.output_proj = Linear(d_model, {"output_proj": d_model}, device)

    def forward(self, x: Tensor, cos_sin: Tensor | None) -> Tensor:
        """Attend from each position of (batch, seq, d_model) to itself and those before it."""
        return self.output_proj(causal_attention(self.qkv_proj(x), cos_sin, self.num_heads))


class SwiGLU(nn.Module):
    """SwiGLU feed-forward, w2(silu(w1 x) * w3 x) (Shazeer 2020), (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.w13 = Linear(config.d_model, {"w1": config.d_ff, "w3": config.d_ff}, device)
        self.w2 = Linear(config.d_ff, {"w2": config.d_model}, device)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, seq, d_model)."""
        if use_cpu_kernels(x):
            return SwiGLUFeedForwardFn.apply(x, self.w13.weight, self.w2.weight)
        return self.w2(swiglu(self.w13(x)))


class SiLU(nn.Module):
    """Feed-forward without a gate, w2(silu(w1 x)), (batch, seq, d_model) -> the same."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        self.w1 = Linear(config.d_model, {"w1": config.d_ff}, device)
        self.w2 = Linear(config.d_ff, {"w2": config.d_model}, device)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, seq, d_model)."""
        return self.w2(F.silu(self.w1(x)))


def make_feed_forward(config: ModelConfig, device: torch.device | str | None) -> nn.Module:
    """Return the feed-forward layer that the study names."""
    match config.feed_forward:
        case "swiglu":
            return SwiGLU(config, device)
        case "silu":
            return SiLU(config, device)
        case unknown:
            assert_never(unknown)


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual sum and an RMSNorm before it, after the sum, or nowhere."""

    def __init__(self, config: ModelConfig, device: torch.device | str | None = None):
        super().__init__()
        norms = norm_placement(config)
        self.post_norm = norms.post

        def make_norm() -> nn.Module:
            if not norms.in_blocks:
                return nn.Identity()
            return RMSNorm(config.d_model, NORM_EPS, cast_output=norms.pre, device=device)

        self.ln1 = make_norm()
        self.attn = Attention(config, device)
        self.ln2 = make_norm()
        self.ffn = make_feed_forward(config, device)

    def forward(self, x: Tensor, cos_sin: Tensor | None) -> Tensor:
        """Transform (batch, seq, d_model)."""
        if self.post_norm:
            x = self.ln1(x + self.attn(x, cos_sin))
            return self.ln2(x + self.ffn(x))
        x = x + self.attn(self.ln1(x), cos_sin)
        return x + self.ffn(self.ln2(x))


class TransformerLM(nn.Module):
    """Decoder-only language model (handout, section 3), (batch, seq) token ids -> (batch, seq, vocab_size) logits.

    With a seed, each weight is a pure function of (seed, its name); without one, weights are left to be loaded. They
    are drawn on the CPU, so that a seed means the same numbers on every device. `device="meta"` allocates no weights.
    """

    def __init__(self, config: ModelConfig, seed: int | None = None, device: torch.device | str | None = None):
        super().__init__()
        self.config = config
        self.token_embeddings = Embedding(config.vocab_size, config.d_model, device)
        self.layers = nn.ModuleList(Block(config, device) for _ in range(config.num_layers))
        has_final_norm = norm_placement(config).final
        self.ln_final = (
            RMSNorm(config.d_model, NORM_EPS, cast_output=True, device=device) if has_final_norm else nn.Identity()
        )
        self.lm_head = Linear(config.d_model, {"lm_head": config.vocab_size}, device)
        cos_sin = torch.from_numpy(rope_cos_sin(config)).float()[:, None].to(device) if has_rope(config) else None
        self.register_buffer("cos_sin", cos_sin, persistent=False)
        if seed is not None:
            init_weights(self, seed)

    @classmethod
    def from_arrays(cls, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> Self:
        """Return a model with weights from NumPy, by their names and shapes in `weight_shapes`."""
        model = cls(config)
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        return model

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the logits of the next token at each position; with RoPE, seq may not exceed context_length."""
        return self.lm_head(self.forward_hidden(token_ids))

    def forward_hidden(self, token_ids: Tensor) -> Tensor:
        """Return the input of the output head: (batch, seq) token ids -> (batch, seq, d_model)."""
        return self.forward_blocks(self.token_embeddings(token_ids))

    def forward_blocks(self, x: Tensor) -> Tensor:
        """Return the input of the output head from the token embeddings, both (batch, seq, d_model)."""
        cos_sin = None if self.cos_sin is None else self.cos_sin[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, cos_sin)
        return self.ln_final(x)


def init_weights(model: TransformerLM, seed: int) -> None:
    """Draw every matrix as the handout says (section 3.4.1); RMSNorm gains stay 1.

    Linear: normal with variance 2 / (d_in + d_out); embedding: variance 1; both truncated at 3 standard deviations.
    """
    with torch.no_grad():
        for name, weight, std in init_stds(model):
            values = torch.empty(weight.shape)
            generator = torch.Generator().manual_seed(derive_seed(seed, name))
            nn.init.trunc_normal_(values, 0.0, std, -3 * std, 3 * std, generator=generator)
            weight.copy_(values)


def init_stds(model: TransformerLM) -> Iterator[tuple[str, Tensor, float]]:
    """Yield name, view and initial standard deviation of each matrix; a fused one as its parts."""
    for name, module in model.named_modules():
        if isinstance(module, Embedding):
            yield f"{name}.weight", module.weight, 1.0
        elif isinstance(module, Linear):
            parent = name.rpartition(".")[0]
            matrices = module.weight.split(list(module.parts.values()))
            for matrix, weight in zip(module.parts, matrices, strict=True):
                yield f"{parent}.{matrix}.weight".lstrip("."), weight, math.sqrt(2 / sum(weight.shape))
