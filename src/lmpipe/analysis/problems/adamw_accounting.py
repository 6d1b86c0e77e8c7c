"""Problem adamw_accounting: memory, FLOPs and days of training with AdamW, every step of the derivation shown."""

from lmpipe.analysis.finding import Finding, Metric, Table, Text, missing
from lmpipe.analysis.problems import measured_compute, measured_memory
from lmpipe.analysis.problems.transformer_accounting import (
    is_gpt2_xl,
    main_account,
    read_accounting,
    sentence_start,
    title_of,
)
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_bytes, format_command, format_formula, format_int, format_number, format_percent
from lmpipe.model.accounting import AdamWAccounting, AdamWComparison, ModelAccounting
from lmpipe.model.activation_memory import saved_bytes

ID = "adamw_accounting"
TITLE = "What training with AdamW costs: memory and time"
QUESTION = (
    "How much memory does training with AdamW take in float32, as a function of the batch size, what is the largest "
    "batch that fits into the device, how many FLOPs is one AdamW step, how many days would a full training take, and "
    "how does the memory compare with what is measured?"
)
VARIANTS = {"handout": "the handout's two-matrix feed-forward", "swiglu": "SwiGLU"}
SUFFIXES = {"handout": "", "swiglu": "_swiglu"}
MEMORY = ("a", "A", "b", "M_parameters", "M_gradients", "M_optimizer", "P")
METRICS = {
    "largest_batch_size": "sequences",
    "days": "days",
    "optimizer_flops": "FLOPs",
    "flops_6nd_per_step": "FLOPs",
    "bytes_per_sequence": "bytes",
    "fixed_bytes": "bytes",
}


def analyze(results: Results) -> Finding:
    """Return the accounting of GPT-2 XL, or of the largest model of the study (then partial)."""
    accounts = read_accounting(results)
    if not accounts:
        return missing(f"This study holds no accounting yet; make it with {format_command('accounting')}.")
    account = main_account(accounts)
    adamw = account.adamw
    source, measured = f"accounting/{account.name}.json", measured_memory.memory(results)
    metrics = {
        f"{name}{SUFFIXES[variant]}": Metric(getattr(getattr(adamw, variant), name), unit, source)
        for variant in VARIANTS
        for name, unit in METRICS.items()
    }
    saved, batch = saved_per_sequence(account)
    metrics["saved_bytes_per_sequence"] = Metric(saved, "bytes", source)
    metrics["largest_batch_by_saved_bytes"] = Metric(batch, "sequences", source)
    return Finding(
        "answered" if is_gpt2_xl(account) and measured_compute.read_profile(results) else "partial",
        metrics=metrics | measured.metrics,
        sentences=[
            *memory_sentences(account),
            step_sentence(adamw),
            days_sentence(adamw),
            *shape_sentences(account),
            saved_bytes_sentence(account),
            *measured.sentences,
        ],
        tables=[
            *measured.tables,
            operations_table(adamw),
            *(derivation_table(variant, getattr(adamw, variant)) for variant in VARIANTS),
        ],
        texts=[memory_text(variant, getattr(adamw, variant)) for variant in VARIANTS],
    )


def values_of(entry: AdamWAccounting) -> dict[str, float]:
    """Return the values of a derivation by symbol."""
    return {line.symbol: line.value for line in entry.derivation}


def memory_sentences(account: ModelAccounting) -> list[str]:
    """Memory as a * batch_size + b and the largest batch, for both groups of feed-forward."""
    sentences = []
    for variant, feed_forward in VARIANTS.items():
        entry = getattr(account.adamw, variant)
        memory = format_bytes(values_of(entry)["M"])
        batch = entry.largest_batch_size
        fits = (
            f"the largest batch in {memory} is {format_int(batch)}" if batch else f"not one sequence fits into {memory}"
        )
        sentences.append(
            f"{sentence_start(title_of(account))} with {feed_forward} ({format_int(entry.parameters)} parameters) "
            f"takes {format_int(entry.bytes_per_sequence)} × batch_size + {format_int(entry.fixed_bytes)} bytes in "
            f"float32 ({format_bytes(entry.bytes_per_sequence)} a sequence and {format_bytes(entry.fixed_bytes)}), "
            f"so {fits}."
        )
    return sentences


def step_sentence(adamw: AdamWComparison) -> str:
    """Return the FLOPs of one AdamW update, beside the write-up's answer, which is for the whole step."""
    entry = adamw.handout
    value = values_of(entry)
    per_parameter = {form: sum(line.flops for line in update) for form, update in adamw.updates}
    return (
        f"One AdamW step takes {per_parameter['handout']} operations for each parameter, "
        f"{format_int(entry.optimizer_flops)} "
        f"FLOPs (in the form that torch computes and this study trains with: {per_parameter['torch']}); the write-up "
        f"gives 6 × parameters × tokens for it, which is the cost of the forward and backward passes, "
        f"{format_number(entry.flops_6nd_per_step)} FLOPs at a batch of "
        f"{format_int(value['B'])} sequences: the optimizer's "
        f"own share of a whole step is {format_percent(entry.optimizer_flops / value['C_step'])}."
    )


def days_sentence(adamw: AdamWComparison) -> str:
    """Return the days that the handout's training would take, for both groups of feed-forward."""
    value = values_of(adamw.handout)
    days = {variant: getattr(adamw, variant).days for variant in VARIANTS}
    return (
        f"{format_int(value['N'])} steps at a batch of {format_int(value['B'])} on one A100 "
        f"({format_number(value['R'] / 1e12)} TFLOP/s "
        f"in float32, used to {format_percent(value['u'])}) would take {format_number(days['handout'])} days "
        f"({format_number(days['handout'] / 365.25)} years), and {format_number(days['swiglu'])} days with SwiGLU."
    )


def saved_per_sequence(account: ModelAccounting) -> tuple[int, int]:
    """Return the bytes saved per sequence with the handout's feed-forward, and the largest batch that fits."""
    config, entry = account.config.model_copy(update={"feed_forward": "silu"}), account.adamw.handout
    by_sequence = saved_bytes(config, "float32", 2) - saved_bytes(config, "float32", 1)
    return by_sequence, max(0, (values_of(entry)["M"] - entry.fixed_bytes) // by_sequence)


def saved_bytes_sentence(account: ModelAccounting) -> str:
    """Return the largest batch by the bytes that autograd saves, beside the one by the handout's list."""
    (saved, batch), entry = saved_per_sequence(account), account.adamw.handout
    return (
        f"The handout's list is a simplification: as lmpipe trains, with fused attention, a sequence of the model with "
        f"{VARIANTS['handout']} keeps {format_bytes(saved)} instead of {format_bytes(entry.bytes_per_sequence)}, "
        f"{format_percent(abs(1 - saved / entry.bytes_per_sequence))} "
        f"{'less' if saved < entry.bytes_per_sequence else 'more'}, and the largest batch "
        f"is {format_int(batch)} instead "
        f"of {format_int(entry.largest_batch_size)}."
    )


def shape_sentences(account: ModelAccounting) -> list[str]:
    """Name the model if it is not the write-up's."""
    if is_gpt2_xl(account):
        return []
    return [f"This study has no model of GPT-2 XL's shape; the figures are those of {title_of(account)}, its largest."]


def operations_table(adamw: AdamWComparison) -> Table:
    """Return the operations of one parameter's update, line by line, in the handout's and in torch's form."""
    rows = [[form, line.code, line.flops] for form, update in adamw.updates for line in update]
    caption = (
        "AdamW, operations for each parameter, counted on the code; scalars computed once for a step (c1 = 1 − b1, "
        "c2 = 1 − b2, alpha_t, decay, keep, root) cost nothing per parameter"
    )
    return Table(caption, ["form", "line", "operations"], rows, code_columns=["line"])


def derivation_table(variant: str, entry: AdamWAccounting) -> Table:
    """Every line of the derivation, with the formula that it was computed by."""
    rows = [
        [line.symbol, line.meaning, format_formula(line.formula) or "given", line.value, line.unit]
        for line in entry.derivation
    ]
    caption = f"The derivation step by step, with {VARIANTS[variant]} (÷ rounds down)"
    return Table(caption, ["symbol", "quantity", "formula", "value", "unit"], rows, code_columns=["symbol"])


def memory_text(variant: str, entry: AdamWAccounting) -> Text:
    """Return the memory as algebra and with numbers."""
    line_of = {line.symbol: line for line in entry.derivation}
    formulas = {symbol: f"{symbol} = {format_formula(line_of[symbol].formula)}" for symbol in MEMORY}
    width = max(map(len, formulas.values()))
    memory = f"bytes = {format_int(line_of['a'].value)} · batch_size + {format_int(line_of['b'].value)}"
    available, fixed = format_int(line_of["M"].value), format_int(line_of["b"].value)
    fits = f"B_max = ({available} − {fixed}) ÷ {format_int(line_of['a'].value)}"
    lines = [
        "bytes(batch_size) = a·batch_size + b",
        *(f"{formula:<{width}}   {line_of[symbol].meaning}" for symbol, formula in formulas.items()),
        "",
        memory,
        f"{fits} = {format_int(line_of['B_max'].value)} sequences",
    ]
    return Text(f"Memory with AdamW, with {VARIANTS[variant]}", "\n".join(lines))
