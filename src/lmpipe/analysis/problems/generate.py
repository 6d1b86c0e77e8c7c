"""Problem generate: text from the trained models, with unknown words and repetitions marked, by decoding setting."""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise
from statistics import fmean

from pydantic import JsonValue

from lmpipe.analysis.finding import Finding, Mark, MarkedText, Metric, Table, missing, optional_metric
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import group_by
from lmpipe.errors import REBUILD, InputError
from lmpipe.generation.samples import SampleRecord, Samples
from lmpipe.generation.text_metrics import WORD, split_words
from lmpipe.io.formatting import format_int, format_number
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import RELATIVE

SHARES = {
    "known_word_share": "words known from the training text",
    "distinct_1": "different words",
    "distinct_2": "different word pairs",
    "distinct_3": "different three-word phrases",
    "repeated_4gram_share": "repeated four-word phrases",
}
# Those that the prose mentions.
SPOKEN = ("known_word_share", "repeated_4gram_share")
# The temperature that represents sampling; greedy decoding is 0.
TYPICAL_TEMPERATURE = 0.7
PHRASE_WORDS = 4
NO_WORDS = "no text has enough words"

Records = Sequence[SampleRecord]
Setting = tuple[float, float]


def analyze(results: Results) -> Finding:
    """Return the samples of every corpus, and their metrics by decoding setting."""
    corpora = results.study.samples.models if results.study.samples else {}
    if not corpora:
        return missing(
            "This study shows no samples; add to its file: `samples: {models: {CORPUS: EXPERIMENT/RUN}, ...}`."
        )
    documents = {corpus: read_samples(results, corpus) for corpus in corpora}
    by_corpus = {corpus: samples for corpus, samples in documents.items() if samples}
    if not by_corpus:
        return missing(
            f"No samples have been generated; run {results.command(results.paths.samples(next(iter(corpora))))}."
        )
    absent = [corpus_label(results.study, corpus) for corpus in corpora if corpus not in by_corpus]
    return Finding(
        "partial" if absent else "answered",
        {name: metric for item in by_corpus.items() for name, metric in corpus_metrics(*item).items()},
        facts={
            "models": [model_facts(results, samples) for samples in by_corpus.values()],
            "absent": absent,
        },
        tables=[metrics_table(corpus_label(results.study, corpus), samples) for corpus, samples in by_corpus.items()],
        texts=[marked_sample(results, samples, record) for samples in by_corpus.values() for record in samples.samples],
        reason=f"Samples of {', '.join(absent)} have not been generated" if absent else "",
    )


def read_samples(results: Results, corpus: str) -> Samples | None:
    """Return the samples of a corpus; None if there are none. Raise InputError for those of another corpus."""
    samples = results.document(Samples, RELATIVE.samples(corpus))
    if samples and samples.corpus != corpus:
        path = results.paths.samples(corpus)
        raise InputError(path, f"has samples of the corpus {samples.corpus!r}, not of {corpus!r}", REBUILD)
    return samples


def by_setting(records: Records) -> dict[Setting, list[SampleRecord]]:
    """Return samples by temperature and top-p, which are never pooled."""
    return dict(sorted(group_by(records, lambda record: (record.temperature, record.top_p)).items()))


def mean(records: Records, name: str) -> float | None:
    """Return the mean of a metric over samples, weighted by their numbers of words; None if no sample has it."""
    rows = [record for record in records if getattr(record, name) is not None]
    return fmean([getattr(record, name) for record in rows], [record.words for record in rows]) if rows else None


def typical_settings(settings: Collection[Setting]) -> dict[str, Setting]:
    """Return the setting that represents greedy decoding, and the one that represents sampling, where they exist."""
    greedy = [setting for setting in settings if setting[0] == 0]
    sampled = [setting for setting in settings if setting[0] > 0]
    typical = {"greedy": greedy[0]} if greedy else {}
    if sampled:
        typical["sampled"] = min(sampled, key=lambda setting: (abs(setting[0] - TYPICAL_TEMPERATURE), 1 - setting[1]))
    return typical


def corpus_metrics(corpus: str, samples: Samples) -> dict[str, Metric]:
    """Return the metrics of a corpus's samples by decoding setting, and of held-out text of comparable length."""
    source, groups, records = str(RELATIVE.samples(corpus)), by_setting(samples.samples), samples.samples
    named = {f"t{temperature:g}_p{top_p:g}": rows for (temperature, top_p), rows in groups.items()}
    named |= {name: groups[setting] for name, setting in typical_settings(groups).items()}
    values = {f"{setting}_{name}": mean(rows, name) for setting, rows in named.items() for name in SHARES}
    values |= {f"held_out_{name}": getattr(samples.held_out, name) for name in SHARES}
    metrics = {name: optional_metric(value, "share", source, NO_WORDS) for name, value in values.items()}
    of_all = f"of {len(records)} samples"
    metrics |= {
        "ended_samples": Metric(sum(record.reached_eos for record in records), of_all, source),
        "truncated_samples": Metric(sum(bool(record.context_truncations) for record in records), of_all, source),
        "longest_sample": Metric(max(record.tokens for record in records), "tokens", source),
    }
    return {f"{corpus}_{name}": metric for name, metric in metrics.items()}


def model_facts(results: Results, samples: Samples) -> dict[str, JsonValue]:
    """Return the facts of one model for the prose."""
    groups, records = by_setting(samples.samples), samples.samples
    typical = typical_settings(groups)
    shares = {name: {key: mean(groups[setting], key) for key in SPOKEN} for name, setting in typical.items()}
    return {
        "label": corpus_label(results.study, samples.corpus),
        "status": samples.run_status,
        "context_length": samples.context_length,
        "num_samples": len(records),
        "ended": sum(record.reached_eos for record in records),
        "truncated": sum(bool(record.context_truncations) for record in records),
        "greedy": shares.get("greedy"),
        "sampled": shares.get("sampled"),
        "temperature": typical["sampled"][0] if "sampled" in typical else None,
        "held_out": {key: getattr(samples.held_out, key) for key in SPOKEN},
    }


def metrics_table(label: str, samples: Samples) -> Table:
    """Return a row of metrics for each decoding setting, and one for held-out text."""
    columns = ["temperature", "top-p", "samples", "words", "ended", *SHARES.values()]
    rows = [
        [
            *setting,
            len(records),
            sum(record.words for record in records),
            sum(record.reached_eos for record in records),
            *(mean(records, name) for name in SHARES),
        ]
        for setting, records in by_setting(samples.samples).items()
    ]
    held_out = samples.held_out
    rows.append(
        ["held-out text", None, held_out.documents, held_out.words, None, *(getattr(held_out, n) for n in SHARES)]
    )
    reason = "held-out text has no settings, and a short text has no four-word phrases"
    return Table(f"Metrics of the samples of {label} by decoding setting", columns, rows, reason)


# --- marked texts -----------------------------------------------------------------------------------------------------


def marked_sample(results: Results, samples: Samples, record: SampleRecord) -> MarkedText:
    """Return a sample with its marks, under its decoding setting."""
    setting = "greedy" if record.temperature == 0 else f"temperature {format_number(record.temperature)}"
    top_p = f", top-p {format_number(record.top_p)}" if record.temperature else ""
    end = "to the end of text" if record.reached_eos else f"stopped at {format_int(samples.max_new_tokens)} tokens"
    caption = f"{corpus_label(results.study, samples.corpus)}, {setting}{top_p}, {end}"
    cuts = [len(record.prompt) + count for count in record.cut_characters]
    return MarkedText(caption, mark_text(record.prompt + record.text.rstrip("\n"), record.unknown_words, cuts))


def mark_text(text: str, unknown: Collection[str] = (), cuts: Sequence[int] = ()) -> list[tuple[str, Mark]]:
    """Return the pieces of a text: words in `unknown`, four-word phrases that occurred before, and cuts (empty pieces).

    >>> mark_text("a zorp", {"zorp"}, [2])
    [('a ', ''), ('', 'cut'), ('zorp', 'unknown')]
    """
    marks: list[Mark] = [""] * len(text)
    for start, end in repeated_spans(text):
        marks[start:end] = ["repeated"] * (end - start)
    for match in WORD.finditer(text):
        if not set(split_words(match[0])).isdisjoint(unknown):
            marks[match.start() : match.end()] = ["unknown"] * len(match[0])
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < len(text)), len(text)]
    pieces: list[tuple[str, Mark]] = []
    for start, end in pairwise(bounds):
        if start:
            pieces.append(("", "cut"))
        for mark, members in groupby(range(start, end), key=marks.__getitem__):
            pieces.append(("".join(text[index] for index in members), mark))
    return pieces


def repeated_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the four-word phrases that occurred earlier in the text."""
    words = [(match.start(), match.end(), match[0].lower()) for match in WORD.finditer(text)]
    seen: set[tuple[str, ...]] = set()
    for index in range(len(words) - PHRASE_WORDS + 1):
        phrase = words[index : index + PHRASE_WORDS]
        key = tuple(word for *_, word in phrase)
        if key in seen:
            yield phrase[0][0], phrase[-1][1]
        seen.add(key)
