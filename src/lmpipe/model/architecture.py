"""Facts of the architecture that torch's model, the compiled one and the accounting share; nothing here imports torch.

The words of the study file (norm, position_embedding, feed_forward) are read here, once: `norm_placement`, `has_rope`
and `has_gate` say what each means, and refuse a word they do not know.
"""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar, assert_never

from lmpipe.study.settings import ModelConfig

if TYPE_CHECKING:
    import numpy as np

# Matrices that TransformerLM fuses, one below the other.
FUSED = {"attn.qkv_proj": ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "ffn.w13": ("ffn.w1", "ffn.w3")}
Array = TypeVar("Array")  # of NumPy, or a tensor


class NormPlacement(NamedTuple):
    """Positions of the RMSNorms: before each sublayer, after each residual sum, before the output head."""

    pre: bool
    post: bool
    final: bool

    @property
    def in_blocks(self) -> bool:
        """True if blocks have norms at all."""
        return self.pre or self.post


def norm_placement(config: ModelConfig) -> NormPlacement:
    """Return the positions of the RMSNorms; post-norm blocks end normalized and need no final norm."""
    match config.norm:
        case "pre":
            return NormPlacement(pre=True, post=False, final=True)
        case "post":
            return NormPlacement(pre=False, post=True, final=False)
        case "none":
            return NormPlacement(pre=False, post=False, final=False)
        case unknown:
            assert_never(unknown)


def has_rope(config: ModelConfig) -> bool:
    """Return True if queries and keys are rotated by their positions."""
    match config.position_embedding:
        case "rope":
            return True
        case "none":
            return False
        case unknown:
            assert_never(unknown)


def has_gate(config: ModelConfig) -> bool:
    """Return True if the feed-forward is w2(silu(w1 x) * w3 x), False if it is w2(silu(w1 x))."""
    match config.feed_forward:
        case "swiglu":
            return True
        case "silu":
            return False
        case unknown:
            assert_never(unknown)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of model.safetensors by its name in TransformerLM.

    Matrices are (d_out, d_in). A fused one holds its parts one below the other: q, k and v; w1 and w3.
    """
    d_model, d_ff, norms = config.d_model, config.d_ff, norm_placement(config)
    feed_forward = {"w13": (2 * d_ff, d_model)} if has_gate(config) else {"w1": (d_ff, d_model)}
    layer = {
        "ln1.weight": (d_model,),
        "attn.qkv_proj.weight": (3 * d_model, d_model),
        "attn.output_proj.weight": (d_model, d_model),
        "ln2.weight": (d_model,),
        **{f"ffn.{name}.weight": shape for name, shape in feed_forward.items()},
        "ffn.w2.weight": (d_model, d_ff),
    }
    if not norms.in_blocks:
        layer = {name: shape for name, shape in layer.items() if not name.startswith("ln")}
    return {
        "token_embeddings.weight": (config.vocab_size, d_model),
        **{f"layers.{index}.{name}": shape for index in range(config.num_layers) for name, shape in layer.items()},
        **({"ln_final.weight": (d_model,)} if norms.final else {}),
        "lm_head.weight": (config.vocab_size, d_model),
    }


def split_fused(weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return a model's weights with the parts of fused matrices, as views, under names of their own."""
    parts = {}
    for name, weight in weights.items():
        for fused, names in FUSED.items():
            if name.endswith(f".{fused}.weight"):
                prefix, matrices = name.removesuffix(f"{fused}.weight"), weight.reshape(len(names), -1, weight.shape[1])
                parts |= {f"{prefix}{part}.weight": matrix for part, matrix in zip(names, matrices, strict=True)}
                break
        else:
            parts[name] = weight
    return parts


def rope_cos_sin(config: ModelConfig) -> "np.ndarray":
    """Return cosine and sine of each angle position / theta^(2k / head_dim) (Su et al. 2021, equation 15).

    The shape is (context_length, head_dim / 2, 2), the type float64.
    """
    import numpy as np  # here, because the accounting, and so `lmpipe estimate`, does without it

    pairs = np.arange(config.head_dim // 2, dtype=np.float64)
    angles = np.arange(config.context_length)[:, None] * config.rope_theta ** (-2 * pairs / config.head_dim)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream `name`: 63 bits of SHA-256, so that streams are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1
