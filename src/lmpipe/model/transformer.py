"""The transformer language model of the handout (section 3): all its layers, and their reproducible initial weights.

Shapes are (batch, seq, d_model); head_dim = d_model / num_heads. `cos_sin` is RoPE's table of cosines and sines,
(seq, 1, head_dim / 2, 2), or None without RoPE.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Self, assert_never

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that every PyTorch reader knows)
from pydantic import ValidationError
from torch import Tensor, nn

from lmpipe.errors import InputError
from lmpipe.io.validation import first_violation, require_type, short_repr
from lmpipe.model.architecture import derive_seed, has_rope, norm_placement, rope_cos_sin
from lmpipe.model.functional import Device, RMSNorm, SwiGLUFeedForwardFn, causal_attention, swiglu, use_cpu_kernels
from lmpipe.study.settings import ModelConfig

# False while layers are made whose weights are drawn or loaded afterwards.
INITIALIZES = ContextVar("INITIALIZES", default=True)


class Linear(nn.Module):
    """Linear layer without bias, (..., d_in) -> (..., d_out).

    It may fuse several matrices of one input: `d_out` then maps each one's name to its output width. They are
    multiplied at once but initialized separately.
    """

    def __init__(self, d_in: int, d_out: int | dict[str, int], device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.parts = d_out if isinstance(d_out, dict) else {"weight": d_out}
        self.weight = make_weight([*self.parts.values()], d_in, device, dtype)
        if INITIALIZES.get():
            for matrix in self.matrices():
                init_normal(matrix, linear_std(matrix))

    def matrices(self) -> tuple[Tensor, ...]:
        """Return views of the fused matrices, or of the whole weight, each (d_out, d_in)."""
        return self.weight.detach().split(list(self.parts.values()))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., d_in) by the transposed weight, giving (..., d_out)."""
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """Token embedding, (batch, seq) -> (batch, seq, d_model)."""

    def __init__(self, vocab_size: int, d_model: int, device: Device = None, dtype: torch.dtype | None = None):
        super().__init__()
        self.weight = make_weight([vocab_size], d_model, device, dtype)
        if INITIALIZES.get():
            init_normal(self.weight, EMBEDDING_STD)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up (batch, seq) token ids."""
        return F.embedding(token_ids, self.weight)


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2), (batch, seq, d_model) -> the same."""

    def __init__(self, d_model: int, num_heads: int, device: Device = None):
        super().__init__()
        self.qkv_proj = Linear(d_model, {"q_proj": d_model, "k_proj": d_model, "v_proj": d_model}, device)
        if not isinstance(num_heads, int) or num_heads < 1 or d_model % num_heads:
            problem = f"is {short_repr(num_heads)}, and d_model is {d_model}"
            raise InputError("num_heads", problem, "use a divisor of d_model")
        self.num_heads = num_heads
        self.output_proj = Linear(d_model, d_model, device)

    def forward(self, x: Tensor, cos_sin: Tensor | None = None) -> Tensor:
        """Attend from each position of (batch, seq, d_model) to itself and those before it."""
        return self.output_proj(causal_attention(self.qkv_proj(x), cos_sin, self.num_heads))


class SwiGLU(nn.Module):
    """SwiGLU feed-forward, w2(silu(w1 x) * w3 x) (Shazeer 2020), (batch, seq, d_model) -> the same."""

    def __init__(self, d_model: int, d_ff: int, device: Device = None):
        super().__init__()
        self.w13 = Linear(d_model, {"w1": d_ff, "w3": d_ff}, device)
        self.w2 = Linear(d_ff, d_model, device)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, seq, d_model)."""
        if use_cpu_kernels(x):
            return SwiGLUFeedForwardFn.apply(x, self.w13.weight, self.w2.weight)
        return self.w2(swiglu(self.w13(x)))


class SiLU(nn.Module):
    """Feed-forward without a gate, w2(silu(w1 x)), (batch, seq, d_model) -> the same."""

    def __init__(self, d_model: int, d_ff: int, device: Device = None):
        super().__init__()
        self.w1 = Linear(d_model, d_ff, device)
        self.w2 = Linear(d_ff, d_model, device)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (batch, seq, d_model)."""
        return self.w2(F.silu(self.w1(x)))


def make_feed_forward(config: ModelConfig, device: Device) -> nn.Module:
    """Return the feed-forward layer that the study names."""
    match config.feed_forward:
        case "swiglu":
            return SwiGLU(config.d_model, config.d_ff, device)
        case "silu":
            return SiLU(config.d_model, config.d_ff, device)
        case unknown:
            assert_never(unknown)


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual sum and an RMSNorm before it, after the sum, or nowhere."""

    def __init__(self, config: ModelConfig, device: Device = None):
        super().__init__()
        norms = norm_placement(config)
        self.post_norm = norms.post

        def make_norm() -> nn.Module:
            if not norms.in_blocks:
                return nn.Identity()
            return RMSNorm(config.d_model, device=device, cast_output=norms.pre)

        self.ln1 = make_norm()
        self.attn = Attention(config.d_model, config.num_heads, device)
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

    The settings are a ModelConfig, or those of one by keyword: `TransformerLM(vocab_size=1024, d_model=64, ...)`.
    With a seed, each weight is a pure function of (seed, its name); they are drawn on the CPU, so that a seed means the
    same numbers on every device. Without one, torch's generator draws them. `device="meta"` allocates no weights.
    Raises InputError for settings that are missing or wrong.
    """

    def __init__(
        self, config: ModelConfig | None = None, seed: int | None = None, device: Device = None, **settings: Any
    ):
        super().__init__()
        self.config = config = check_config(config, settings)
        has_final_norm = norm_placement(config).final
        with contextlib.nullcontext() if seed is None else uninitialized():
            self.token_embeddings = Embedding(config.vocab_size, config.d_model, device)
            self.layers = nn.ModuleList(Block(config, device) for _ in range(config.num_layers))
            self.ln_final = (
                RMSNorm(config.d_model, device=device, cast_output=True) if has_final_norm else nn.Identity()
            )
            self.lm_head = Linear(config.d_model, config.vocab_size, device)
        cos_sin = torch.from_numpy(rope_cos_sin(config)).float()[:, None].to(device) if has_rope(config) else None
        self.register_buffer("cos_sin", cos_sin, persistent=False)
        if seed is not None:
            init_weights(self, seed)

    @classmethod
    def from_arrays(cls, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> Self:
        """Return a model with weights from NumPy, by their names and shapes in `weight_shapes`."""
        with uninitialized():
            model = cls(config)
        model.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        return model

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the logits of the next token at each position.

        Raises InputError for token ids of another shape, and if seq exceeds context_length, the positions of RoPE.
        """
        require_type("token ids", token_ids, Tensor, "a tensor (batch, seq)")
        if token_ids.dim() != 2:
            raise InputError("token ids", f"have shape {tuple(token_ids.shape)}", "pass (batch, seq)")
        if self.cos_sin is not None and token_ids.shape[1] > len(self.cos_sin):
            problem = f"have {token_ids.shape[1]} positions, but context_length is {len(self.cos_sin)}"
            raise InputError("token ids", problem, "pass fewer")
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


def check_config(config: ModelConfig | None, settings: dict[str, Any]) -> ModelConfig:
    """Return the settings of a model, given as one object or by keyword; raise InputError if they are wrong."""
    if config is not None:
        require_type("model", config, ModelConfig, "its settings by keyword: vocab_size, context_length, d_model, ...")
        if settings:
            remedy = "pass config.model_copy(update={...}), or all settings by keyword"
            raise InputError("model", f"has settings and {', '.join(settings)} beside them", remedy)
        return config
    try:
        return ModelConfig.model_validate(settings)
    except ValidationError as error:
        raise first_violation(error, settings).at("model") from None


# --- initial weights -------------------------------------------------------------------------------------------------

EMBEDDING_STD = 1.0


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Leave the weights of layers made in the block as memory has them: drawing 22 M of them takes 3 s."""
    token = INITIALIZES.set(False)
    try:
        yield
    finally:
        INITIALIZES.reset(token)


def make_weight(rows: Sequence[int], columns: int, device: Device, dtype: torch.dtype | None) -> nn.Parameter:
    """Return an uninitialized weight, (sum of rows, columns); raise InputError for a size that is none."""
    for size in (*rows, columns):
        if not isinstance(size, int) or size < 1:
            raise InputError("size of a layer", f"is {short_repr(size)}", "pass a whole number above 0")
    return nn.Parameter(torch.empty(sum(rows), columns, device=device, dtype=dtype))


def linear_std(matrix: Tensor) -> float:
    """Return the initial standard deviation of a linear layer's matrix (handout, section 3.4.1)."""
    return math.sqrt(2 / sum(matrix.shape))


def init_normal(weight: Tensor, std: float, generator: torch.Generator | None = None) -> None:
    """Draw a weight from a normal distribution truncated at 3 standard deviations (handout, section 3.4.1)."""
    nn.init.trunc_normal_(weight, 0.0, std, -3 * std, 3 * std, generator=generator)


def init_weights(model: TransformerLM, seed: int) -> None:
    """Draw every matrix as its layer does, from the generator of (seed, its name); RMSNorm gains stay 1."""
    with torch.no_grad():
        for name, weight, std in init_stds(model):
            values = torch.empty(weight.shape)
            init_normal(values, std, torch.Generator().manual_seed(derive_seed(seed, name)))
            weight.copy_(values)


def init_stds(model: TransformerLM) -> Iterator[tuple[str, Tensor, float]]:
    """Yield name, view and initial standard deviation of each matrix; a fused one as its parts."""
    for name, module in model.named_modules():
        if isinstance(module, Embedding):
            yield f"{name}.weight", module.weight, EMBEDDING_STD
        elif isinstance(module, Linear):
            names = [f"{name}.weight"]
            if len(module.parts) > 1:
                parent = name.rpartition(".")[0]
                names = [f"{parent}.{matrix}.weight" for matrix in module.parts]
            for matrix_name, matrix in zip(names, module.matrices(), strict=True):
                yield matrix_name, matrix, linear_std(matrix)
