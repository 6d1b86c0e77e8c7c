"""Settings of one model and of one training run: the blocks `model` and `training` of a study file."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lmpipe.io.validation import InvalidValueError
from lmpipe.study.fields import (
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    Size,
)

# Validation tokens computed at once: enough for full speed on a CPU, and the logits of a vocabulary of 32,000 still fit
# into 256 MB.
EVAL_BATCH_TOKENS = 2048
# Logits computed at once on a GPU: of the output head in training, and in a validation.
GPU_CHUNK_LOGITS, GPU_EVAL_LOGITS = 1 << 26, 1 << 27
MAX_HEADS = 4096


Beta = Annotated[FiniteFloat, Field(ge=0, lt=1)]
# JSON has lists only, and strict validation refuses one for a tuple.
Betas = Annotated[tuple[Beta, Beta], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]


class ModelSettings(Settings):
    """A transformer (handout, section 3) without its vocabulary, which comes from the tokenizer."""

    context_length: Size
    """Tokens that the model sees at once."""
    d_model: Size
    """Channels of the residual stream."""
    d_ff: Size
    """Channels inside the feed-forward."""
    num_layers: Annotated[PositiveInt, Field(le=1000)]
    """Transformer blocks."""
    num_heads: Annotated[PositiveInt, Field(le=MAX_HEADS)]
    """Attention heads; a divisor of d_model."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotation frequencies of RoPE."""
    norm: Literal["pre", "post", "none"] = "pre"
    """RMSNorm before each sublayer, after its residual addition, or nowhere."""
    position_embedding: Literal["rope", "none"] = "rope"
    """Rotary position embedding, or none (NoPE)."""
    feed_forward: Literal["swiglu", "silu"] = "swiglu"
    """Feed-forward: SwiGLU with three matrices, or SiLU with two."""

    @model_validator(mode="after")
    def check_heads(self) -> "ModelSettings":
        """Require heads of equal size, which is even with RoPE: it rotates pairs of channels."""
        if self.d_model % self.num_heads:
            problem = f"is {self.num_heads}, which does not divide d_model = {self.d_model}"
            raise InvalidValueError(problem, f"use {self.nearest_heads()}", key="num_heads")
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise InvalidValueError(
                f"is {self.num_heads}, so that a head has {self.head_dim} channels, but RoPE rotates pairs of channels",
                f"use {self.nearest_heads()}, or position_embedding: none",
                key="num_heads",
            )
        return self

    def nearest_heads(self) -> str:
        """Return up to four valid values near num_heads, as words."""
        step = 2 if self.position_embedding == "rope" else 1
        values = [n for n in range(1, min(self.d_model, MAX_HEADS) + 1) if self.d_model % (n * step) == 0]
        if not values:
            return "an even d_model"
        *first, last = map(str, sorted(sorted(values, key=lambda n: abs(n - self.num_heads))[:4]))
        return f"{', '.join(first)} or {last}" if first else last

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.num_heads


class ModelConfig(ModelSettings):
    """A complete model: its settings and the vocabulary size of its tokenizer."""

    vocab_size: Annotated[PositiveInt, Field(le=2**31)]
    """Token ids of the tokenizer."""


class TrainingSettings(Settings):
    """One training run (handout, section 4): AdamW with a cosine schedule."""

    total_tokens: PositiveInt
    """Tokens to train on; a run takes the whole batches that fit, at least one."""
    batch_size: PositiveInt
    """Sequences of context_length tokens in an optimizer step."""
    max_lr: PositiveFloat
    """Peak learning rate."""
    min_lr_ratio: Fraction = 0.1
    """Final learning rate, as a fraction of max_lr."""
    warmup_fraction: Fraction = 0.05
    """Fraction of the steps in which the learning rate rises linearly to max_lr."""
    min_warmup_steps: NonNegativeInt = 0
    """Steps of the warm-up at least, or all steps of a shorter run."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay of AdamW."""
    betas: Betas = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    eps: PositiveFloat = 1e-8
    """AdamW's term for numerical stability."""
    max_grad_norm: PositiveFloat = 1.0
    """L2 norm to which gradients are clipped."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix multiplications; weights, moments and the loss stay float32."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Use torch.compile; `auto` compiles runs of at least 5e14 FLOPs on a CPU and 1e16 on a GPU."""
    micro_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Sequences computed at once; gradients accumulate. `auto` halves the batch until it fits into memory."""
    num_evaluations: PositiveInt = 10
    """Points of the validation curve after its start; the last one is the loss on the whole validation split."""
    eval_tokens: PositiveInt = 16384
    """Validation tokens for each other point of the curve, in windows spread over the split."""

    def steps(self, context_length: int) -> int:
        """Optimizer steps of the run: whole batches that fit into total_tokens, at least one."""
        return max(1, self.total_tokens // (self.batch_size * context_length))

    def warmup_steps(self, context_length: int) -> int:
        """Return the steps in which the learning rate rises."""
        steps = self.steps(context_length)
        return min(steps, max(round(self.warmup_fraction * steps), self.min_warmup_steps))
