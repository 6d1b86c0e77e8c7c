"""Problem main_experiment: the same model on the simple corpus and on the web-like one."""

import math
from dataclasses import dataclass

from lmpipe.problems import Figure, Finding, Table, training
from lmpipe.problems.reference import corpus_in_words
from lmpipe.problems.wording import bytes_text, count, listing, loss, number, percent
from lmpipe.results import ExperimentRuns, Results

ID = "main_experiment"
TITLE = "The same model on two corpora"
QUESTION = (
    "What loss does the same model with the same number of training steps reach on web text, and how is its loss "
    "to be read beside the one on simple stories?"
)
LINES = "main_experiment: {runs: {simple: {corpus: {corpus}}, web: {corpus: {web}}}}"


@dataclass(frozen=True)
class Side:
    """One corpus: its best run, and what its loss must be measured against."""

    corpus: str
    role: str
    run: str
    loss: float
    perplexity: float
    bits_per_byte: float
    vocab_size: int
    bytes_per_token: float
    unigram_entropy: float

    @property
    def removed_share(self) -> float:
        """The share of the unigram entropy that the model removes by looking at context."""
        return 1 - self.loss / self.unigram_entropy

    @property
    def unigram_bits_per_byte(self) -> float:
        """What a model of token frequencies alone would need, in bits per byte."""
        return self.unigram_entropy / math.log(2) / self.bytes_per_token


def find(results: Results) -> Finding:
    """Losses on every corpus of the experiment, and figures that explain why they differ."""
    experiment = results.experiment(ID)
    if experiment is None:
        return training.missing(results, ID, LINES)
    sides = sides_of(results, experiment)
    simple, web = (next((side for side in sides if side.role == role), None) for role in ("simple", "web"))
    figures = {name: figure for side in sides for name, figure in side_figures(experiment, side).items()}
    both = simple is not None and web is not None
    sentences = pair_sentences(results, simple, web) if both else single_sentences(results, sides)
    sentences += [same_model_sentence(experiment), *training.failure_sentences(experiment)]
    tables = [side_table(results, sides), training.runs_table(experiment)] if sides else []
    return Finding("answered" if both else "partial", figures, sentences, tables, training.plots(experiment))


def sides_of(results: Results, experiment: ExperimentRuns) -> list[Side]:
    """The best finished run on each corpus, in the order of the experiment."""
    corpora = list(dict.fromkeys(experiment.setting(name, "corpus") for name in experiment.names()))
    sides = []
    for corpus in corpora:
        names = [name for name in experiment.names() if experiment.setting(name, "corpus") == corpus]
        best = experiment.best_among(names)
        if best is not None:
            sides.append(side_of(results, experiment, corpus, best))
    return sides


def side_of(results: Results, experiment: ExperimentRuns, corpus: str, name: str) -> Side:
    """One corpus with its best run."""
    summary = experiment.seeds_of(name)[0].summary
    return Side(
        corpus,
        results.study["corpora"][corpus]["role"],
        name,
        training.mean(experiment, name),
        training.mean(experiment, name, "perplexity"),
        training.mean(experiment, name, "bits_per_byte"),
        experiment.setting(name, "vocab_size"),
        summary["validation_bytes"] / summary["validation_tokens"],
        summary["unigram_entropy"],
    )


def side_figures(experiment: ExperimentRuns, side: Side) -> dict[str, Figure]:
    """Figures of one corpus; names start with its role, or with its name where it has none."""
    source = training.table_path(experiment)
    label = side.role if side.role in ("simple", "web") else side.corpus
    return {
        f"{label}_validation_loss": training.figure(experiment, side.run),
        f"{label}_perplexity": training.figure(experiment, side.run, "perplexity", ""),
        f"{label}_bits_per_byte": training.figure(experiment, side.run, "bits_per_byte", "bits per byte"),
        f"{label}_vocab_size": Figure(side.vocab_size, "ids", source),
        f"{label}_bytes_per_token": Figure(side.bytes_per_token, "bytes per token", source),
        f"{label}_unigram_entropy": Figure(side.unigram_entropy, training.NATS, source),
        f"{label}_removed_share": Figure(side.removed_share, "share of the unigram entropy", source),
    }


def side_table(results: Results, sides: list[Side]) -> Table:
    """A row for each corpus with all that its loss depends on."""
    columns = ["corpus", "training text", "vocabulary", "bytes per token", "unigram entropy (nats)", "validation loss"]
    columns += ["share removed (%)", "perplexity", "bits per byte", "bits per byte of unigrams"]
    rows = [
        [
            corpus_in_words(results, side.corpus),
            bytes_text(results.corpora[side.corpus]["splits"]["train"]["bytes"]),
            side.vocab_size,
            side.bytes_per_token,
            side.unigram_entropy,
            side.loss,
            100 * side.removed_share,
            side.perplexity,
            side.bits_per_byte,
            side.unigram_bits_per_byte,
        ]
        for side in sides
    ]
    return Table("What each corpus asks of the model, and what it reaches.", columns, rows)


def pair_sentences(results: Results, simple: Side, web: Side) -> list[str]:
    """The comparison, and its explanation by figures."""
    names = corpus_in_words(results, web.corpus), corpus_in_words(results, simple.corpus)
    reached = (
        f"On {names[0]} the model reaches a validation loss of {loss(web.loss)} nats per token "
        f"(perplexity {number(web.perplexity)}), on {names[1]} {loss(simple.loss)} (perplexity "
        f"{number(simple.perplexity)}): in bits per byte, which do not depend on the tokenizer, "
        f"{number(web.bits_per_byte)} against {number(simple.bits_per_byte)}."
    )
    tokens = (
        f"Losses per token are not directly comparable, because the tokens differ: {web.corpus} has a vocabulary of "
        f"{count(web.vocab_size)} and {number(web.bytes_per_token)} bytes a token, {simple.corpus} "
        f"{count(simple.vocab_size)} and {number(simple.bytes_per_token)}."
    )
    entropies, gap = web.unigram_entropy - simple.unigram_entropy, web.loss - simple.loss
    context = (
        f"Token frequencies alone would give {loss(web.unigram_entropy)} nats on {web.corpus} and "
        f"{loss(simple.unigram_entropy)} on {simple.corpus}; by looking at context the model removes "
        f"{percent(web.removed_share)} of that on {web.corpus} and {percent(simple.removed_share)} on {simple.corpus}."
    )
    split = (
        f"So of the gap of {signed(gap)} nats per token, {signed(entropies)} lie in how evenly the corpora use their "
        f"tokens, and {signed(gap - entropies)} in how much the model learns to predict from context."
    )
    return [reached, tokens, context, split]


def signed(value: float) -> str:
    """A difference of losses with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def single_sentences(results: Results, sides: list[Side]) -> list[str]:
    """What can be said where one of the two places is empty."""
    if not sides:
        return ["No run of this experiment finished with every seed, so there is no loss to compare."]
    ends = [
        f"{loss(side.loss)} nats per token ({number(side.bits_per_byte)} bits per byte) on "
        f"{corpus_in_words(results, side.corpus)}"
        for side in sides
    ]
    return [
        f"The model reaches {listing(ends)}; a comparison needs a finished run on a corpus of role simple and on one "
        "of role web."
    ]


def same_model_sentence(experiment: ExperimentRuns) -> str:
    """What the runs share."""
    shape = {key: value for key, value in experiment.runs[0].config["model"].items() if key != "vocab_size"}
    same = all(shape.items() <= run.config["model"].items() for run in experiment.runs)
    tokens = training.common(run.setting("total_tokens") for run in experiment.runs)
    words = "The models differ in the vocabulary alone" if same else "The models differ in more than the vocabulary"
    return f"{words}, and each sees {count(tokens)} tokens." if tokens else f"{words}; the runs differ in length."
