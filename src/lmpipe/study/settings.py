"""The settings of one model and one training run: what a study file may say under `model:` and `training:`.

They stand apart from `lmpipe.study.schema`, so that a change to how studies are read retrains nothing.
"""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmpipe.io.validation import short_repr

# Validation tokens computed at once: enough for full speed on a CPU, and the logits of a vocabulary of 32,000 still fit
# into 256 MB.
EVAL_BATCH_TOKENS = 2048


def parse_number(value: Any) -> Any:
    """Accept number texts such as `1e-3`, which YAML reads as strings; refuse booleans, which Python counts as numbers.

    >>> plain_number("1e-3"), plain_number("4.096e5"), plain_number(7)
    (0.001, 409600.0, 7)
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found the boolean {value}; correct the value")
    if isinstance(value, str):
        try:
            return int(value, 10) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise ValueError(f"expected a number, found the text {short_repr(value)}; correct the value") from None
    return value


def closest_match(word: str, names: Iterable[str]) -> str | None:
    """The name that a misspelt word most likely stands for, judged by the whole name or its beginning.

    >>> nearest("warmpu", ["total_tokens", "warmup_fraction"])
    'warmup_fraction'
    """
    beginnings = {name[: len(word)]: name for name in names} | {name: name for name in names}
    found = get_close_matches(word, beginnings, n=1, cutoff=0.6)
    return beginnings[found[0]] if found else None


Integer = Annotated[int, BeforeValidator(parse_number), Field(le=2**53)]
FiniteFloat = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]


def to_tuple(value: Any) -> Any:
    """Return a list as a tuple: JSON has lists only, and strict validation after a model's own takes no list."""
    return tuple(value) if isinstance(value, list) else value


PositiveInt = Annotated[Integer, Field(ge=1)]
# Above all models that there are, and low enough that a few of them multiplied are still a number of bytes.
Size = Annotated[PositiveInt, Field(le=2**24)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
NonNegativeFloat = Annotated[FiniteFloat, Field(ge=0)]
Beta = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A block of a study file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, value: Any) -> Any:
        """Name the nearest valid key for one that is unknown."""
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    near = closest_match(short_repr(key), cls.model_fields)
                    hint = f"did you mean {near}?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                    raise ValueError(f"unknown key {short_repr(key)}; {hint}")
        elif not isinstance(value, cls):
            raise ValueError(f"expected keys and values, found {short_repr(value)}; write key: value lines")
        return value


class ModelSettings(Settings):
    """The transformer's shape and variant (handout, section 3), without the vocabulary, which its tokenizer decides."""

    context_length: Size
    d_model: Size
    d_ff: Size
    num_layers: Annotated[PositiveInt, Field(le=1000)]
    num_heads: Annotated[PositiveInt, Field(le=4096)]
    rope_theta: PositiveFloat = 10000.0
    norm: Literal["pre", "post", "none"] = "pre"
    position_embedding: Literal["rope", "none"] = "rope"
    feed_forward: Literal["swiglu", "silu"] = "swiglu"

    @model_validator(mode="after")
    def check_heads(self) -> "ModelSettings":
        """Every head needs the same width, and rotary positions turn pairs of channels."""
        if self.d_model % self.num_heads:
            nearest = math.ceil(self.d_model / self.num_heads) * self.num_heads
            raise ValueError(
                f"d_model {self.d_model} cannot be divided among num_heads {self.num_heads}; "
                f"choose a multiple of num_heads, such as {nearest}"
            )
        if self.position_embedding == "rope" and (self.d_model // self.num_heads) % 2:
            raise ValueError(
                f"heads of width {self.head_dim} (d_model / num_heads) are odd, but RoPE turns channels in pairs; "
                "choose an even width, or position_embedding: none"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.num_heads


class ModelConfig(ModelSettings):
    """A complete model: its settings and the number of ids of its tokenizer."""

    vocab_size: Annotated[PositiveInt, Field(le=2**31)]


class TrainingSettings(Settings):
    """One training run. batch_size counts sequences of context_length tokens; rates and fractions are plain numbers."""

    total_tokens: PositiveInt
    batch_size: PositiveInt
    max_lr: PositiveFloat
    min_lr_ratio: Fraction = 0.1
    warmup_fraction: Fraction = 0.05
    weight_decay: NonNegativeFloat = 0.1
    betas: Annotated[tuple[Beta, Beta], BeforeValidator(to_tuple)] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto", "always", "never"] = "auto"
    micro_batch_size: Literal["auto"] | PositiveInt = "auto"
    num_evaluations: PositiveInt = 10
    eval_tokens: PositiveInt = 16384

    def steps(self, context_length: int) -> int:
        """Optimizer steps of the run: whole batches that fit into total_tokens, at least one."""
        return max(1, self.total_tokens // (self.batch_size * context_length))
