"""What the backward pass of lmpipe's own model keeps in memory, beside the handout's simplified list of it.

The handout (problem adamwAccounting) lists the outputs of the layers. What torch really keeps follows from what the
derivatives need: the inputs of matrix multiplies, not their outputs; nothing of a sum; no attention scores, since the
fused attention computes them again; and no logits, whose gradients are made with the loss. Formulas are texts, as in
`lmpipe.model.accounting`, and give bytes of a sequence. They hold for a CPU, and a model that is not compiled.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lmpipe.model.accounting import FLOAT32_BYTES, Line, Step, collected, derive, parameter_steps, shape_of, values_of
from lmpipe.study.settings import VALIDATED_AT_ONCE, ModelConfig

# The parts of the model that keep values; a measurement tells them apart by the module that is at work.
PARTS = ("embedding", "norms", "attention", "feed_forward", "lm_head", "loss")
# Bytes of a number that a matrix multiply reads or makes, by precision; norms and the loss stay in float32.
COMPUTED_BYTES = {"float32": 4, "bfloat16": 2}
READ = "matrices keep what they multiply"
ROWS = "only a few rows of them are there at a time"
SUM = "it is added to the residual stream, and a sum keeps nothing of its terms"


@dataclass(frozen=True)
class Kept:
    """A value that the handout's list counts or that torch keeps: its part, and its bytes by either; "0" for none.

    `c` in a formula is the size of a computed number, see COMPUTED_BYTES. `reason` says why the two differ.
    """

    name: str
    part: str
    handout: str
    kept: str
    reason: str = ""


def kept_values(config: ModelConfig) -> list[Kept]:
    """Every value that the handout's list counts (in float32) or that torch keeps for the backward pass."""
    head = "4 * S * D" if config.norm == "pre" else "0"
    values = [
        Kept("token ids", "embedding", "0", "8 * S", "8 bytes each, by which gradients find their rows"),
        *norm_values(config),
        *attention_values(config),
        *feed_forward_values(config),
        Kept("input of the output head", "lm_head", head, "0", "the loss keeps its gradient instead"),
        Kept(
            "gradient of the output head's input", "loss", "0", "c * S * D", "made with the loss, in the forward pass"
        ),
        Kept("logits", "loss", "4 * S * V", "0", ROWS),
        Kept("cross-entropy (softmax of the logits)", "loss", "4 * S * V", "0", ROWS),
    ]
    return [value for value in values if (value.handout, value.kept) != ("0", "0")]


def norm_values(config: ModelConfig) -> list[Kept]:
    """What RMSNorms keep; their outputs are counted where matrices read them."""
    wide = {"pre": "8 * L * S * D + 4 * S * D", "post": "8 * L * S * D", "none": "0"}[config.norm]
    narrow = {"pre": "8 * L * S + 4 * S", "post": "8 * L * S", "none": "0"}[config.norm]
    return [
        Kept("inputs of the RMSNorms", "norms", "0", wide, "by which norm and gain are differentiated"),
        Kept("reciprocal roots of the RMSNorms", "norms", "0", narrow, "a number for each position"),
    ]


def attention_values(config: ModelConfig) -> list[Kept]:
    """What attention keeps."""
    again = "fused attention computes them again from queries and keys"
    return [
        Kept("inputs of attention", "attention", read_by_a_block(config), "c * L * S * D", READ),
        Kept("queries, keys and values", "attention", "12 * L * S * D", "3 * c * L * S * D"),
        Kept("attention scores QKᵀ", "attention", "4 * L * H * S**2", "0", again),
        Kept("softmax of the scores", "attention", "4 * L * H * S**2", "0", again),
        Kept("weighted sums of the values", "attention", "4 * L * S * D", "c * L * S * D"),
        Kept("output projection", "attention", "4 * L * S * D", "0", SUM),
    ]


def feed_forward_values(config: ModelConfig) -> list[Kept]:
    """What the feed-forward keeps."""
    is_gated = config.feed_forward == "swiglu"
    silu = ("0", "the gate computes it again") if is_gated else ("c * L * S * F",)
    gate = [
        Kept("W3", "feed_forward", "4 * L * S * F", "c * L * S * F"),
        Kept("product of SiLU and W3", "feed_forward", "4 * L * S * F", *silu),
    ]
    return [
        Kept("inputs of the feed-forward", "feed_forward", read_by_a_block(config), "c * L * S * D", READ),
        Kept("W1", "feed_forward", "4 * L * S * F", "c * L * S * F"),
        Kept("SiLU", "feed_forward", "4 * L * S * F", *silu),
        *(gate if is_gated else []),
        Kept("W2", "feed_forward", "4 * L * S * D", "0", SUM),
    ]


def read_by_a_block(config: ModelConfig) -> str:
    """What the handout counts for the input of an attention or feed-forward block: the RMSNorm's output, if any."""
    return "0" if config.norm == "none" else "4 * L * S * D"


def fixed_values(precision: str) -> list[Kept]:
    """What is kept whatever the batch: a gradient that is there early, and autocast's copies of matrices."""
    early = "made with the loss; it is the parameter's gradient, which is counted as such, too"
    values = [Kept("gradient of the output head", "loss", "0", "4 * P_head", early)]
    if precision == "float32":
        return values
    reason = "autocast keeps its copy of each matrix"
    return values + [
        Kept(f"matrices in {precision}: {part.replace('_', '-')}", part, "0", f"c * P_{part}", reason)
        for part in ("attention", "feed_forward")
    ]


def summed(formulas: Iterable[str]) -> str:
    """The sum of formulas, with equal terms taken together.

    >>> summed(["2 * L * D", "0", "L * D"])
    '3 * L * D'
    """
    return collected(Step("", "", formula) for formula in formulas) or "0"


def derivation(config: ModelConfig, precision: str) -> list[Line]:
    """A sequence's bytes by the handout's list (A_handout), as kept (A_kept), and those that no batch changes (W)."""
    values = kept_values(config)
    steps = [
        *parameter_steps(config),
        Step("A_handout", "the handout's list, for a sequence", summed(value.handout for value in values), "bytes"),
        Step("A_kept", "what torch keeps, for a sequence", summed(value.kept for value in values), "bytes"),
        Step(
            "W", "what is kept whatever the batch", " + ".join(fixed.kept for fixed in fixed_values(precision)), "bytes"
        ),
    ]
    return derive([*shape_of(config), Line("c", "a computed number", "", COMPUTED_BYTES[precision], "bytes")], steps)


def kept_bytes(config: ModelConfig, precision: str, batch_size: int) -> int:
    """Bytes that the forward pass of a batch keeps for the backward pass, the parameters themselves left out."""
    value = values_of(derivation(config, precision))
    return value["A_kept"] * batch_size + value["W"]


def work_step(config: ModelConfig, precision: str) -> Step:
    """What the backward pass of a sequence holds at its widest, in the last feed-forward, beyond what was kept.

    SwiGLU computes the gradients of W1's and W3's outputs and its product (3 F), in float32 a few rows at a time; SiLU
    the gradients of its output and input (2 F), while what it kept (F) is gone already. So is what the loss and
    the norm behind the block kept (D each), and there is the gradient of the residual stream (D).
    """
    made = {"float32": 0, "bfloat16": 3}[precision] if config.feed_forward == "swiglu" else 1
    norms = 0 if config.norm == "none" else 1
    widest = f"c * S * max(0, {made} * F - {norms} * D)"
    return Step("A_work", "gradients at the widest place of the backward pass, for a sequence", widest, "bytes")


def bytes_of_step(config: ModelConfig, precision: str) -> tuple[int, int]:
    """The most that a training step holds, as bytes whatever the batch and bytes for a sequence.

    Weights, gradients and both moments; what is kept for the backward pass; and the widest place of that. The room
    that an allocator keeps between its pieces is not counted.
    """
    value = values_of(derive(derivation(config, precision), [work_step(config, precision)]))
    # The gradient of the output head is kept already, and is no second one.
    fixed = 4 * FLOAT32_BYTES * value["P"] + value["W"] - FLOAT32_BYTES * value["P_head"]
    return fixed, value["A_kept"] + value["A_work"]


def step_bytes(config: ModelConfig, precision: str, batch_size: int) -> int:
    """The most that a training step of so many sequences holds, in bytes."""
    fixed, per_sequence = bytes_of_step(config, precision)
    return fixed + per_sequence * batch_size


def validation_bytes(config: ModelConfig) -> int:
    """The largest tensors of a validation: the logits of the windows computed at once, and their logarithms' softmax.

    Where a model is small they come on top of what a step held: what it gave back is in pieces too small for them.
    """
    windows = max(1, VALIDATED_AT_ONCE // config.context_length)
    return 2 * FLOAT32_BYTES * windows * config.context_length * config.vocab_size


def account_activations(config: ModelConfig, precision: str, batch_size: int) -> dict[str, Any]:
    """Every value of a batch with its bytes by the handout's list and as kept, and their sums."""
    lines = derivation(config, precision)
    value = values_of(lines)
    rows = [(kept, batch_size) for kept in kept_values(config)] + [(kept, 1) for kept in fixed_values(precision)]
    return {
        "values": [asdict(kept) | {name: times * size for name, size in sizes_of(kept, lines)} for kept, times in rows],
        "handout_bytes": batch_size * value["A_handout"],
        "kept_bytes": batch_size * value["A_kept"] + value["W"],
        "kept_bytes_per_sequence": value["A_kept"],
    }


def sizes_of(kept: Kept, lines: list[Line]) -> list[tuple[str, int]]:
    """A value's bytes by the handout's list and as kept, from the quantities of a derivation."""
    value = values_of(derive(lines, [Step("by_handout", "", kept.handout), Step("as_kept", "", kept.kept)]))
    return [("handout_bytes", value["by_handout"]), ("kept_bytes", value["as_kept"])]
