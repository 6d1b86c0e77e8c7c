"""Resource accounting in closed form: parameters, matrix multiplies, memory and time with AdamW (handout, 3 and 4).

Symbols of the formulas: S context_length, D d_model, F d_ff, L num_layers, H num_heads, V vocab_size. Nothing here
imports torch; lmpipe.model.torch_counts checks the formulas against torch.
"""

import ast
from collections.abc import Sequence
from typing import Literal, get_args

from lmpipe.io.documents import Document
from lmpipe.model.architecture import has_gate, norm_placement
from lmpipe.model.derivation import DerivationLine, Formula, derive, evaluate, sum_terms
from lmpipe.study.editions import AdamWQuestion
from lmpipe.study.settings import ModelConfig

FLOAT32_BYTES = 4
Component = Literal["attention_projections", "attention_scores", "feed_forward", "lm_head"]

# Share of a device's peak rate that the handout's question about training time assumes.
MODEL_FLOPS_UTILIZATION = 0.5

# Update of one parameter, line by line. Scalars computed once per step cost nothing per parameter: b1, b2 (betas),
# c1 = 1 - b1, c2 = 1 - b2, alpha_t (the bias-corrected rate), decay = rate * weight decay.
ADAMW_HANDOUT = (
    "m = b1 * m + c1 * g",
    "v = b2 * v + c2 * g * g",
    "theta = theta - alpha_t * m / (sqrt(v) + eps)",
    "theta = theta - decay * theta",
)
# The form that torch computes and lmpipe trains with: keep = 1 - rate * weight decay, alpha_1 = rate / (1 - b1**t),
# root = sqrt(1 - b2**t).
ADAMW_TORCH = (
    "theta = keep * theta",
    "m = m + c1 * (g - m)",
    "v = b2 * v + c2 * g * g",
    "theta = theta - alpha_1 * m / (sqrt(v) / root + eps)",
)


# --- the document accounting/NAME.json -------------------------------------------------------------------------------


class ParameterCounts(Document):
    """Number of parameters by part of the model."""

    token_embedding: int
    """Token embedding; it is not tied to the output head."""
    attention: int
    """Query, key, value and output projections of all layers."""
    feed_forward: int
    """Feed-forward matrices of all layers."""
    norms: int
    """RMSNorm gains."""
    lm_head: int
    """Output head."""
    total: int
    """All parameters."""


class Matmul(Document):
    """Matrix multiply (m, k) x (k, n), done `repeats` times in the forward pass of one sequence."""

    name: str
    """Product, in words."""
    component: Component
    """Component of the model that it belongs to."""
    shape: tuple[int, int, int]
    """m, k and n."""
    repeats: int
    """Number of such multiplies in a forward pass."""
    flops: int
    """2 m k n for each repeat: a multiplication and an addition for each term of the inner products."""


class FlopCounts(Document):
    """Matrix-multiply FLOPs of one sequence of context_length tokens, and how they grow with the context."""

    forward: int
    """Forward pass."""
    training: int
    """Forward and backward pass, three times the forward pass."""
    flops_6nd: int
    """Rule of thumb, 6 x parameters x tokens."""
    attention_crossover_context: float
    """Context length at which attention's quadratic term costs as much as all weight matrices together."""


class ModelCounts(Document):
    """Totals that torch counts independently of the formulas."""

    parameters: int
    """Parameters."""
    forward_flops: int
    """Matrix-multiply FLOPs of the forward pass of one sequence."""


class MemoryLine(Document):
    """Memory as a linear function of the batch size."""

    fixed_bytes: int
    """Memory that does not depend on the batch."""
    bytes_per_sequence: int
    """Memory of one more sequence."""
    largest_batch_size: int
    """Largest batch within the memory limit."""


class CodeFlops(Document):
    """Line of an AdamW update with its floating-point operations for each parameter."""

    code: str
    """Code of the line."""
    flops: int
    """Floating-point operations."""


class AdamWUpdates(Document):
    """AdamW update of one parameter in two equivalent forms."""

    handout: tuple[CodeFlops, ...]
    """The handout's algorithm."""
    torch: tuple[CodeFlops, ...]
    """The form that torch computes and lmpipe trains with."""


class AdamWAccounting(Document):
    """Memory and time of training with AdamW, all in float32 (handout, 4.3)."""

    feed_forward: str
    """Feed-forward of the model."""
    parameters: int
    """Parameters."""
    bytes_per_sequence: int
    """Memory of the activations of a sequence."""
    fixed_bytes: int
    """Memory that does not depend on the batch size: parameters, gradients and both moments."""
    largest_batch_size: int
    """Largest batch, in sequences, that fits in the memory of the device."""
    optimizer_flops: int
    """FLOPs of one AdamW update of all parameters."""
    flops_6nd_per_step: int
    """6 x parameters x tokens of a step of the time question."""
    device: str
    """Device of the time question."""
    hours: float
    """Hours that the training of the time question takes."""
    days: float
    """Days that the training of the time question takes."""
    derivation: tuple[DerivationLine, ...]
    """All lines from the shape to the days."""


class AdamWComparison(Document):
    """AdamW accounting of a model with the handout's two-matrix feed-forward and with SwiGLU."""

    updates: AdamWUpdates
    """Operations of one parameter's update."""
    handout: AdamWAccounting
    """With feed_forward silu, the handout's simplification."""
    swiglu: AdamWAccounting
    """With feed_forward swiglu."""


class ModelAccounting(Document):
    """accounting/NAME.json: parameters, FLOPs, memory and time of a model."""

    name: str
    """Name in the study; `study` is the study's own model."""
    config: ModelConfig
    """Shape and variant."""
    parameters: ParameterCounts
    """Parameters by part."""
    parameter_bytes: int
    """Bytes of the parameters in float32."""
    matmuls: tuple[Matmul, ...]
    """Every matrix multiply of a forward pass."""
    flops: FlopCounts
    """FLOPs of a sequence."""
    shares: dict[Component, float]
    """Share of each component in the forward FLOPs."""
    torch_counts: ModelCounts
    """Counts of torch for lmpipe's own model; they equal the formulas, or the file is not written."""
    adamw: AdamWComparison
    """Training with AdamW."""


# --- parameters ------------------------------------------------------------------------------------------------------


def shape_constants(config: ModelConfig) -> list[Formula]:
    """Return the constants of every derivation: the model's shape."""
    return [
        Formula("S", "context length", config.context_length, "tokens"),
        Formula("D", "d_model", config.d_model),
        Formula("F", "d_ff", config.d_ff),
        Formula("L", "layers", config.num_layers),
        Formula("H", "heads", config.num_heads),
        Formula("V", "vocabulary", config.vocab_size, "ids"),
    ]


def up_projections(config: ModelConfig) -> tuple[str, ...]:
    """Return the names of the feed-forward's matrices (d_ff, d_model); W2 is the one back to d_model."""
    return ("W1", "W3") if has_gate(config) else ("W1",)


def parameter_formulas(config: ModelConfig) -> list[Formula]:
    """Return the parameters of each part; embedding and output head are not tied, and no matrix has a bias."""
    norms, matrices = norm_placement(config), 1 + len(up_projections(config))
    gains = sum_terms(["2 * L * D" if norms.in_blocks else "0", "D" if norms.final else "0"])
    formulas = [
        Formula("P_embedding", "token embedding", "V * D", "parameters"),
        Formula("P_attention", "query, key, value and output projections", "4 * L * D**2", "parameters"),
        Formula("P_feed_forward", "feed-forward matrices", f"{matrices} * L * D * F", "parameters"),
        Formula("P_norms", "RMSNorm gains", gains, "parameters"),
        Formula("P_head", "output head", "V * D", "parameters"),
    ]
    total = sum_terms(formula.expression for formula in formulas)
    return [*formulas, Formula("P", "all parameters", total, "parameters")]


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Return the parameters by part."""
    value = evaluate([*shape_constants(config), *parameter_formulas(config)])
    return ParameterCounts(
        token_embedding=value["P_embedding"],
        attention=value["P_attention"],
        feed_forward=value["P_feed_forward"],
        norms=value["P_norms"],
        lm_head=value["P_head"],
        total=value["P"],
    )


# --- FLOPs -----------------------------------------------------------------------------------------------------------


def matmuls(config: ModelConfig) -> tuple[Matmul, ...]:
    """Return every matrix multiply of the forward pass of one sequence of context_length tokens.

    Attention scores are counted in full: a causal mask hides half of them, but the multiply computes them.
    """
    seq, d_model, d_ff, layers = config.context_length, config.d_model, config.d_ff, config.num_layers
    heads, head_dim = layers * config.num_heads, config.head_dim

    def matmul(name: str, component: Component, m: int, k: int, n: int, repeats: int) -> Matmul:
        return Matmul(name=name, component=component, shape=(m, k, n), repeats=repeats, flops=2 * m * k * n * repeats)

    query, key, value, output = (
        matmul(f"{name} projection", "attention_projections", seq, d_model, d_model, layers)
        for name in ("query", "key", "value", "output")
    )
    return (
        query,
        key,
        value,
        matmul("attention scores QKᵀ", "attention_scores", seq, head_dim, seq, heads),
        matmul("attention-weighted values", "attention_scores", seq, seq, head_dim, heads),
        output,
        *(matmul(f"feed-forward {w}", "feed_forward", seq, d_model, d_ff, layers) for w in up_projections(config)),
        matmul("feed-forward W2", "feed_forward", seq, d_ff, d_model, layers),
        matmul("output head", "lm_head", seq, d_model, config.vocab_size, 1),
    )


def forward_flops(config: ModelConfig) -> int:
    """Return the matrix-multiply FLOPs of the forward pass of one sequence of context_length tokens."""
    return sum(matmul.flops for matmul in matmuls(config))


def expected_counts(config: ModelConfig) -> ModelCounts:
    """Return the totals that torch is to count."""
    return ModelCounts(parameters=count_parameters(config).total, forward_flops=forward_flops(config))


def component_shares(config: ModelConfig) -> dict[Component, float]:
    """Return each component's share of the forward FLOPs."""
    flops = dict.fromkeys(get_args(Component), 0)
    for matmul in matmuls(config):
        flops[matmul.component] += matmul.flops
    return {component: count / sum(flops.values()) for component, count in flops.items()}


def flops_formulas() -> list[Formula]:
    """Return the FLOPs of a sequence as a polynomial in the context length S, and those of training on it."""
    return [
        Formula(
            "c_1", "FLOPs of the weight matrices for a token", "2 * (P_attention + P_feed_forward + P_head)", "FLOPs"
        ),
        Formula("c_2", "FLOPs of attention for a pair of positions", "4 * L * D", "FLOPs"),
        Formula("C_forward", "forward pass of a sequence", "c_1 * S + c_2 * S**2", "FLOPs"),
        Formula("C_backward", "backward pass: gradients of inputs and of weights", "2 * C_forward", "FLOPs"),
    ]


def count_flops(config: ModelConfig) -> FlopCounts:
    """Return the FLOPs of a sequence, by the formulas in the context length."""
    formulas = [
        *shape_constants(config),
        *parameter_formulas(config),
        *flops_formulas(),
        Formula("training", "forward and backward", "C_forward + C_backward"),
        Formula("C_6ND", "rule of thumb", "6 * P * S"),
        Formula("crossover", "context at which attention costs as much as the weights", "c_1 / c_2"),
    ]
    value = evaluate(formulas)
    return FlopCounts(
        forward=value["C_forward"],
        training=value["training"],
        flops_6nd=value["C_6ND"],
        attention_crossover_context=value["crossover"],
    )


def count_operations(code: str) -> int:
    """Count the floating-point operations of a line of code: its binary operators and its square roots.

    >>> count_operations("m = b1 * m + c1 * g"), count_operations("x = sqrt(v)")
    (3, 1)
    """
    return sum(isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(ast.parse(code)))


# --- memory and time with AdamW --------------------------------------------------------------------------------------


def activation_formulas(config: ModelConfig) -> list[Formula]:
    """Return the floats saved for the backward pass of one sequence: the handout's list (problem adamw_accounting).

    With SwiGLU, W3's output and the product of both branches are saved as well. The cross-entropy saves its
    probabilities, as many as there are logits.
    """
    gate, norms = has_gate(config), norm_placement(config)
    saved = [
        ("rmsnorms", "RMSNorms of the blocks", "2 * L * S * D", norms.in_blocks),
        ("qkv", "query, key and value projections", "3 * L * S * D", True),
        ("scores", "attention scores QKᵀ", "L * H * S**2", True),
        ("softmax", "softmax of the scores", "L * H * S**2", True),
        ("values", "weighted sum of the values", "L * S * D", True),
        ("output", "output projection", "L * S * D", True),
        ("w1", "feed-forward W1", "L * S * F", True),
        ("w3", "feed-forward W3", "L * S * F", gate),
        ("silu", "SiLU", "L * S * F", True),
        ("product", "product of SiLU and W3", "L * S * F", gate),
        ("w2", "feed-forward W2", "L * S * D", True),
        ("final_norm", "final RMSNorm", "S * D", norms.final),
        ("logits", "output head (logits)", "S * V", True),
        ("loss", "cross-entropy on the logits", "S * V", True),
    ]
    formulas = [Formula(f"A_{name}", meaning, floats, "floats") for name, meaning, floats, exists in saved if exists]
    total = sum_terms(formula.expression for formula in formulas)
    return [*formulas, Formula("A", "all activations of a sequence", total, "floats")]


def memory_formulas() -> list[Formula]:
    """Return the bytes of AdamW training in float32, a * batch_size + b, and the largest batch in memory M."""
    return [
        Formula("M_parameters", "parameters", f"{FLOAT32_BYTES} * P", "bytes"),
        Formula("M_gradients", "gradients", f"{FLOAT32_BYTES} * P", "bytes"),
        Formula("M_optimizer", "optimizer state m and v", f"2 * {FLOAT32_BYTES} * P", "bytes"),
        Formula("b", "memory whatever the batch size", "M_parameters + M_gradients + M_optimizer", "bytes"),
        Formula("a", "memory of the activations of a sequence", f"{FLOAT32_BYTES} * A", "bytes"),
        Formula("B_max", "largest batch with a·B_max + b ≤ M", "max(0, (M - b) // a)", "sequences"),
    ]


def time_formulas() -> list[Formula]:
    """Return the FLOPs of the optimizer and of a whole step, and the time that N steps at batch size B take."""
    return [
        Formula("C_adamw", "one AdamW step", f"{sum(map(count_operations, ADAMW_HANDOUT))} * P", "FLOPs"),
        Formula("C_6PT", "6 × parameters × tokens of a step", "6 * P * B * S", "FLOPs"),
        Formula("C_step", "forward, backward and AdamW", "B * (C_forward + C_backward) + C_adamw", "FLOPs"),
        Formula("t", "time of all steps", "N * C_step / (u * R)", "seconds"),
        Formula("hours", "the same in hours", "t / 3600", "hours"),
        Formula("days", "the same in days", "t / 86400", "days"),
    ]


def batch_memory(config: ModelConfig, device_memory_bytes: float) -> MemoryLine:
    """Return the memory of training with AdamW in float32 on a device with `device_memory_bytes`."""
    memory = Formula("M", "memory of the device", round(device_memory_bytes), "bytes")
    formulas = [memory, *parameter_formulas(config), *activation_formulas(config), *memory_formulas()]
    value = evaluate([*shape_constants(config), *formulas])
    return MemoryLine(fixed_bytes=value["b"], bytes_per_sequence=value["a"], largest_batch_size=value["B_max"])


def account_adamw(config: ModelConfig, question: AdamWQuestion) -> AdamWAccounting:
    """Return memory and time of training with AdamW in float32 on the device of a question."""
    formulas = [
        *shape_constants(config),
        Formula("M", "memory of the device", round(question.device_memory_gb * 1e9), "bytes"),
        Formula("B", "batch size of the time question", question.batch_size, "sequences"),
        Formula("N", "training steps", question.steps, "steps"),
        Formula("R", f"peak rate of one {question.device}", round(question.flops_per_second), "FLOP/s"),
        Formula("u", "model FLOPs utilization", question.utilization),
        *parameter_formulas(config),
        *activation_formulas(config),
        *memory_formulas(),
        *flops_formulas(),
        *time_formulas(),
    ]
    value = evaluate(formulas)
    return AdamWAccounting(
        feed_forward=config.feed_forward,
        parameters=value["P"],
        bytes_per_sequence=value["a"],
        fixed_bytes=value["b"],
        largest_batch_size=value["B_max"],
        optimizer_flops=value["C_adamw"],
        flops_6nd_per_step=value["C_6PT"],
        device=question.device,
        hours=value["hours"],
        days=value["days"],
        derivation=tuple(derive(formulas)),
    )


def compare_adamw(config: ModelConfig, question: AdamWQuestion) -> AdamWComparison:
    """Return the AdamW accounting of a model with both kinds of feed-forward."""

    def code_flops(update: Sequence[str]) -> tuple[CodeFlops, ...]:
        return tuple(CodeFlops(code=line, flops=count_operations(line)) for line in update)

    return AdamWComparison(
        updates=AdamWUpdates(handout=code_flops(ADAMW_HANDOUT), torch=code_flops(ADAMW_TORCH)),
        handout=account_adamw(config.model_copy(update={"feed_forward": "silu"}), question),
        swiglu=account_adamw(config.model_copy(update={"feed_forward": "swiglu"}), question),
    )
