"""Problem transformer_accounting: parameters, matrix multiplies and FLOPs by component, for models of several sizes."""

from lmpipe.analysis.finding import BarPlot, Finding, Metric, Plot, Table, missing
from lmpipe.analysis.problems import measured_compute
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import format_bytes, format_command, format_int, format_number, format_percent, join_words
from lmpipe.model.accounting import ModelAccounting
from lmpipe.study.editions import edition_models

ID = "transformer_accounting"
TITLE = "What a transformer costs: parameters and FLOPs"
QUESTION = (
    "How many parameters do models of GPT-2's sizes have, which matrix multiplies make up a forward pass, "
    "how do the components' shares change with the model's size and with the context length, and how does all that "
    "compare with what is measured?"
)
PLOT = "figures/transformer_accounting.svg"
COMPONENTS = {
    "attention_projections": "attention projections",
    "attention_scores": "attention scores and values",
    "feed_forward": "feed-forward",
    "lm_head": "output head",
}
GPT2_XL = {
    "vocab_size": 50257,
    "context_length": 1024,
    "num_layers": 48,
    "d_model": 1600,
    "num_heads": 25,
    "d_ff": 6400,
    "feed_forward": "swiglu",
    "norm": "pre",
}


def analyze(results: Results) -> Finding:
    """Return the accounting of every model of the study; partial if GPT-2 XL is not among them."""
    accounts = read_accounting(results)
    if not accounts:
        return missing(f"This study holds no accounting yet; make it with {format_command('accounting')}.")
    main, measured = main_account(accounts), measured_compute.flops_and_time(results)
    metrics = {name: metric for account in accounts for name, metric in metrics_of(account).items()}
    return Finding(
        "answered" if is_gpt2_xl(main) and measured_compute.read_profile(results) else "partial",
        metrics=metrics | measured.metrics,
        sentences=[
            *account_sentences(main),
            *size_sentences(accounts, main),
            *context_sentences(accounts),
            *study_model_sentences(accounts),
            *check_sentences(accounts),
            *measured.sentences,
        ],
        tables=[
            models_table(accounts),
            parameters_table(accounts),
            matmuls_table(main),
            shares_table(accounts),
            *measured.tables,
        ],
        plots=[shares_plot(accounts)],
    )


def read_accounting(results: Results) -> list[ModelAccounting]:
    """Return the existing accounting of every model that the study names, and of its own model."""
    names = [*results.study.accounting.models, *edition_models(results.study.handout), "study"]
    return [account for name in names if (account := results.document(ModelAccounting, f"accounting/{name}.json"))]


def is_gpt2_xl(account: ModelAccounting) -> bool:
    """Return True if a model has the shape that the write-up calls GPT-2 XL."""
    return all(getattr(account.config, key) == value for key, value in GPT2_XL.items())


def main_account(accounts: list[ModelAccounting]) -> ModelAccounting:
    """Return the model that is described in full: GPT-2 XL, or the largest one."""
    return max(accounts, key=lambda account: (is_gpt2_xl(account), account.parameters.total))


def title_of(account: ModelAccounting) -> str:
    """Return the name of a model in a sentence."""
    return "the study's own model" if account.name == "study" else account.name


def metrics_of(account: ModelAccounting) -> dict[str, Metric]:
    """Return a model's metrics; those named gpt2_xl always belong to the write-up's shape."""
    name = "gpt2_xl" if is_gpt2_xl(account) else account.name
    if name == "gpt2_xl" and not is_gpt2_xl(account):
        return {}
    source = f"accounting/{account.name}.json"
    return {
        f"{name}_parameters": Metric(account.parameters.total, "parameters", source),
        f"{name}_bytes": Metric(account.parameter_bytes, "bytes", source),
        f"{name}_forward_flops": Metric(account.flops.forward, "FLOPs", source),
        f"{name}_training_flops": Metric(account.flops.training, "FLOPs", source),
        f"{name}_attention_scores_share": Metric(
            account.shares["attention_scores"], "share of the forward FLOPs", source
        ),
    }


def account_sentences(account: ModelAccounting) -> list[str]:
    """Describe the size of the main model, and its FLOPs by component."""
    flops, config = account.flops, account.config
    ordered = sorted(account.shares.items(), key=lambda item: -item[1])
    shares = join_words([f"{format_percent(share)} for the {COMPONENTS[component]}" for component, share in ordered])
    ratio = flops.flops_6nd / flops.training
    return [
        f"{sentence_start(title_of(account))} has {format_int(account.parameters.total)} parameters, which take "
        f"{format_int(account.parameter_bytes)} bytes ({format_bytes(account.parameter_bytes)}) in "
        "float32, and the matrix multiplies of "
        f"one forward pass over {format_int(config.context_length)} tokens take "
        f"{format_int(flops.forward)} FLOPs.",
        f"They are spent as follows: {shares}.",
        "Training on such a sequence takes three times as many, "
        f"{format_number(flops.training)} FLOPs, since the backward "
        f"pass does two multiplies for each; the rule of thumb 6 × parameters × tokens gives "
        f"{format_number(flops.flops_6nd)}, {format_percent(abs(1 - ratio))} "
        f"{'less' if ratio < 1 else 'more'}: it leaves out "
        "attention's scores and values, but counts the token embedding and the gains, which no multiply uses.",
    ]


def sentence_start(text: str) -> str:
    """Return a text with a capital first letter, unless it is a name."""
    return text[0].upper() + text[1:] if text.startswith("the ") else text


def size_sentences(accounts: list[ModelAccounting], main: ModelAccounting) -> list[str]:
    """Describe the change of the shares from the smallest to the largest model of one context and vocabulary."""
    same = [account for account in accounts if differences(account, main).isdisjoint({"context_length", "vocab_size"})]
    small, large = (pick(same, key=lambda account: account.parameters.total) for pick in (min, max))
    if small is large:
        return []
    changes = [
        f"{label} from {format_percent(small.shares[component])} to {format_percent(large.shares[component])}"
        for component, label in COMPONENTS.items()
    ]
    growth = {component: large.shares[component] - small.shares[component] for component in COMPONENTS}
    grows, shrinks = (COMPONENTS[pick(growth, key=growth.get)] for pick in (max, min))
    return [
        f"With the model's size the share of the {grows} grows most and that of the {shrinks} shrinks most: between "
        f"{title_of(small)} and {title_of(large)}, both at {format_int(small.config.context_length)} tokens, "
        f"{join_words(changes)}."
    ]


def differences(account: ModelAccounting, other: ModelAccounting) -> set[str]:
    """Return the settings in which two models differ."""
    first, second = account.config.model_dump(), other.config.model_dump()
    return {key for key in first if first[key] != second[key]}


def context_sentences(accounts: list[ModelAccounting]) -> list[str]:
    """Describe the cost of a longer context, for each pair of models that differ in nothing else."""
    pairs = [
        (short, long)
        for short in accounts
        for long in accounts
        if differences(short, long) == {"context_length"} and short.config.context_length < long.config.context_length
    ]
    return [context_sentence(short, long) for short, long in pairs]


def context_sentence(short: ModelAccounting, long: ModelAccounting) -> str:
    """Describe the cost of the longer context of an otherwise equal model."""
    lengths = [account.config.context_length for account in (short, long)]
    flops = long.flops.forward / short.flops.forward
    tokens = lengths[1] / lengths[0]
    attention = [format_percent(account.shares["attention_scores"]) for account in (short, long)]
    return (
        f"With a context of {format_int(lengths[1])} instead of {format_int(lengths[0])} tokens ({title_of(long)} and "
        f"{title_of(short)}), a sequence has {format_number(tokens)} times the tokens but "
        f"takes {format_number(flops)} times the "
        f"FLOPs, {format_number(flops / tokens)} times as many for each token: the scores "
        "and weighted values of attention "
        f"grow with the square of the context, from {attention[0]} to {attention[1]} of the total, and would cost as "
        "much as all weight matrices together at a context of "
        f"{format_int(short.flops.attention_crossover_context)} tokens."
    )


def study_model_sentences(accounts: list[ModelAccounting]) -> list[str]:
    """Return the study's own model in one sentence, unless it is the only one."""
    account = next((account for account in accounts if account.name == "study"), None)
    if account is None or len(accounts) == 1:
        return []
    largest, share = max(account.shares.items(), key=lambda item: item[1])
    return [
        f"The study's own model has {format_int(account.parameters.total)} parameters "
        f"({format_bytes(account.parameter_bytes)}) and "
        f"takes {format_int(account.flops.forward)} FLOPs for a sequence of "
        f"{format_int(account.config.context_length)} "
        f"tokens, the largest part, {format_percent(share)}, for the {COMPONENTS[largest]}."
    ]


def check_sentences(accounts: list[ModelAccounting]) -> list[str]:
    """Describe the check against torch's counts, and say if GPT-2 XL is missing."""
    equal = sum(
        (account.torch_counts.parameters, account.torch_counts.forward_flops)
        == (account.parameters.total, account.flops.forward)
        for account in accounts
    )
    sentences = [
        f"Parameters and FLOPs equal, to the unit, what torch counts on lmpipe's own model for {equal} of "
        f"{len(accounts)} models (built on the meta device, with FlopCounterMode)."
    ]
    if not is_gpt2_xl(main_account(accounts)):
        sentences.append("GPT-2 XL, which the write-up accounts for, is not among the models of this study.")
    return sentences


def models_table(accounts: list[ModelAccounting]) -> Table:
    """Size and FLOPs of every model."""
    rows = []
    for account in accounts:
        config, flops = account.config, account.flops
        shape = [getattr(config, key) for key in ("num_layers", "d_model", "num_heads", "d_ff", "context_length")]
        costs = [flops.forward, flops.forward / config.context_length, flops.training, flops.flops_6nd]
        rows.append([account.name, *shape, account.parameters.total, account.parameter_bytes, *costs])
    columns = ["model", "layers", "d_model", "heads", "d_ff", "context", "parameters", "bytes (float32)"]
    costs = ["forward FLOPs", "forward FLOPs a token", "training FLOPs (3 × forward)", "6 × parameters × tokens"]
    return Table("Size and FLOPs of one sequence of context length", [*columns, *costs], rows)


def parameters_table(accounts: list[ModelAccounting]) -> Table:
    """Parameters by part of every model."""
    components = ["token_embedding", "attention", "feed_forward", "norms", "lm_head", "total"]
    rows = [
        [account.name, *(getattr(account.parameters, component) for component in components)] for account in accounts
    ]
    headings = ["token embedding", "attention", "feed-forward", "RMSNorm gains", "output head", "total"]
    return Table("Parameters by part (embedding and output head are not tied)", ["model", *headings], rows)


def matmuls_table(account: ModelAccounting) -> Table:
    """Every matrix multiply of one model's forward pass."""
    total = account.flops.forward
    rows = []
    for matmul in account.matmuls:
        m, k, n = matmul.shape
        shape = f"({m} × {k}) · ({k} × {n})"
        rows.append([matmul.name, shape, matmul.repeats, matmul.flops, 100 * matmul.flops / total])
    caption = f"Matrix multiplies of a forward pass of {title_of(account)}, one sequence (FLOPs: 2mkn for each repeat)"
    return Table(caption, ["multiply", "shape", "repeats", "FLOPs", "share (%)"], rows)


def shares_table(accounts: list[ModelAccounting]) -> Table:
    """Each component's share of every model's FLOPs, in percent."""
    rows = [[account.name, *(100 * account.shares[component] for component in COMPONENTS)] for account in accounts]
    columns = ["model", *(f"{label} (%)" for label in COMPONENTS.values())]
    return Table("Shares of the forward FLOPs by component", columns, rows)


def shares_plot(accounts: list[ModelAccounting]) -> Plot:
    """Each component's share of every model's FLOPs, as stacked bars."""
    names = [account.name for account in accounts]
    groups = {
        label: [100 * account.shares[component] for account in accounts] for component, label in COMPONENTS.items()
    }
    title = "Where the FLOPs of a forward pass go"
    data = BarPlot(title, "share of forward FLOPs (%)", names, groups, stacked=True, horizontal=True)
    shares = join_words([f"{account.name} {format_percent(account.shares['feed_forward'])}" for account in accounts])
    alt = f"Stacked bars of the FLOPs by component for {join_words(names)}; share of the feed-forward: {shares}."
    return Plot(PLOT, "Shares of the matrix-multiply FLOPs of one forward pass, by component.", alt, data)
