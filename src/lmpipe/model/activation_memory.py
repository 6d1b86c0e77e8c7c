"""Activation memory: the bytes that the backward pass of lmpipe's own model saves, beside the handout's simple list.

The handout (problem adamw_accounting) counts the outputs of the layers. torch saves what the derivatives need: the
inputs of matrix multiplies, not their outputs; nothing for a sum; no attention scores, because fused attention
recomputes them; no logits, because their gradients are computed with the loss. Formulas give bytes of a sequence, in
the symbols of lmpipe.model.accounting and `c`, the bytes of a computed number. They hold without torch.compile: for our
kernels on a CPU, and with `on_gpu` for torch's operations.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

from lmpipe.io.documents import Document
from lmpipe.model.accounting import FLOAT32_BYTES, parameter_formulas, shape_constants
from lmpipe.model.architecture import has_gate, has_rope, norm_placement
from lmpipe.model.derivation import Formula, evaluate, sum_terms
from lmpipe.study.settings import EVAL_BATCH_TOKENS, GPU_CHUNK_LOGITS, GPU_EVAL_LOGITS, ModelConfig

# Components of the model that save activations; a measurement distinguishes them by the module that is running.
Component = Literal["embedding", "norms", "attention", "feed_forward", "lm_head", "loss"]
MATMUL_INPUT = "matrix multiplies save their inputs"
CHUNKED = "only a few rows of them exist at a time"
SUM = "it is added to the residual stream, and a sum saves nothing"


@dataclass(frozen=True)
class SavedActivation:
    """Activation that the handout counts (in float32) or torch saves; a formula "0" means that it does not.

    `reason` says why the two differ.
    """

    name: str
    component: Component
    handout: str
    saved: str
    reason: str = ""


class ActivationBytes(Document):
    """Bytes of one saved activation, for a batch."""

    name: str
    """Activation."""
    component: Component
    """Component of the model that saves it."""
    reason: str
    """Why the two differ; empty if they do not."""
    handout_bytes: int
    """Bytes of the batch by the handout's list."""
    saved_bytes: int
    """Bytes of the batch that torch saves."""


class ActivationAccounting(Document):
    """Activation memory of a batch, by the handout's list and as torch saves it."""

    activations: tuple[ActivationBytes, ...]
    """Every saved activation."""
    handout_bytes: int
    """Bytes of the batch by the handout's list."""
    saved_bytes: int
    """Bytes of the batch that torch saves."""


def computed_itemsize(precision: str) -> int:
    """Return the bytes of a number that a study's precision computes; norms and the loss stay in float32.

    Below 4 autocast keeps a copy of each matrix.
    """
    match precision:
        case "float32":
            return 4
        case "bfloat16":
            return 2
        case unknown:
            assert_never(unknown)


def saved_activations(config: ModelConfig, on_gpu: bool = False) -> list[SavedActivation]:
    """Return every activation that the handout's list counts or that torch saves for the backward pass."""
    gate, norms = has_gate(config), norm_placement(config)
    # Outputs of RMSNorms are counted at the matrices that read them.
    norm_inputs = sum_terms(["8 * L * S * D" if norms.in_blocks else "0", "4 * S * D" if norms.final else "0"])
    norm_scales = sum_terms(["8 * L * S" if norms.in_blocks else "0", "4 * S" if norms.final else "0"])
    block_input = "4 * L * S * D" if norms.in_blocks else "0", "c * L * S * D", MATMUL_INPUT
    head_input = "4 * S * D" if norms.final else "0"
    fused = "0", "fused attention recomputes them from queries and keys"
    silu = ("0", "the activation recomputes it") if gate else ("c * L * S * F",)
    gated, w3 = ("4 * L * S * F", "c * L * S * F") if gate else ("0", "0")
    product = (w3,) if on_gpu or not gate else silu
    rotated = "2 * c * L * S * D" if on_gpu and has_rope(config) else "0"
    log_sums = "4 * L * H * S" if on_gpu else "0"
    beside = "beside those before, which share memory with the values"
    rows = [
        ("token ids", "embedding", "0", "8 * S", "8 bytes each, to find the rows of the gradient"),
        ("inputs of the RMSNorms", "norms", "0", norm_inputs, "for the gradients of input and gain"),
        ("reciprocal roots of the RMSNorms", "norms", "0", norm_scales, "a number for each position"),
        ("inputs of attention", "attention", *block_input),
        ("queries, keys and values", "attention", "12 * L * S * D", "3 * c * L * S * D"),
        ("attention scores QKᵀ", "attention", "4 * L * H * S**2", *fused),
        ("softmax of the scores", "attention", "4 * L * H * S**2", *fused),
        ("rotated queries and keys", "attention", "0", rotated, beside),
        ("logarithms of the softmax's sums", "attention", "0", log_sums, "to recompute the scores"),
        ("weighted sums of the values", "attention", "4 * L * S * D", "c * L * S * D"),
        ("output projection", "attention", "4 * L * S * D", "0", SUM),
        ("inputs of the feed-forward", "feed_forward", *block_input),
        ("W1", "feed_forward", "4 * L * S * F", "c * L * S * F"),
        ("SiLU", "feed_forward", "4 * L * S * F", *silu),
        ("W3", "feed_forward", gated, w3),
        ("product of SiLU and W3", "feed_forward", gated, *product),
        ("W2", "feed_forward", "4 * L * S * D", "0", SUM),
        ("input of the output head", "lm_head", head_input, "0", "the loss saves its gradient instead"),
        (
            "gradient of the output head's input",
            "loss",
            "0",
            "c * S * D",
            "computed with the loss, in the forward pass",
        ),
        ("logits", "loss", "4 * S * V", "0", CHUNKED),
        ("cross-entropy (softmax of the logits)", "loss", "4 * S * V", "0", CHUNKED),
    ]
    activations = [SavedActivation(*row) for row in rows]
    return [activation for activation in activations if (activation.handout, activation.saved) != ("0", "0")]


def batch_independent_activations(precision: str) -> list[SavedActivation]:
    """Return what is saved whatever the batch size: an early gradient, and autocast's copies of matrices."""
    reason = "computed with the loss; it is the parameter's gradient, which is counted as such, too"
    activations = [SavedActivation("gradient of the output head", "loss", "0", "4 * P_head", reason)]
    if computed_itemsize(precision) < FLOAT32_BYTES:
        activations += [
            SavedActivation(
                f"matrices in {precision}: {component.replace('_', '-')}",
                component,
                "0",
                f"c * P_{component}",
                "autocast keeps its copy of each matrix",
            )
            for component in ("attention", "feed_forward")
        ]
    return activations


def activation_formulas(config: ModelConfig, precision: str, on_gpu: bool = False) -> list[Formula]:
    """Return the bytes of a sequence that torch saves (A_saved), and what it saves of any batch (W)."""
    fixed = sum_terms(activation.saved for activation in batch_independent_activations(precision))
    per_sequence = sum_terms(activation.saved for activation in saved_activations(config, on_gpu))
    return [
        *shape_constants(config),
        Formula("c", "a computed number", computed_itemsize(precision), "bytes"),
        *parameter_formulas(config),
        Formula("A_saved", "saved by torch, for a sequence", per_sequence, "bytes"),
        Formula("W", "saved whatever the batch size", fixed, "bytes"),
    ]


def account_activations(
    config: ModelConfig, precision: str, batch_size: int, on_gpu: bool = False
) -> ActivationAccounting:
    """Return every saved activation of a batch with its bytes by the handout's list and as saved, and their sums."""
    formulas = activation_formulas(config, precision, on_gpu)
    sequences = [(activation, batch_size) for activation in saved_activations(config, on_gpu)]
    sequences += [(activation, 1) for activation in batch_independent_activations(precision)]
    activations = []
    for activation, count in sequences:
        sizes = Formula("handout", "", activation.handout), Formula("saved", "", activation.saved)
        value = evaluate([*formulas, *sizes])
        activations.append(
            ActivationBytes(
                name=activation.name,
                component=activation.component,
                reason=activation.reason,
                handout_bytes=count * value["handout"],
                saved_bytes=count * value["saved"],
            )
        )
    return ActivationAccounting(
        activations=tuple(activations),
        handout_bytes=sum(activation.handout_bytes for activation in activations),
        saved_bytes=sum(activation.saved_bytes for activation in activations),
    )


# --- peak memory of a training step ----------------------------------------------------------------------------------


def backward_peak(config: ModelConfig, precision: str, on_gpu: bool = False) -> Formula:
    """Return the memory of gradients at the peak of the backward pass, in the last feed-forward, for a sequence.

    SwiGLU computes the gradients of W1's and W3's outputs and its product (3 F), in float32 on a CPU a few rows at a
    time; SiLU the gradients of its output and input (2 F), when its saved output (F) is freed already. So is what the
    loss and the norm of the block saved (D each), and there is the gradient of the residual stream (D).
    """
    is_chunked = computed_itemsize(precision) == FLOAT32_BYTES and not on_gpu
    gradients = (0 if is_chunked else 3) if has_gate(config) else 1
    freed = 1 if norm_placement(config).in_blocks else 0
    expression = f"c * S * max(0, {gradients} * F - {freed} * D)"
    return Formula("A_work", "gradients at the peak of the backward pass, for a sequence", expression, "bytes")


def step_memory(config: ModelConfig, precision: str, on_gpu: bool = False) -> tuple[int, int]:
    """Return the peak memory of a training step, in bytes: whatever the batch is, and for each of its sequences.

    It is that of weights, gradients, moments, saved activations and the backward pass; on a GPU also of the logits of a
    chunk. The allocator's fragmentation is not counted.
    """
    value = evaluate([*activation_formulas(config, precision, on_gpu), backward_peak(config, precision, on_gpu)])
    # The gradient of the output head is among the saved activations, and counts once.
    fixed = 4 * FLOAT32_BYTES * value["P"] + value["W"] - FLOAT32_BYTES * value["P_head"]
    if on_gpu:
        # Logits and probabilities in float32, the mask of the targets, and logits in a lower precision.
        itemsize = computed_itemsize(precision)
        logit_bytes = 2 * FLOAT32_BYTES + 1 + (itemsize if itemsize < FLOAT32_BYTES else 0)
        fixed += logit_bytes * max(GPU_CHUNK_LOGITS, config.vocab_size)
    return fixed, value["A_saved"] + value["A_work"]


def step_bytes(config: ModelConfig, precision: str, batch_size: int, on_gpu: bool = False) -> int:
    """Return the peak memory of a training step of `batch_size` sequences, in bytes."""
    fixed, per_sequence = step_memory(config, precision, on_gpu)
    return fixed + per_sequence * batch_size


def validation_bytes(config: ModelConfig, on_gpu: bool = False) -> int:
    """Return the bytes of the largest tensors of a validation: logits of the windows of a batch, and their log-softmax.

    For a small model they come on top of a step's memory, whose freed pieces are too small for them.
    """
    tokens = max(EVAL_BATCH_TOKENS, GPU_EVAL_LOGITS // config.vocab_size) if on_gpu else EVAL_BATCH_TOKENS
    windows = max(1, tokens // config.context_length)
    return 2 * FLOAT32_BYTES * windows * config.context_length * config.vocab_size
