"""Problem generate: text from the trained models over a grid of settings, and how fluent it is by its metrics."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean

from lmpipe.analysis.finding import Finding, Metric, Table, Text, missing
from lmpipe.analysis.problems.write_up_comparison import describe_corpus
from lmpipe.analysis.results import Results
from lmpipe.errors import REBUILD, InputError
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.io.formatting import format_command, format_int, format_number, format_percent, join_words

ID = "generate"
TITLE = "Text from the trained models"
QUESTION = (
    "What do the trained models write when they continue a prompt for at least 256 tokens or to the end of text, "
    "how fluent is it, and what do temperature and top-p change?"
)
SHARES = {
    "known_word_share": "words known from the training text",
    "distinct_1": "different words",
    "distinct_2": "different word pairs",
    "distinct_3": "different three-word phrases",
    "repeated_4gram_share": "repeated four-word phrases",
}
# Differences between two groups of samples below this number of standard errors are not reported.
MIN_STANDARD_ERRORS = 2
UNCHANGED = "no share changes by more than chance explains"

Records = Sequence[SampleRecord]


def analyze(results: Results) -> Finding:
    """Return the samples of every corpus with their settings, their metrics, and a judgement of their fluency."""
    corpora = results.study.samples.models if results.study.samples else {}
    if not corpora:
        return missing(
            "This study shows no samples; add to its file: `samples: {models: {CORPUS: EXPERIMENT/RUN}, ...}`."
        )
    documents = {corpus: results.document(Samples, path_of(corpus)) for corpus in corpora}
    samples_by_corpus = {corpus: samples for corpus, samples in documents.items() if samples}
    if not samples_by_corpus:
        return missing(
            f"No samples have been generated; run {format_command(results.folder / path_of(next(iter(corpora))))}."
        )
    for corpus, samples in samples_by_corpus.items():
        if samples.corpus != corpus:
            path = results.folder / path_of(corpus)
            raise InputError(path, f"has samples of the corpus {samples.corpus!r}, not of {corpus!r}", REBUILD)
    sentences = [fluency_sentence(results, samples) for samples in samples_by_corpus.values()]
    sentences += [sentence for samples in samples_by_corpus.values() for sentence in detail_sentences(samples)]
    sentences += [*context_sentences(samples_by_corpus.values()), caution_sentence(samples_by_corpus)]
    if absent := [corpus for corpus in corpora if corpus not in samples_by_corpus]:
        sentences.append(f"Samples of {join_words(absent)} have not been generated.")
    return Finding(
        "partial" if absent else "answered",
        {name: metric for item in samples_by_corpus.items() for name, metric in corpus_metrics(*item).items()},
        sentences,
        [metrics_table(*item) for item in samples_by_corpus.items()],
        texts=[sample_text(*item, record) for item in samples_by_corpus.items() for record in item[1].samples],
    )


def path_of(corpus: str) -> str:
    """Return the path of a corpus's samples, below the study's folder."""
    return f"samples/{corpus}.json"


def corpus_metrics(corpus: str, samples: Samples) -> dict[str, Metric]:
    """Return the mean metrics of a corpus's samples and of held-out text of comparable length."""
    source, records = path_of(corpus), samples.samples
    reason = "no text has enough words"
    metrics = {
        f"{name}_{corpus}": Metric(mean(records, name), "share", source, missing_reason=reason) for name in SHARES
    }
    for name in SHARES:
        held_out = getattr(samples.held_out, name)
        metrics[f"held_out_{name}_{corpus}"] = Metric(held_out, "share", source, missing_reason=reason)
    metrics[f"longest_sample_{corpus}"] = Metric(max(record.tokens for record in records), "tokens", source)
    num_ended = sum(record.reached_eos for record in records)
    metrics[f"ended_samples_{corpus}"] = Metric(num_ended, f"of {len(records)} samples", source)
    num_truncated = sum(bool(record.context_truncations) for record in records)
    metrics[f"truncated_samples_{corpus}"] = Metric(num_truncated, f"of {len(records)} samples", source)
    return metrics


def mean(records: Records, name: str) -> float | None:
    """Return the mean of a metric over samples, weighted by their numbers of words; None if no sample has it."""
    rows = [record for record in records if getattr(record, name) is not None]
    return fmean([getattr(record, name) for record in rows], [record.words for record in rows]) if rows else None


def fluency_sentence(results: Results, samples: Samples) -> str:
    """Return the short answer for one corpus: words and repetition, against held-out text."""
    records, reference = samples.samples, samples.held_out
    corpus = describe_corpus(results, samples.corpus)
    share, usual = mean(records, "known_word_share"), reference.known_word_share
    if share is None or usual is None:
        return f"The model trained on {corpus} writes no words that could be counted."
    repeated, usual_repeated = mean(records, "repeated_4gram_share"), reference.repeated_4gram_share
    sentence = (
        f"The model trained on {corpus} writes {words_verdict(share, usual)}: "
        f"{format_percent(share)} of the words in its "
        f"{format_int(len(records))} samples occur in the training text, against "
        f"{format_percent(usual)} in held-out text"
    )
    if repeated is None or usual_repeated is None:
        return f"{sentence}."
    return (
        f"{sentence}; {format_percent(repeated)} of its four-word phrases repeat one from earlier in the same sample, "
        f"against {format_percent(usual_repeated)} there."
    )


def words_verdict(share: float, usual: float) -> str:
    """Judge the words of a text by the share that occurs in the training text.

    >>> words_verdict(0.99, 0.995), words_verdict(0.9, 0.99)
    ('words as real as those of held-out text', 'mostly real words')
    """
    if share >= usual - 0.01:
        return "words as real as those of held-out text"
    if share >= usual - 0.05:
        return "almost only real words"
    return "mostly real words" if share >= 0.75 else "many words of its own invention"


def detail_sentences(samples: Samples) -> list[str]:
    """Describe the effect of the settings, the lengths, and the end of the run, for one corpus."""
    sentences = [temperature_sentence(samples), top_p_sentence(samples), length_sentence(samples)]
    if samples.run_status != "finished":
        sentences.append(
            f"The run behind the samples of {samples.corpus}, {samples.run}, ended as {samples.run_status}."
        )
    return [sentence for sentence in sentences if sentence]


def context_sentences(all_samples: Iterable[Samples]) -> list[str]:
    """Count the samples that exceeded the context of their model, for each length of context."""
    phrases: dict[int, list[str]] = {}
    for samples in all_samples:
        if num_truncated := sum(bool(record.context_truncations) for record in samples.samples):
            phrase = f"{format_int(num_truncated)} of the samples of {samples.corpus}"
            phrases.setdefault(samples.context_length, []).append(phrase)
    return [
        f"{join_words(counts)} grew beyond the context of {format_int(length)} tokens; from "
        "there on the model saw only their "
        "latest part."
        for length, counts in phrases.items()
    ]


def temperature_sentence(samples: Samples) -> str:
    """Describe the change from the lowest to the highest temperature; empty if there is only one."""
    groups = grouped(samples.samples, "temperature")
    low, high = min(groups), max(groups)
    if low == high:
        return ""
    changes = join_words(change_words(groups[low], groups[high])) or UNCHANGED
    return (
        f"From temperature {format_number(low)} to {format_number(high)}, in the samples of "
        f"{samples.corpus}, {changes}."
    )


def top_p_sentence(samples: Samples) -> str:
    """Describe the effect of top-p at temperatures above 0; empty if only one was tried."""
    groups = grouped([record for record in samples.samples if record.temperature > 0], "top_p")
    if len(groups) < 2:
        return ""
    low, high = min(groups), max(groups)
    changes = join_words(change_words(groups[high], groups[low])) or UNCHANGED
    return (
        f"Where top-p is lowered from {format_number(high)} to {format_number(low)}, which "
        "leaves out the unlikeliest tokens, "
        f"in the samples of {samples.corpus}, {changes}."
    )


def grouped(records: Records, key: str) -> dict[float, list[SampleRecord]]:
    """Return samples by the value of a setting."""
    groups: dict[float, list[SampleRecord]] = {}
    for record in records:
        groups.setdefault(getattr(record, key), []).append(record)
    return groups


def change_words(before: Records, after: Records) -> list[str]:
    """Describe the significant changes in known words, variety and repetition between two groups of samples."""
    changes = []
    for name in ("known_word_share", "distinct_2", "repeated_4gram_share"):
        first, second = mean(before, name), mean(after, name)
        if first is None or second is None:
            continue
        if abs(second - first) > MIN_STANDARD_ERRORS * standard_error(first, words(before), second, words(after)):
            direction = "rises" if second > first else "falls"
            changes.append(
                f"the share of {SHARES[name]} {direction} from {format_percent(first)} to {format_percent(second)}"
            )
    return changes


def words(records: Records) -> int:
    """Return the number of words in samples."""
    return sum(record.words for record in records)


def standard_error(first: float, first_count: int, second: float, second_count: int) -> float:
    """Return the standard error of the difference between two shares of independent words.

    >>> round(standard_error(0.9, 100, 0.8, 100), 3)
    0.05
    """
    return sqrt(first * (1 - first) / first_count + second * (1 - second) / second_count)


def length_sentence(samples: Samples) -> str:
    """Count the samples that reached the end of text."""
    records, limit = samples.samples, format_int(samples.max_new_tokens)
    num_ended = sum(record.reached_eos for record in records)
    of_corpus = f"samples of {samples.corpus}"
    if num_ended == len(records):
        return f"All {format_int(num_ended)} {of_corpus} reach the end of text within {limit} tokens."
    if num_ended == 0:
        return f"None of the {format_int(len(records))} {of_corpus} reaches the end of text within {limit} tokens."
    num_stopped = len(records) - num_ended
    reach = "reaches the end of text by itself" if num_ended == 1 else "reach the end of text by themselves"
    return (
        f"{format_int(num_ended)} of the {format_int(len(records))} {of_corpus} {reach}; the other "
        f"{format_int(num_stopped)} {'stops' if num_stopped == 1 else 'stop'} at {limit} tokens."
    )


def caution_sentence(samples_by_corpus: dict[str, Samples]) -> str:
    """Describe the limits of these metrics."""
    lengths = [record.words for samples in samples_by_corpus.values() for record in samples.samples]
    return (
        f"The samples have {format_int(min(lengths))} to {format_int(max(lengths))} words, "
        "one for each prompt and setting; "
        f"a change of a share is told only where it exceeds {MIN_STANDARD_ERRORS} standard errors, and shares of "
        "different words fall as a text grows longer, whoever writes it."
    )


def metrics_table(corpus: str, samples: Samples) -> Table:
    """Return a row of metrics for each sample, and one for held-out text."""
    columns = ["prompt", "temperature", "top-p", "tokens", "ended", "words", *SHARES.values()]
    rows = [
        [
            getattr(record, name)
            for name in ("prompt", "temperature", "top_p", "tokens", "reached_eos", "words", *SHARES)
        ]
        for record in samples.samples
    ]
    reference = samples.held_out
    held_out = f"held-out text ({format_int(reference.documents)} documents)"
    rows.append([held_out, None, None, None, None, reference.words, *(getattr(reference, name) for name in SHARES)])
    caption = f"Metrics of the samples of {corpus}, as shares of all words or phrases of a text; model: {samples.run}."
    missing_reason = "held-out text has no settings, and a text of few words no phrases of so many"
    return Table(caption, columns, rows, missing_reason)


def sample_text(corpus: str, samples: Samples, record: SampleRecord) -> Text:
    """One sample, prompt and continuation, under its settings."""
    settings = (
        "greedy (temperature 0)" if record.temperature == 0 else f"temperature {format_number(record.temperature)}"
    )
    top_p = f", top-p {format_number(record.top_p)}" if record.temperature else ""
    end = "to the end of text" if record.reached_eos else f"stopped at {format_int(samples.max_new_tokens)} tokens"
    caption = f"{corpus}: {settings}{top_p}; {format_int(record.tokens)} tokens, {end}"
    return Text(caption, record.prompt + record.text.rstrip("\n"), "prose")
