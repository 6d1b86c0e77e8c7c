"""Weights under the names of the CS336 handout's adapters, where queries, keys and values, and w1 and w3, are apart.

Both models rotate neighbouring channels in RoPE, so that no row changes its place.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmpipe.errors import InputError
from lmpipe.io.validation import require_type, short_repr
from lmpipe.model.architecture import FUSED, split_fused

LAYER = re.compile(r"(layers\.\d+\.)(.+)\.weight")
LAYER_WEIGHTS = ("ln1", "ln2", "attn.output_proj", "ffn.w2", *FUSED["attn.qkv_proj"], *FUSED["ffn.w13"])
OTHER_WEIGHTS = ("token_embeddings.weight", "ln_final.weight", "lm_head.weight")


def from_handout(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a TransformerLM from weights under the handout's names, such as a student's own.

    They are tensors or arrays, (d_out, d_in); the prefix that torch.compile adds to names is dropped. Without w3, w1
    is that of a model with feed_forward "silu". Raises InputError for other names, and for a missing part.

    >>> parts = {f"layers.0.attn.{part}_proj.weight": torch.zeros(4, 4) for part in "qkv"}
    >>> {name: tuple(weight.shape) for name, weight in from_handout(parts).items()}
    {'layers.0.attn.qkv_proj.weight': (12, 4)}
    """
    require_type("weights", weights, Mapping, "a state dict: tensors by name")
    plain = {f"{name}".removeprefix("_orig_mod."): weight for name, weight in weights.items()}
    prefixes = dict.fromkeys(match[1] for match in map(LAYER.fullmatch, plain) if match)
    for name in plain:
        match = LAYER.fullmatch(name)
        if name not in OTHER_WEIGHTS and not (match and match[2] in LAYER_WEIGHTS):
            raise InputError("weights", f"contain {short_repr(name)}, which is none of the handout's", "leave it out")
    try:
        converted = {name: torch.as_tensor(weight) for name, weight in plain.items()}
    except (TypeError, ValueError, RuntimeError):
        raise InputError("weights", "contain a value that is no tensor", "pass a state dict: tensors by name") from None
    for prefix in prefixes:
        for fused, parts in FUSED.items():
            names = [f"{prefix}{part}.weight" for part in parts]
            missing = [name for name in names if name not in converted]
            if not missing:
                converted[f"{prefix}{fused}.weight"] = torch.cat([converted.pop(name) for name in names])
            elif missing not in (names, [f"{prefix}ffn.w3.weight"]):
                raise InputError("weights", f"lack {missing[0]}", f"pass {' and '.join(names)} together")
    return converted


def to_handout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a TransformerLM under the handout's names: fused matrices are split, nothing is copied.

    >>> list(to_handout({"layers.0.ffn.w13.weight": torch.zeros(6, 4), "lm_head.weight": torch.zeros(9, 4)}))
    ['layers.0.ffn.w1.weight', 'layers.0.ffn.w3.weight', 'lm_head.weight']
    """
    require_type("weights", weights, Mapping, "the state dict of a TransformerLM")
    return split_fused(weights)
