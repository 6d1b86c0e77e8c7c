"""Problem main_experiment: the same model on the simple corpus and on the web-like one."""

import math
from dataclasses import dataclass

from lmpipe.analysis.finding import Finding, Metric, Table
from lmpipe.analysis.problems import generate, run_summary, tokenizer_experiments
from lmpipe.analysis.problems.write_up_comparison import describe_corpus
from lmpipe.analysis.results import ROLE_DATASETS, UNITS, ExperimentRuns, Results
from lmpipe.analysis.statistics import paired_difference
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.io.formatting import format_bytes, format_int, format_loss, format_number, format_percent, join_words
from lmpipe.tokenizer.documents import TokenizerEvaluation

ID = "main_experiment"
TITLE = "The same model on two corpora"
QUESTION = (
    "What loss does the same model with the same number of training steps reach on web text, and how is its loss "
    "to be read beside the one on simple stories?"
)
EXAMPLE_CONFIG = "main_experiment: {runs: {simple: {corpus: {corpus}}, web: {corpus: {web}}}}"
# The section on generated text has the samples in full.
EXCERPT_CHARACTERS = 300


@dataclass(frozen=True)
class CorpusResult:
    """One corpus: its best run, and the numbers that its loss is compared with.

    `role` is the one in which it is compared, `simple` or `web`; None if it has none, or if another corpus has it.
    """

    corpus: str
    role: str | None
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
    def uniform_entropy(self) -> float:
        """Loss of a uniform guess among all ids, in nats per token."""
        return math.log(self.vocab_size)

    @property
    def removed_share(self) -> float:
        """The share of the unigram entropy that the model removes by looking at context."""
        return 1 - self.loss / self.unigram_entropy

    @property
    def unigram_bits_per_byte(self) -> float:
        """Bits per byte of a model of token frequencies alone, without delimiters."""
        of_delimiters = -self.delimiter_share * math.log(self.delimiter_share) if self.delimiter_share else 0.0
        return (self.unigram_entropy - of_delimiters) / math.log(2) / self.bytes_per_token


def analyze(results: Results) -> Finding:
    """Losses on every corpus of the experiment, and metrics that explain why they differ."""
    experiment = results.experiment(ID)
    if experiment is None:
        return run_summary.missing_experiment(results, ID, EXAMPLE_CONFIG)
    sides = corpus_results(results, experiment)
    simple, web = (next((side for side in sides if side.role == role), None) for role in ("simple", "web"))
    metrics = {name: metric for side in sides for name, metric in side_metrics(experiment, side).items()}
    is_pair = simple is not None and web is not None
    sentences = pair_sentences(results, experiment, simple, web) if is_pair else single_sentences(results, sides)
    # Corpora outside the comparison, such as a second one of the same role.
    if others := [describe_result(results, side) for side in sides if is_pair and side not in (simple, web)]:
        sentences.append(f"The model also reaches {join_words(others)}.")
    sentences += [f"On {side.corpus}, `{side.run}` is the best{side.standing}." for side in sides if side.standing]
    sentences += [same_model_sentence(experiment), *run_summary.failure_sentences(experiment)]
    metrics |= pair_metrics(experiment, simple, web) if is_pair else {}
    tables = [side_table(results, sides)] if sides else []
    if sides and (evaluation := results.document(TokenizerEvaluation, tokenizer_experiments.SOURCE)):
        tables.append(tokenizer_experiments.cross_table(evaluation))
    samples = comparable_samples(results, [simple, web]) if is_pair else {}
    sentences += sample_sentences(samples)
    tables += [*sample_tables(samples), run_summary.runs_table(experiment)] if sides else []
    return Finding(
        "answered" if is_pair else "partial", metrics, sentences, tables, run_summary.experiment_plots(experiment)
    )


def corpus_results(results: Results, experiment: ExperimentRuns) -> list[CorpusResult]:
    """Return the best finished run on each corpus, in the order of the experiment."""
    best = {corpus: (runs, name) for corpus, runs in experiment.by_corpus().items() if (name := runs.best())}
    # The first of several corpora in a role represents it, as everywhere in the report.
    named = {
        role: next((name for name in results.corpora_in_role(role) if name in best), None) for role in ROLE_DATASETS
    }
    roles = {corpus: role for role, corpus in named.items()}
    return [corpus_result(results, runs, corpus, name, roles.get(corpus)) for corpus, (runs, name) in best.items()]


def corpus_result(
    results: Results, experiment: ExperimentRuns, corpus: str, name: str, role: str | None
) -> CorpusResult:
    """One corpus with its best run; `experiment` holds the runs on it."""
    run = experiment.seeds_of(name)[0]
    summary = run.summary
    rivals = {rival: f"`{rival}`" for rival in experiment.names() if rival != name}
    return CorpusResult(
        corpus,
        role,
        name,
        run_summary.describe_runner_up(experiment, name, rivals),
        run_summary.mean_value(experiment, name),
        run_summary.mean_value(experiment, name, "perplexity"),
        run_summary.mean_value(experiment, name, "bits_per_byte"),
        experiment.setting(name, "vocab_size"),
        summary.validation_bytes / summary.validation_tokens,
        summary.unigram_entropy,
        results.corpora[corpus].splits.train.documents / run.config.tokens.train.tokens,
    )


def side_metrics(experiment: ExperimentRuns, side: CorpusResult) -> dict[str, Metric]:
    """Return the metrics of one corpus; names start with its role, or with its name if it has none."""
    source = run_summary.table_path(experiment)
    label = side.role or side.corpus
    return {
        f"{label}_corpus": Metric(side.corpus, "", source),
        f"{label}_validation_loss": run_summary.mean_metric(experiment, side.run),
        f"{label}_perplexity": run_summary.mean_metric(experiment, side.run, "perplexity", ""),
        f"{label}_bits_per_byte": run_summary.mean_metric(experiment, side.run, "bits_per_byte", "bits per byte"),
        f"{label}_vocab_size": Metric(side.vocab_size, "ids", source),
        f"{label}_bytes_per_token": Metric(side.bytes_per_token, "bytes per token", source),
        f"{label}_unigram_entropy": Metric(side.unigram_entropy, run_summary.NATS, source),
        f"{label}_removed_share": Metric(side.removed_share, "share of the unigram entropy", source),
    }


def side_table(results: Results, sides: list[CorpusResult]) -> Table:
    """Return a row for each corpus with all that its loss depends on."""
    columns = ["corpus", "training text", "vocabulary", "bytes per token", "uniform guess (nats)"]
    columns += ["unigram entropy (nats)", "validation loss"]
    columns += ["share removed (%)", "perplexity", "bits per byte", "bits per byte of unigrams"]
    rows = [
        [
            describe_corpus(results, side.corpus),
            format_bytes(results.corpora[side.corpus].splits.train.bytes),
            side.vocab_size,
            side.bytes_per_token,
            side.uniform_entropy,
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


def pair_sentences(results: Results, experiment: ExperimentRuns, simple: CorpusResult, web: CorpusResult) -> list[str]:
    """Return the comparison, and its explanation by metrics."""
    bits = [experiment.losses(side.run, "bits_per_byte") for side in (web, simple)]
    difference = paired_difference(*bits)
    difference_text = run_summary.describe_difference(difference, UNITS["bits_per_byte"])
    names = describe_corpus(results, web.corpus), describe_corpus(results, simple.corpus)
    reached = (
        f"On {names[0]} the model reaches a validation loss of {format_loss(web.loss)} nats per token "
        f"(perplexity {format_number(web.perplexity)}), on {names[1]} {format_loss(simple.loss)} (perplexity "
        f"{format_number(simple.perplexity)}): in bits per byte, which can be compared across tokenizers, "
        f"{format_number(web.bits_per_byte, 4)} against {format_number(simple.bits_per_byte, 4)}, "
        f"{'a difference' if difference.inconclusive else 'which is'} {difference_text}."
    )
    tokens = (
        f"Losses per token are not directly comparable, because the tokens differ: {web.corpus} has a vocabulary of "
        f"{format_int(web.vocab_size)} and {format_number(web.bytes_per_token)} bytes a token, {simple.corpus} "
        f"{format_int(simple.vocab_size)} and {format_number(simple.bytes_per_token)}."
    )
    context = (
        f"Token frequencies alone would give {format_loss(web.unigram_entropy)} nats on {web.corpus} and "
        f"{format_loss(simple.unigram_entropy)} on {simple.corpus}; by looking at context the model removes "
        f"{format_percent(web.removed_share)} of that on {web.corpus} and "
        f"{format_percent(simple.removed_share)} on {simple.corpus}."
    )
    gap = decompose_gap(simple, web)
    split = (
        f"So of the gap of {format_signed(web.loss - simple.loss)} nats per token, "
        f"{format_signed(gap['vocabulary'])} lie in the "
        f"size of the vocabularies (ln {format_int(web.vocab_size)} against ln {format_int(simple.vocab_size)}), "
        f"{format_signed(gap['frequencies'])} in how evenly the corpora use their tokens, and "
        f"{format_signed(gap['context'])} in "
        f"how much the model learns to predict from context."
    )
    return [reached, tokens, context, split, ratio_sentence(simple, web)]


def decompose_gap(simple: CorpusResult, web: CorpusResult) -> dict[str, float]:
    """Return the gap in nats per token in three parts: blind guesses, token frequencies beyond them, context."""
    uniform = web.uniform_entropy - simple.uniform_entropy
    unigram = web.unigram_entropy - simple.unigram_entropy
    return {"vocabulary": uniform, "frequencies": unigram - uniform, "context": web.loss - simple.loss - unigram}


def ratio_sentence(simple: CorpusResult, web: CorpusResult) -> str:
    """Describe the way from nats per token and bytes per token to bits per byte."""
    nats, size = web.loss / simple.loss, web.bytes_per_token / simple.bytes_per_token
    expected, measured = format_number(nats / size), format_number(web.bits_per_byte / simple.bits_per_byte)
    verdict = "which they do" if measured == expected else f"and they cost {measured} times"
    why = "" if measured == expected else ", since the delimiters between documents count as tokens, but not as bytes"
    return (
        f"From nats per token to bits per byte: a token of {web.corpus} costs "
        f"{format_number(nats)} times the nats of one of "
        f"{simple.corpus} and stands for {format_number(size)} times the bytes, so its bytes "
        f"should cost {expected} times the "
        f"bits each, {verdict}{why}."
    )


def pair_metrics(experiment: ExperimentRuns, simple: CorpusResult, web: CorpusResult) -> dict[str, Metric]:
    """Return the gap between both corpora, its parts, and the ratios from nats per token to bits per byte."""
    source = run_summary.table_path(experiment)
    difference = paired_difference(*(experiment.losses(side.run, "bits_per_byte") for side in (web, simple)))
    gap_metrics = {
        f"gap_{name}": Metric(value, run_summary.NATS, source) for name, value in decompose_gap(simple, web).items()
    }
    return {
        "gap": Metric(web.loss - simple.loss, run_summary.NATS, source),
        **gap_metrics,
        "gap_bits_per_byte": Metric(difference.mean, UNITS["bits_per_byte"], source, difference.bounds),
        "loss_ratio": Metric(web.loss / simple.loss, "web / simple, nats per token", source),
        "bytes_per_token_ratio": Metric(web.bytes_per_token / simple.bytes_per_token, "web / simple", source),
        "bits_per_byte_ratio": Metric(web.bits_per_byte / simple.bits_per_byte, "web / simple", source),
    }


def comparable_samples(results: Results, sides: list[CorpusResult]) -> dict[str, Samples]:
    """Return the samples of the models that are compared, by corpus; none unless both sides have some."""
    samples = {side.corpus: results.document(Samples, generate.path_of(side.corpus)) for side in sides}
    run_of = {side.corpus: f"{ID}/{side.run}" for side in sides}
    comparable = {corpus: sample for corpus, sample in samples.items() if sample and sample.run == run_of[corpus]}
    return comparable if len(comparable) == len(sides) else {}


def sample_sentences(samples: dict[str, Samples]) -> list[str]:
    """Compare the samples of both models with held-out text."""
    phrases = []
    for corpus, sample in samples.items():
        share, usual = generate.mean(sample.samples, "known_word_share"), sample.held_out.known_word_share
        if share is None or usual is None:
            return []
        phrases.append(
            f"{format_percent(share)} of the words of the model of {corpus} (held-out text: {format_percent(usual)})"
        )
    return [f"In their samples, {join_words(phrases)} occur in the training text."] if phrases else []


def sample_tables(samples: dict[str, Samples]) -> list[Table]:
    """Return the beginnings of both models' samples side by side: a row for each prompt and setting that both have."""
    by_settings = [
        {(record.prompt, record.temperature, record.top_p): record for record in document.samples}
        for document in samples.values()
    ]
    shared = [settings for settings in by_settings[0] if settings in by_settings[1]] if by_settings else []
    if not shared:
        return []
    rows = [[*settings, *(excerpt(records[settings]) for records in by_settings)] for settings in shared]
    columns = ["prompt", "temperature", "top-p", *(f"the model of {corpus}" for corpus in samples)]
    return [Table("The same prompts continued by both models: how their samples begin.", columns, rows)]


def excerpt(record: SampleRecord) -> str:
    """Return the prompt and the first words of its continuation, on one line."""
    text = " ".join((record.prompt + record.text).split())
    return text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS].rsplit(' ', 1)[0]} …"


def format_signed(value: float) -> str:
    """Return a difference of losses with its sign."""
    return f"{value:+.3f}".replace("-", "−")


def single_sentences(results: Results, sides: list[CorpusResult]) -> list[str]:
    """Describe the results if there is no pair of corpora to compare."""
    if not sides:
        return ["No run of this experiment finished with every seed, so there is no loss to compare."]
    ends = join_words([describe_result(results, side) for side in sides])
    requirement = "a comparison needs a finished run on a corpus that stands for TinyStories, and one for OpenWebText"
    return [f"The model reaches {ends}; {requirement}."]


def describe_result(results: Results, side: CorpusResult) -> str:
    """Return a side in short."""
    corpus = describe_corpus(results, side.corpus)
    return f"{format_loss(side.loss)} nats per token ({format_number(side.bits_per_byte)} bits per byte) on {corpus}"


def same_model_sentence(experiment: ExperimentRuns) -> str:
    """Describe the common settings of the runs, and the model settings in which they differ."""
    tokens = run_summary.common_value(run.setting("total_tokens") for run in experiment.runs)
    if len(experiment.names()) == 1:
        return f"It sees {format_int(tokens)} tokens."
    configs = [run.config.model.model_dump() for run in experiment.runs]
    differing = [key for key in configs[0] if any(model[key] != configs[0][key] for model in configs)]
    descriptions = {(): "The models have the same shape", ("vocab_size",): "The models differ in the vocabulary alone"}
    models_text = descriptions.get(tuple(differing)) or f"The models differ in {join_words(differing)}"
    if tokens is None:
        return f"{models_text}; the runs differ in length."
    return f"{models_text}, and each sees {format_int(tokens)} tokens."
