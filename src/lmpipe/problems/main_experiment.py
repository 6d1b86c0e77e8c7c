"""Problem main_experiment: the same model on the simple corpus and on the web-like one."""

import math
from dataclasses import dataclass

from lmpipe.intervals import describe_difference, paired_difference
from lmpipe.problems import Figure, Finding, Table, training
from lmpipe.problems.reference import PLACES, corpus_in_words
from lmpipe.problems.wording import bytes_text, count, listing, loss, number, percent
from lmpipe.results import UNITS, ExperimentRuns, Results

ID = "main_experiment"
TITLE = "The same model on two corpora"
QUESTION = (
    "What loss does the same model with the same number of training steps reach on web text, and how is its loss "
    "to be read beside the one on simple stories?"
)
LINES = "main_experiment: {runs: {simple: {corpus: {corpus}}, web: {corpus: {web}}}}"


@dataclass(frozen=True)
class Side:
    """One corpus: its best run, and what its loss must be measured against.

    `place` is the role in which it is compared; None where it has none, or where another corpus has it.
    """

    corpus: str
    place: str | None
    run: str
    standing: str
    loss: float
    perplexity: float
    bits_per_byte: float
    vocab_size: int
    bytes_per_token: float
    unigram_entropy: float
    delimiter_share: float

    @property
    def removed_share(self) -> float:
        """The share of the unigram entropy that the model removes by looking at context."""
        return 1 - self.loss / self.unigram_entropy

    @property
    def unigram_bits_per_byte(self) -> float:
        """What a model of token frequencies alone would need, in bits per byte, delimiters left out of both."""
        of_delimiters = -self.delimiter_share * math.log(self.delimiter_share) if self.delimiter_share else 0.0
        return (self.unigram_entropy - of_delimiters) / math.log(2) / self.bytes_per_token


def find(results: Results) -> Finding:
    """Losses on every corpus of the experiment, and figures that explain why they differ."""
    experiment = results.experiment(ID)
    if experiment is None:
        return training.missing(results, ID, LINES)
    sides = sides_of(results, experiment)
    simple, web = (next((side for side in sides if side.place == place), None) for place in ("simple", "web"))
    figures = {name: figure for side in sides for name, figure in side_figures(experiment, side).items()}
    both = simple is not None and web is not None
    sentences = pair_sentences(results, experiment, simple, web) if both else single_sentences(results, sides)
    sentences += other_sentences(results, [side for side in sides if both and side not in (simple, web)])
    sentences += [f"On {side.corpus}, `{side.run}` is the best{side.standing}." for side in sides if side.standing]
    sentences += [same_model_sentence(experiment), *training.failure_sentences(experiment)]
    tables = [side_table(results, sides), training.runs_table(experiment)] if sides else []
    return Finding("answered" if both else "partial", figures, sentences, tables, training.plots(experiment))


def sides_of(results: Results, experiment: ExperimentRuns) -> list[Side]:
    """The best finished run on each corpus, in the order of the experiment."""
    best = {corpus: (runs, name) for corpus, runs in experiment.by_corpus().items() if (name := runs.best())}
    # Of several corpora with one role the first of the study speaks for it, as everywhere in the report.
    named = {role: next((name for name in results.corpora_in_role(role) if name in best), None) for role in PLACES}
    places = {corpus: role for role, corpus in named.items()}
    return [side_of(results, runs, corpus, name, places.get(corpus)) for corpus, (runs, name) in best.items()]


def side_of(results: Results, experiment: ExperimentRuns, corpus: str, name: str, place: str | None) -> Side:
    """One corpus with its best run; `experiment` holds the runs on it."""
    run = experiment.seeds_of(name)[0]
    summary = run.summary
    rivals = {other: f"`{other}`" for other in experiment.names() if other != name}
    return Side(
        corpus,
        place,
        name,
        training.rival_words(experiment, name, rivals),
        training.mean(experiment, name),
        training.mean(experiment, name, "perplexity"),
        training.mean(experiment, name, "bits_per_byte"),
        experiment.setting(name, "vocab_size"),
        summary["validation_bytes"] / summary["validation_tokens"],
        summary["unigram_entropy"],
        results.corpora[corpus]["splits"]["train"]["documents"] / run.config["tokens"]["train"]["tokens"],
    )


def side_figures(experiment: ExperimentRuns, side: Side) -> dict[str, Figure]:
    """Figures of one corpus; names start with the role in which it is compared, or with its own name."""
    source = training.table_path(experiment)
    label = side.place or side.corpus
    return {
        f"{label}_corpus": Figure(side.corpus, "", source),
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


def pair_sentences(results: Results, experiment: ExperimentRuns, simple: Side, web: Side) -> list[str]:
    """The comparison, and its explanation by figures."""
    bits = [experiment.losses(side.run, "bits_per_byte") for side in (web, simple)]
    told = describe_difference(difference := paired_difference(*bits), UNITS["bits_per_byte"])
    names = corpus_in_words(results, web.corpus), corpus_in_words(results, simple.corpus)
    reached = (
        f"On {names[0]} the model reaches a validation loss of {loss(web.loss)} nats per token "
        f"(perplexity {number(web.perplexity)}), on {names[1]} {loss(simple.loss)} (perplexity "
        f"{number(simple.perplexity)}): in bits per byte, which can be compared across tokenizers, "
        f"{number(web.bits_per_byte, 4)} against {number(simple.bits_per_byte, 4)}, "
        f"{'a difference' if difference.unresolved else 'which is'} {told}."
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
    ends = listing([end_words(results, side) for side in sides])
    wanted = "a comparison needs a finished run on a corpus of role simple and on one of role web"
    return [f"The model reaches {ends}; {wanted}."]


def end_words(results: Results, side: Side) -> str:
    """A side in short."""
    corpus = corpus_in_words(results, side.corpus)
    return f"{loss(side.loss)} nats per token ({number(side.bits_per_byte)} bits per byte) on {corpus}"


def other_sentences(results: Results, sides: list[Side]) -> list[str]:
    """The corpora that stand outside the comparison, such as a second one of the same role."""
    return [f"The model also reaches {listing([end_words(results, side) for side in sides])}."] if sides else []


def same_model_sentence(experiment: ExperimentRuns) -> str:
    """What the runs share, and in which settings of the model they differ."""
    tokens = training.common(run.setting("total_tokens") for run in experiment.runs)
    if len(experiment.names()) == 1:
        return f"It sees {count(tokens)} tokens."
    models = [run.config["model"] for run in experiment.runs]
    differing = [key for key in models[0] if any(model[key] != models[0][key] for model in models)]
    words = {(): "The models have the same shape", ("vocab_size",): "The models differ in the vocabulary alone"}
    told = words.get(tuple(differing)) or f"The models differ in {listing(differing)}"
    return f"{told}, and each sees {count(tokens)} tokens." if tokens else f"{told}; the runs differ in length."
