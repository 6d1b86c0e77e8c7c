"""What a model costs, in closed form: parameters, matrix multiplies, memory and time with AdamW (handout, 3 and 4).

Each closed form is a text which is both computed with and shown in the report, so that the derivation a reader sees is
the one that made the number. The symbols: S context_length, D d_model, F d_ff, L num_layers, H num_heads, V vocab_size.
"""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from lmpipe.study.settings import ModelConfig

FLOAT32_BYTES = 4
COMPONENTS = ("attention_projections", "attention_scores", "feed_forward", "lm_head")

# The question that the handout asks about training time: 400K steps at batch 1,024 on one A100 (float32) at 50 % MFU.
TRAINING_STEPS = 400_000
TRAINING_BATCH = 1024
A100_FLOPS_PER_SECOND = 19_500_000_000_000
MODEL_FLOPS_UTILIZATION = 0.5

# One parameter's update, line by line. Scalars that are computed once for a whole step cost nothing per parameter:
# b1, b2 (betas), c1 = 1 - b1, c2 = 1 - b2, alpha_t (the bias-corrected rate), decay = rate * weight decay.
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


@dataclass(frozen=True)
class Step:
    """One line of a derivation: a symbol, what it means, and the formula that gives it from the symbols before."""

    symbol: str
    meaning: str
    formula: str
    unit: str = ""


@dataclass(frozen=True)
class Line:
    """A step with its value; a given quantity has no formula."""

    symbol: str
    meaning: str
    formula: str
    value: int | float
    unit: str


@dataclass(frozen=True)
class Matmul:
    """A matrix multiply (m, k) x (k, n), done `repeats` times in the forward pass of one sequence."""

    name: str
    component: str
    m: int
    k: int
    n: int
    repeats: int

    @property
    def flops(self) -> int:
        """2mkn for each repeat: a multiplication and an addition for each term of the inner products."""
        return 2 * self.m * self.k * self.n * self.repeats


def derive(given: Iterable[Line], steps: Iterable[Step]) -> list[Line]:
    """Compute each step from what stands before it.

    >>> lines = derive([Line("D", "width", "", 3, "")], [Step("P", "square matrix", "D**2")])
    >>> lines[-1].value
    9
    """
    lines = list(given)
    values: dict[str, Any] = {"__builtins__": {}, "max": max} | {line.symbol: line.value for line in lines}
    for step in steps:
        # The formulas are constants of this module: nothing that a user writes is ever evaluated.
        values[step.symbol] = eval(step.formula, values)
        lines.append(Line(step.symbol, step.meaning, step.formula, values[step.symbol], step.unit))
    return lines


def values_of(lines: Sequence[Line]) -> dict[str, int | float]:
    """The values of a derivation by symbol."""
    return {line.symbol: line.value for line in lines}


def collected(steps: Iterable[Step]) -> str:
    """The sum of steps whose formulas are sums of products, with equal terms taken together.

    >>> collected([Step("x", "", "2 * L * D"), Step("y", "", "L * D + D"), Step("z", "", "0")])
    '3 * L * D + D'
    """
    coefficients: dict[str, int] = {}
    for term in " + ".join(step.formula for step in steps).split(" + "):
        factors = term.split(" * ")
        product = " * ".join(factor for factor in factors if not factor.isdigit())
        coefficient = prod(int(factor) for factor in factors if factor.isdigit())
        coefficients[product] = coefficients.get(product, 0) + coefficient
    return " + ".join(
        product if coefficient == 1 else f"{coefficient} * {product}"
        for product, coefficient in coefficients.items()
        if coefficient
    )


def shape_of(config: ModelConfig) -> list[Line]:
    """The given quantities of every derivation: the model's shape."""
    return [
        Line("S", "context length", "", config.context_length, "tokens"),
        Line("D", "d_model", "", config.d_model, ""),
        Line("F", "d_ff", "", config.d_ff, ""),
        Line("L", "layers", "", config.num_layers, ""),
        Line("H", "heads", "", config.num_heads, ""),
        Line("V", "vocabulary", "", config.vocab_size, "ids"),
    ]


def feed_forward_matrices(config: ModelConfig) -> int:
    """Matrices of one feed-forward layer: W1, W2, and W3 with SwiGLU."""
    return 3 if config.feed_forward == "swiglu" else 2


def parameter_steps(config: ModelConfig) -> list[Step]:
    """The parameters of each part; embedding and output head are not tied, and no matrix has a bias."""
    norms = {"pre": "2 * L * D + D", "post": "2 * L * D", "none": "0"}[config.norm]
    parts = [
        Step("P_embedding", "token embedding", "V * D", "parameters"),
        Step("P_attention", "query, key, value and output projections", "4 * L * D**2", "parameters"),
        Step("P_feed_forward", "feed-forward matrices", f"{feed_forward_matrices(config)} * L * D * F", "parameters"),
        Step("P_norms", "RMSNorm gains", norms, "parameters"),
        Step("P_head", "output head", "V * D", "parameters"),
    ]
    return [*parts, Step("P", "all parameters", collected(parts), "parameters")]


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part, and their total."""
    value = values_of(derive(shape_of(config), parameter_steps(config)))
    return {
        "token_embedding": value["P_embedding"],
        "attention": value["P_attention"],
        "feed_forward": value["P_feed_forward"],
        "norms": value["P_norms"],
        "lm_head": value["P_head"],
        "total": value["P"],
    }


def matmuls(config: ModelConfig) -> list[Matmul]:
    """Every matrix multiply of the forward pass of one sequence of context_length tokens.

    Attention scores are counted in full: a causal mask hides half of them, but the multiply computes them.
    """
    seq, d_model, d_ff, layers = config.context_length, config.d_model, config.d_ff, config.num_layers
    heads = layers * config.num_heads
    projections = [
        Matmul(f"{name} projection", "attention_projections", seq, d_model, d_model, layers)
        for name in ("query", "key", "value", "output")
    ]
    scores = [
        Matmul("attention scores QKᵀ", "attention_scores", seq, config.head_dim, seq, heads),
        Matmul("attention-weighted values", "attention_scores", seq, seq, config.head_dim, heads),
    ]
    inputs = ("W1", "W3") if config.feed_forward == "swiglu" else ("W1",)
    feed_forward = [
        *(Matmul(f"feed-forward {name}", "feed_forward", seq, d_model, d_ff, layers) for name in inputs),
        Matmul("feed-forward W2", "feed_forward", seq, d_ff, d_model, layers),
    ]
    head = Matmul("output head", "lm_head", seq, d_model, config.vocab_size, 1)
    return [*projections[:3], *scores, projections[3], *feed_forward, head]


def forward_flops(config: ModelConfig) -> int:
    """Matrix-multiply FLOPs of the forward pass of one sequence of context_length tokens."""
    return sum(matmul.flops for matmul in matmuls(config))


def component_shares(config: ModelConfig) -> dict[str, float]:
    """Each component's share of the forward FLOPs."""
    total = forward_flops(config)
    return {
        component: sum(matmul.flops for matmul in matmuls(config) if matmul.component == component) / total
        for component in COMPONENTS
    }


def flops_steps(config: ModelConfig) -> list[Step]:
    """FLOPs of a sequence as a polynomial in the context length S, and of training on it (backward = 2 forward)."""
    return [
        Step("c_1", "FLOPs of the weight matrices for a token", "2 * (P_attention + P_feed_forward + P_head)", "FLOPs"),
        Step("c_2", "FLOPs of attention for a pair of positions", "4 * L * D", "FLOPs"),
        Step("C_forward", "forward pass of a sequence", "c_1 * S + c_2 * S**2", "FLOPs"),
        Step("C_backward", "backward pass: gradients of inputs and of weights", "2 * C_forward", "FLOPs"),
    ]


def scaling(config: ModelConfig) -> dict[str, int | float]:
    """How FLOPs grow with the context, and the training FLOPs of a sequence in both ways of counting.

    `six_p_t` is the rule of thumb 6 x parameters x tokens; `equal_shares_context` the context length at which the
    quadratic term of attention costs as much as all weight matrices together.
    """
    steps = [
        *parameter_steps(config),
        *flops_steps(config),
        Step("training", "forward and backward", "C_forward + C_backward"),
        Step("six_p_t", "rule of thumb", "6 * P * S"),
        Step("equal", "context of equal shares", "c_1 / c_2"),
    ]
    value = values_of(derive(shape_of(config), steps))
    return {
        "forward": value["C_forward"],
        "training": value["training"],
        "six_p_t": value["six_p_t"],
        "per_token": value["c_1"],
        "per_token_pair": value["c_2"],
        "equal_shares_context": value["equal"],
    }


def operations(code: str) -> int:
    """Floating-point operations of a line of code: its binary operators and its square roots.

    >>> operations("m = b1 * m + c1 * g"), operations("x = sqrt(v)")
    (3, 1)
    """
    return sum(isinstance(node, ast.BinOp | ast.Call) for node in ast.walk(ast.parse(code)))


def adamw_flops_per_parameter(update: Sequence[str] = ADAMW_HANDOUT) -> int:
    """Floating-point operations of AdamW for each parameter."""
    return sum(operations(line) for line in update)


def activation_steps(config: ModelConfig) -> list[Step]:
    """The floats kept for the backward pass of one sequence: the handout's list (problem adamwAccounting).

    With SwiGLU, W3's output and the product of both branches are kept as well. The cross-entropy keeps its
    probabilities, as many as there are logits.
    """
    gated = config.feed_forward == "swiglu"
    kept = [
        ("rmsnorms", "RMSNorms of the blocks", "2 * L * S * D", config.norm != "none"),
        ("qkv", "query, key and value projections", "3 * L * S * D", True),
        ("scores", "attention scores QKᵀ", "L * H * S**2", True),
        ("softmax", "softmax of the scores", "L * H * S**2", True),
        ("values", "weighted sum of the values", "L * S * D", True),
        ("output", "output projection", "L * S * D", True),
        ("w1", "feed-forward W1", "L * S * F", True),
        ("w3", "feed-forward W3", "L * S * F", gated),
        ("silu", "SiLU", "L * S * F", True),
        ("product", "product of SiLU and W3", "L * S * F", gated),
        ("w2", "feed-forward W2", "L * S * D", True),
        ("final_norm", "final RMSNorm", "S * D", config.norm == "pre"),
        ("logits", "output head (logits)", "S * V", True),
        ("loss", "cross-entropy on the logits", "S * V", True),
    ]
    steps = [Step(f"A_{name}", meaning, formula, "floats") for name, meaning, formula, used in kept if used]
    return [*steps, Step("A", "all activations of a sequence", collected(steps), "floats")]


def memory_steps() -> list[Step]:
    """Bytes of AdamW training in float32, a * batch_size + b, and the largest batch in the device's memory M."""
    return [
        Step("M_parameters", "parameters", f"{FLOAT32_BYTES} * P", "bytes"),
        Step("M_gradients", "gradients", f"{FLOAT32_BYTES} * P", "bytes"),
        Step("M_optimizer", "optimizer state m and v", f"2 * {FLOAT32_BYTES} * P", "bytes"),
        Step("b", "memory whatever the batch size", "M_parameters + M_gradients + M_optimizer", "bytes"),
        Step("a", "memory of the activations of a sequence", f"{FLOAT32_BYTES} * A", "bytes"),
        Step("B_max", "largest batch with a·B_max + b ≤ M", "max(0, (M - b) // a)", "sequences"),
    ]


def time_steps() -> list[Step]:
    """FLOPs of the optimizer and of a whole step, and the days that N steps at batch B take."""
    return [
        Step("C_adamw", "one AdamW step", f"{adamw_flops_per_parameter()} * P", "FLOPs"),
        Step("C_6PT", "6 × parameters × tokens of a step", "6 * P * B * S", "FLOPs"),
        Step("C_step", "forward, backward and AdamW", "B * (C_forward + C_backward) + C_adamw", "FLOPs"),
        Step("t", "time of all steps", "N * C_step / (u * R)", "seconds"),
        Step("days", "the same in days", "t / 86400", "days"),
    ]


def adamw(config: ModelConfig, device_memory_bytes: float) -> dict[str, Any]:
    """Memory and time of training with AdamW, all in float32, every line of the derivation included (handout, 4.3)."""
    given = [
        *shape_of(config),
        Line("M", "memory of the device", "", round(device_memory_bytes), "bytes"),
        Line("B", "batch size of the time question", "", TRAINING_BATCH, "sequences"),
        Line("N", "training steps", "", TRAINING_STEPS, "steps"),
        Line("R", "peak rate of an A100 in float32", "", A100_FLOPS_PER_SECOND, "FLOP/s"),
        Line("u", "model FLOPs utilization", "", MODEL_FLOPS_UTILIZATION, ""),
    ]
    groups = [parameter_steps(config), activation_steps(config), memory_steps(), flops_steps(config), time_steps()]
    lines = derive(given, [step for group in groups for step in group])
    value = values_of(lines)
    return {
        "feed_forward": config.feed_forward,
        "parameters": value["P"],
        "bytes_per_sequence": value["a"],
        "fixed_bytes": value["b"],
        "largest_batch": value["B_max"],
        "step_flops": value["C_adamw"],
        "write_up_step_flops": value["C_6PT"],
        "days": value["days"],
        "derivation": [asdict(line) for line in lines],
    }


def check_against_torch(config: ModelConfig) -> dict[str, Any]:
    """Count the parameters and the forward FLOPs of lmpipe's own model on the meta device, which computes nothing.

    The FLOPs are those of torch's FlopCounterMode; on the CPU it would leave scaled_dot_product_attention out.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lmpipe.model.transformer import TransformerLM

    model = TransformerLM(config, device="meta")
    token_ids = torch.empty((1, config.context_length), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(token_ids)
    counted_parameters = sum(parameter.numel() for parameter in model.parameters())
    counted_flops = counter.get_total_flops()
    equal = (counted_parameters, counted_flops) == (parameters(config)["total"], forward_flops(config))
    return {"parameters_torch": counted_parameters, "flops_torch": counted_flops, "equal": equal}


def account(name: str, config: ModelConfig, device_memory_bytes: float) -> dict[str, Any]:
    """All that accounting/NAME.json holds; raises RuntimeError where torch counts otherwise than the closed forms."""
    checks = check_against_torch(config)
    by_part = parameters(config)
    if not checks["equal"]:
        raise RuntimeError(
            f"accounting of {name}: the closed forms give {by_part['total']} parameters and {forward_flops(config)} "
            f"FLOPs, torch counts {checks['parameters_torch']} and {checks['flops_torch']}; one of them is wrong"
        )
    return {
        "name": name,
        "config": config.model_dump(),
        "parameters": by_part,
        "bytes": FLOAT32_BYTES * by_part["total"],
        "matmuls": [
            {"name": m.name, "component": m.component, "shape": [m.m, m.k, m.n], "repeats": m.repeats, "flops": m.flops}
            for m in matmuls(config)
        ],
        "flops": scaling(config),
        "shares": component_shares(config),
        "checks": checks,
        "adamw": {
            "updates": {
                form: [{"code": line, "flops": operations(line)} for line in update]
                for form, update in (("handout", ADAMW_HANDOUT), ("torch", ADAMW_TORCH))
            },
            "handout": adamw(config.model_copy(update={"feed_forward": "silu"}), device_memory_bytes),
            "swiglu": adamw(config.model_copy(update={"feed_forward": "swiglu"}), device_memory_bytes),
        },
    }
