"""Problem transformer_accounting: parameters, matrix multiplies and FLOPs by component, for models of several sizes."""

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Finding, Metric, Table, missing
from lmpipe.analysis.problems import measured
from lmpipe.analysis.results import Results
from lmpipe.model.accounting import ModelAccounting
from lmpipe.study.editions import edition_models, edition_of
from lmpipe.study.paths import RELATIVE

COMPONENTS = {
    "attention_projections": "attention projections",
    "attention_scores": "attention scores and values",
    "feed_forward": "feed-forward",
    "lm_head": "output head",
}


Labels = dict[str, str]


def no_accounting(results: Results) -> Finding:
    """Return the finding of a study whose models are not accounted for."""
    return missing(f"This study holds no accounting yet; make it with {results.command('accounting')}.")


def analyze(results: Results) -> Finding:
    """Return the accounting of every model; partial if the edition's largest is missing or nothing was measured."""
    accounts = read_accounting(results)
    if not accounts:
        return no_accounting(results)
    main, measurement = main_account(results, accounts), measured.flops_and_time(results)
    # Shapes of the editions that the study does not follow are in the tables alone.
    edition = edition_of(results.study.handout)
    others = set(edition_models(results.study.handout)) - set(edition.models if edition else ())
    drawn = [account for account in accounts if account.name not in others]
    labels = {account.name: model_label(results, account) for account in accounts}
    names = [labels[account.name] for account in drawn]
    shares = {label: [100 * account.shares[key] for account in drawn] for key, label in COMPONENTS.items()}
    flop_shares = Bars("share of forward FLOPs (%)", names, shares, stacked=True, horizontal=True)
    alike = [a for a in drawn if a.name == "study" or a.config.context_length == main.config.context_length]
    totals = {"parameters": [account.parameters.total for account in alike]}
    parameters = Bars("parameters", [labels[account.name] for account in alike], totals, horizontal=True, log=True)
    return Finding(
        "answered" if is_question_model(results, main) and measurement.status == "answered" else "partial",
        metrics={name: metric for account in accounts for name, metric in metrics_of(account).items()}
        | measurement.metrics,
        facts=facts_of(drawn, main, labels) | measurement.facts,
        tables=[
            models_table(accounts, labels),
            *measurement.tables,
            parameters_table(accounts, labels),
            matmuls_table(main, labels),
        ],
        figures=[Figure("flop_shares", flop_shares), Figure("parameters", parameters)],
    )


def read_accounting(results: Results) -> list[ModelAccounting]:
    """Return the existing accounting of every model that the study or an edition names, and of the study's own."""
    names = [*results.study.accounting.models, *edition_models(results.study.handout), "study"]
    return [account for name in names if (account := results.document(ModelAccounting, RELATIVE.accounting(name)))]


def is_question_model(results: Results, account: ModelAccounting) -> bool:
    """Return True if a model is the one that the study's edition asks about."""
    edition = edition_of(results.study.handout)
    return edition is not None and account.name == edition.adamw.model


def main_account(results: Results, accounts: list[ModelAccounting]) -> ModelAccounting:
    """Return the model that is described in full: the one that the edition asks about, or the largest one."""
    return max(accounts, key=lambda account: (is_question_model(results, account), account.parameters.total))


def model_label(results: Results, account: ModelAccounting) -> str:
    """Return the display name of a model; a shape of another edition than the study's has its year.

    `gpt2_xl_16k_2025` becomes "GPT-2 XL 16k (2025)".
    """
    if account.name == "study":
        return "this study's model"
    year = account.name.rpartition("_")[2]
    words = {"gpt2": "GPT-2", "xl": "XL", "2025": "(2025)", "2026": "(2026)"}
    if results.study.handout.endswith(year):
        words[year] = ""
    return " ".join(filter(None, (words.get(word, word) for word in account.name.split("_"))))


def metrics_of(account: ModelAccounting) -> dict[str, Metric]:
    """Return a model's metrics."""
    values = {
        "parameters": (account.parameters.total, "parameters"),
        "bytes": (account.parameter_bytes, "bytes"),
        "forward_flops": (account.flops.forward, "FLOPs"),
        "training_flops": (account.flops.training, "FLOPs"),
        "attention_scores_share": (account.shares["attention_scores"], "share of the forward FLOPs"),
    }
    source = str(RELATIVE.accounting(account.name))
    return {f"{account.name}_{key}": Metric(value, unit, source) for key, (value, unit) in values.items()}


def facts_of(accounts: list[ModelAccounting], main: ModelAccounting, labels: Labels) -> dict[str, JsonValue]:
    """Return the facts of the main model, of a longer context, and of the growth with size."""
    component = max(main.shares, key=main.shares.get)
    return {
        "main": labels[main.name],
        "is_own": main.name == "study",
        "main_parameters": main.parameters.total,
        "main_flops": main.flops.forward,
        "largest_component": COMPONENTS[component],
        "largest_share": main.shares[component],
        "num_models": len(accounts),
        "longer_context": longer_context(accounts, main),
        "size": size_effect(accounts, main, labels),
        "study_parameters": next((account.parameters.total for account in accounts if account.name == "study"), None),
    }


def differences(account: ModelAccounting, other: ModelAccounting) -> set[str]:
    """Return the settings in which two models differ."""
    first, second = account.config.model_dump(), other.config.model_dump()
    return {key for key in first if first[key] != second[key]}


def longer_context(accounts: list[ModelAccounting], main: ModelAccounting) -> dict[str, JsonValue] | None:
    """Return the cost of the longest context among the models that are otherwise equal to the main one."""
    same = [account for account in accounts if differences(account, main) <= {"context_length"}]
    short, long = (pick(same, key=lambda account: account.config.context_length) for pick in (min, max))
    if short is long:
        return None
    return {
        "context_factor": long.config.context_length / short.config.context_length,
        "scores_share": long.shares["attention_scores"],
        "short_scores_share": short.shares["attention_scores"],
    }


def size_effect(accounts: list[ModelAccounting], main: ModelAccounting, labels: Labels) -> dict[str, JsonValue] | None:
    """Return the component whose share grows most from the smallest to the largest model of one context and rule.

    Shapes of an edition end in its year, and follow one rule for d_ff.
    """
    fixed, rule = {"context_length", "vocab_size", "feed_forward"}, main.name.rpartition("_")[2]
    same = [account for account in accounts if differences(account, main).isdisjoint(fixed)]
    same = [account for account in same if not rule.isdecimal() or account.name.endswith(rule)]
    small, large = (pick(same, key=lambda account: account.parameters.total) for pick in (min, max))
    if small is large:
        return None
    grows = max(COMPONENTS, key=lambda component: large.shares[component] - small.shares[component])
    return {
        "small": labels[small.name],
        "large": labels[large.name],
        "component": COMPONENTS[grows],
        "from": small.shares[grows],
        "to": large.shares[grows],
    }


def models_table(accounts: list[ModelAccounting], labels: Labels) -> Table:
    """Return size, FLOPs and their shares of every model."""
    rows = []
    for account in accounts:
        config, flops = account.config, account.flops
        shape = [getattr(config, key) for key in ("num_layers", "d_model", "num_heads", "d_ff", "context_length")]
        costs = [flops.forward, flops.forward / config.context_length, flops.training, flops.flops_6nd,
                 flops.attention_crossover_context]  # fmt: skip
        shares = [100 * account.shares[component] for component in COMPONENTS]
        rows.append([labels[account.name], *shape, account.parameters.total, account.parameter_bytes, *costs, *shares])
    columns = ["model", "layers", "d_model", "heads", "d_ff", "context", "parameters", "bytes (float32)"]
    costs = ["forward FLOPs", "forward FLOPs a token", "training FLOPs (3 × forward)", "6 × parameters × tokens",
             "context at which attention costs as much as the weights"]  # fmt: skip
    shares = [f"{label} (%)" for label in COMPONENTS.values()]
    return Table("Size and FLOPs of one sequence of context length", [*columns, *costs, *shares], rows)


def parameters_table(accounts: list[ModelAccounting], labels: Labels) -> Table:
    """Return the parameters by part of every model."""
    components = ["token_embedding", "attention", "feed_forward", "norms", "lm_head", "total"]
    rows = [
        [labels[account.name], *(getattr(account.parameters, component) for component in components)]
        for account in accounts
    ]
    headings = ["token embedding", "attention", "feed-forward", "RMSNorm gains", "output head", "total"]
    return Table("Derivation: parameters by part (embedding and output head are not tied)", ["model", *headings], rows)


def matmuls_table(account: ModelAccounting, labels: Labels) -> Table:
    """Return every matrix multiply of one model's forward pass."""
    total = account.flops.forward
    rows = []
    for matmul in account.matmuls:
        m, k, n = matmul.shape
        shape = f"({m} × {k}) · ({k} × {n})"
        rows.append([matmul.name, shape, matmul.repeats, matmul.flops, 100 * matmul.flops / total])
    caption = f"Derivation: matrix multiplies of a forward pass of {labels[account.name]} (2mkn FLOPs for each repeat)"
    return Table(caption, ["multiply", "shape", "repeats", "FLOPs", "share (%)"], rows)
