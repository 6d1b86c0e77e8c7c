"""Problem adamw_accounting: memory, FLOPs and time of training with AdamW, every step of the derivation shown."""

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table
from lmpipe.analysis.problems import measured
from lmpipe.analysis.problems.transformer_accounting import (
    is_question_model,
    main_account,
    model_label,
    no_accounting,
    read_accounting,
)
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_formula
from lmpipe.model.accounting import AdamWAccounting, AdamWComparison, ModelAccounting
from lmpipe.model.activation_memory import activation_formulas
from lmpipe.model.derivation import evaluate
from lmpipe.study.editions import EDITIONS, adamw_question, read_edition
from lmpipe.study.paths import RELATIVE

VARIANTS = {"handout": "two-matrix feed-forward", "swiglu": "SwiGLU"}
FIXED = {"parameters": "M_parameters", "gradients": "M_gradients", "AdamW's moments": "M_optimizer"}
UNITS = {
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
        return no_accounting(results)
    account, measurement = main_account(results, accounts), measured.memory(results)
    question, source = adamw_question(results.study.handout, account.name), str(RELATIVE.accounting(account.name))
    entries = (account.adamw.handout, account.adamw.swiglu)
    entry = next(entry for entry in entries if entry.feed_forward == question.feed_forward)
    config = account.config.model_copy(update={"feed_forward": entry.feed_forward})
    saved = evaluate(activation_formulas(config, "float32"))["A_saved"]
    batch = max(0, (values_of(entry)["M"] - entry.fixed_bytes) // saved)
    metrics = {
        f"{name}{suffix}": Metric(getattr(variant, name), unit, source)
        for suffix, variant in (("", account.adamw.handout), ("_swiglu", account.adamw.swiglu))
        for name, unit in UNITS.items()
    }
    metrics["saved_bytes_per_sequence"] = Metric(saved, "bytes", source)
    metrics["largest_batch_by_saved_bytes"] = Metric(batch, "sequences", source)
    return Finding(
        "answered" if is_question_model(results, account) and measurement.status == "answered" else "partial",
        metrics=metrics | measurement.metrics,
        facts={"main": model_label(results, account), "is_own": account.name == "study"}
        | facts_of(account.adamw, entry, question.unit)
        | measurement.facts,
        tables=[
            questions_table(results, accounts),
            *measurement.tables,
            operations_table(account.adamw),
            *(derivation_table(name, getattr(account.adamw, form)) for form, name in VARIANTS.items()),
        ],
        figures=[*measurement.figures, Figure("main_memory", memory_bars(entry, saved))],
    )


def values_of(entry: AdamWAccounting) -> dict[str, float]:
    """Return the values of a derivation by symbol."""
    return {line.symbol: line.value for line in entry.derivation}


def facts_of(adamw: AdamWComparison, entry: AdamWAccounting, unit: str) -> dict[str, JsonValue]:
    """Return the device and the training of the question, and the operations of an update."""
    value = values_of(entry)
    return {
        "device": entry.device,
        "device_bytes": value["M"],
        "largest_batch": entry.largest_batch_size,
        "time": getattr(entry, unit),
        "unit": unit,
        "operations": sum(line.flops for line in dict(adamw.updates)["handout"]),
        "optimizer_share": entry.optimizer_flops / value["C_step"],
    }


def questions_table(results: Results, accounts: list[ModelAccounting]) -> Table:
    """Return memory and time of every edition's model, with both kinds of feed-forward."""
    question_models = {read_edition(name).adamw.model for name in EDITIONS}
    rows = [
        [model_label(results, account), name, entry.device, entry.bytes_per_sequence, entry.fixed_bytes,
         entry.largest_batch_size, entry.hours, entry.days]
        for account in accounts
        if account.name in question_models
        for name, entry in ((name, getattr(account.adamw, form)) for form, name in VARIANTS.items())
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


def derivation_table(name: str, entry: AdamWAccounting) -> Table:
    """Return every line of the derivation, with the formula that it was computed by."""
    rows = [
        [line.symbol, line.meaning, format_formula(line.formula) or "given", line.value, line.unit]
        for line in entry.derivation
    ]
    caption = f"Derivation: memory and time with AdamW, {name} (÷ rounds down)"
    return Table(caption, ["symbol", "quantity", "formula", "value", "unit"], rows, code_columns=["symbol"])
