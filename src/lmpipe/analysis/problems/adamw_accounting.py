"""Problem adamw_accounting: memory, FLOPs and time of training with AdamW, every step of the derivation shown."""

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table, missing
from lmpipe.analysis.problems import measured_compute, measured_memory
from lmpipe.analysis.problems.transformer_accounting import is_asked, main_account, model_label, read_accounting
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_command, format_formula
from lmpipe.model.accounting import AdamWAccounting, AdamWComparison, ModelAccounting
from lmpipe.model.activation_memory import saved_bytes
from lmpipe.study.editions import EDITIONS, adamw_question, read_edition

ID = "adamw_accounting"
VARIANTS = {"handout": "two-matrix feed-forward", "swiglu": "SwiGLU"}
SUFFIXES = {"handout": "", "swiglu": "_swiglu"}
FIXED = {"parameters": "M_parameters", "gradients": "M_gradients", "AdamW's moments": "M_optimizer"}
METRICS = {
    "largest_batch_size": "sequences",
    "hours": "h",
    "days": "days",
    "optimizer_flops": "FLOPs",
    "flops_6nd_per_step": "FLOPs",
    "bytes_per_sequence": "bytes",
    "fixed_bytes": "bytes",
}
GIGABYTE = 1e9


def analyze(results: Results) -> Finding:
    """Return the accounting of the edition's model, or of the largest model of the study (then partial)."""
    accounts = read_accounting(results)
    if not accounts:
        return missing(f"This study holds no accounting yet; make it with {format_command('accounting')}.")
    account = main_account(results, accounts)
    question = adamw_question(results.study.handout, account.name)
    variant = "handout" if question.feed_forward == "silu" else "swiglu"
    source, measured = f"accounting/{account.name}.json", measured_memory.memory(results)
    metrics = {
        f"{name}{SUFFIXES[form]}": Metric(getattr(getattr(account.adamw, form), name), unit, source)
        for form in VARIANTS
        for name, unit in METRICS.items()
    }
    saved, batch = saved_per_sequence(account, variant)
    metrics["saved_bytes_per_sequence"] = Metric(saved, "bytes", source)
    metrics["largest_batch_by_saved_bytes"] = Metric(batch, "sequences", source)
    return Finding(
        "answered" if is_asked(results, account) and measured_compute.read_profile(results) else "partial",
        metrics=metrics | measured.metrics,
        facts={"main": model_label(results, account)} | facts_of(account, variant, question.unit) | measured.facts,
        tables=[
            questions_table(results, accounts),
            *measured.tables,
            operations_table(account.adamw),
            *(derivation_table(form, getattr(account.adamw, form)) for form in VARIANTS),
        ],
        figures=[*measured.figures, Figure("main_memory", memory_bars(getattr(account.adamw, variant), saved))],
    )


def values_of(entry: AdamWAccounting) -> dict[str, float]:
    """Return the values of a derivation by symbol."""
    return {line.symbol: line.value for line in entry.derivation}


def facts_of(account: ModelAccounting, variant: str, unit: str) -> dict[str, JsonValue]:
    """Return the device and the training of the question, and the operations of an update."""
    entry = getattr(account.adamw, variant)
    value, time = values_of(entry), getattr(entry, unit)
    operations = {form: sum(line.flops for line in update) for form, update in account.adamw.updates}
    return {
        "is_own": account.name == "study",
        "suffix": SUFFIXES[variant],
        "device": entry.device,
        "device_bytes": value["M"],
        "largest_batch": entry.largest_batch_size,
        "time": time,
        "unit": unit,
        "steps": value["N"],
        "operations": operations["handout"],
        "optimizer_share": entry.optimizer_flops / value["C_step"],
    }


def saved_per_sequence(account: ModelAccounting, variant: str) -> tuple[int, int]:
    """Return the bytes that lmpipe saves per sequence, and the largest batch that fits with them."""
    entry = getattr(account.adamw, variant)
    config = account.config.model_copy(update={"feed_forward": entry.feed_forward})
    by_sequence = saved_bytes(config, "float32", 2) - saved_bytes(config, "float32", 1)
    return by_sequence, max(0, (values_of(entry)["M"] - entry.fixed_bytes) // by_sequence)


def questions_table(results: Results, accounts: list[ModelAccounting]) -> Table:
    """Return memory and time of every edition's model, with both kinds of feed-forward."""
    asked = {read_edition(name).adamw.model for name in EDITIONS}
    rows = [
        [model_label(results, account), VARIANTS[form], entry.device, entry.bytes_per_sequence, entry.fixed_bytes,
         entry.largest_batch_size, entry.hours, entry.days]
        for account in accounts
        if account.name in asked
        for form, entry in ((form, getattr(account.adamw, form)) for form in VARIANTS)
    ]  # fmt: skip
    columns = ["model", "feed-forward", "device", "bytes a sequence", "other bytes", "largest batch", "hours", "days"]
    return Table("Memory and time of training with AdamW in float32, by the handout's list", columns, rows)


def memory_bars(entry: AdamWAccounting, saved: int) -> Bars:
    """Return the parts of the memory of a step with one sequence: by the handout's list, and as lmpipe keeps them."""
    groups = {name: [values_of(entry)[symbol] / GIGABYTE] * 2 for name, symbol in FIXED.items()}
    groups["activations"] = [entry.bytes_per_sequence / GIGABYTE, saved / GIGABYTE]
    return Bars("GB", ["handout's list", "our formula"], groups, stacked=True, horizontal=True)


def operations_table(adamw: AdamWComparison) -> Table:
    """Return the operations of one parameter's update, line by line, in the handout's and in torch's form.

    Scalars computed once for a step (c1 = 1 - b1, c2 = 1 - b2, alpha_t, decay, keep, root) cost nothing per parameter.
    """
    rows = [[form, line.code, line.flops] for form, update in adamw.updates for line in update]
    caption = "Derivation: operations of an AdamW update for each parameter"
    return Table(caption, ["form", "line", "operations"], rows, code_columns=["line"])


def derivation_table(variant: str, entry: AdamWAccounting) -> Table:
    """Return every line of the derivation, with the formula that it was computed by."""
    rows = [
        [line.symbol, line.meaning, format_formula(line.formula) or "given", line.value, line.unit]
        for line in entry.derivation
    ]
    caption = f"Derivation: memory and time with AdamW, {VARIANTS[variant]} (÷ rounds down)"
    return Table(caption, ["symbol", "quantity", "formula", "value", "unit"], rows, code_columns=["symbol"])
