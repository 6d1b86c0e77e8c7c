"""Problem tokenizer_experiments: compression on every corpus, throughput, the time for The Pile, and 16-bit ids."""

from lmpipe.analysis.finding import BarPlot, Finding, Metric, Plot, Table, missing
from lmpipe.analysis.problems.write_up_comparison import ROLE_DATASETS, describe_corpus
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import (
    format_bytes,
    format_command,
    format_int,
    format_number,
    format_percent,
    format_seconds,
    join_words,
)
from lmpipe.tokenizer.documents import Compression, TokenizerEvaluation

ID = "tokenizer_experiments"
TITLE = "Experiments with tokenizers"
QUESTION = (
    "How many bytes does a token stand for with each tokenizer on each corpus, how fast do the tokenizers encode, how "
    "long would The Pile (825 GB) take, and why do 16 bits suffice for a token id?"
)
SOURCE = "tokenizer_experiments.json"
PLOT = "figures/tokenizer_experiments.svg"
# Whose tokenizer's speed is taken for The Pile, as write_up.json has it for the write-up's metrics beside it.
THE_PILE_ROLES = ("web", "simple")


def analyze(results: Results) -> Finding:
    """Return the compression ratios, and what the measurements say about time and storage."""
    compared = results.document(TokenizerEvaluation, SOURCE)
    if compared is None:
        return missing(f"The tokenizers have not been compared; run {format_command(results.folder / SOURCE)}.")
    ratios = ratios_by_role(results, compared)
    complete = all(row is not None for row in ratios.values())
    return Finding(
        "answered" if complete else "partial",
        metrics=ratio_metrics(ratios) | speed_metrics(results, compared) | id_metrics(compared),
        sentences=[
            short_answer(results, compared, ratios),
            *foreign_sentences(compared, ratios),
            sample_sentence(compared),
            *throughput_sentences(compared),
            uint16_sentence(compared),
            round_trip_sentence(compared),
        ],
        tables=[cross_table(compared), compression_table(compared), throughput_table(compared), ids_table(compared)],
        plots=[compression_plot(compared)],
    )


def ratios_by_role(results: Results, compared: TokenizerEvaluation) -> dict[tuple[str, str], Compression | None]:
    """Return the rows of the corpora in the two roles, by (role of the corpus, role of its own tokenizer)."""
    names = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    rows = {(row.corpus, row.tokenizer): row for row in compared.compression}
    return {
        (text, tokens): rows.get((names[text], names[tokens])) for text in ROLE_DATASETS for tokens in ROLE_DATASETS
    }


def ratio_metrics(ratios: dict[tuple[str, str], Compression | None]) -> dict[str, Metric]:
    """Bytes per token on the sampled documents and on the whole validation split."""
    metrics = {}
    for (text, tokens), row in ratios.items():
        name = f"bytes_per_token_{text}_{'own' if text == tokens else f'by_{tokens}'}"
        for suffix, key in (("", "sample_bytes_per_token"), ("_whole_split", "valid_bytes_per_token")):
            reason = "" if row else "this study lacks a corpus in one of the two places"
            metrics[name + suffix] = Metric(row and getattr(row, key), "bytes per token", SOURCE, missing_reason=reason)
    return metrics


def fastest(compared: TokenizerEvaluation) -> str:
    """Return the tokenizer that encoded its own corpus's text with the most bytes per second."""
    tokenizers = compared.tokenizers
    return max(tokenizers, key=lambda name: tokenizers[name].throughput.bytes_per_second)


def timed_for_the_pile(results: Results, compared: TokenizerEvaluation) -> str:
    """Return the tokenizer whose speed stands for The Pile, which is web text: the web corpus's, or the simple one's.

    A study with neither has the fastest of the others.
    """
    tokenizers = compared.tokenizers
    own = (next((name for name in tokenizers if name == results.corpus_in_role(role)), None) for role in THE_PILE_ROLES)
    return next(filter(None, own), None) or fastest(compared)


def speed_metrics(results: Results, compared: TokenizerEvaluation) -> dict[str, Metric]:
    """Throughput of the tokenizer that stands for web text, and the time that The Pile would take it."""
    timed = compared.tokenizers[timed_for_the_pile(results, compared)]
    return {
        "throughput_bytes_per_second": Metric(timed.throughput.bytes_per_second, "bytes per second", SOURCE),
        "pile_hours": Metric(timed.pile_seconds / 3600, "h", SOURCE),
    }


def id_metrics(compared: TokenizerEvaluation) -> dict[str, Metric]:
    """Return the largest id seen in any text, and whether 16 bits hold all."""
    checks = [one.uint16 for one in compared.tokenizers.values()]
    return {
        "largest_id": Metric(max(check.largest_id for check in checks), "", SOURCE),
        "uint16_suffices": Metric(all(check.fits_uint16 for check in checks), "", SOURCE),
        "round_trip": Metric(all(row.round_trip for row in compared.compression), "", SOURCE),
    }


def short_answer(
    results: Results, compared: TokenizerEvaluation, ratios: dict[tuple[str, str], Compression | None]
) -> str:
    """Each corpus's own ratio, the throughput and the time for The Pile."""
    own = [row for text in ROLE_DATASETS if (row := ratios[text, text])] or [
        r for r in compared.compression if r.in_domain
    ]
    said = join_words(
        [f"{format_number(row.sample_bytes_per_token)} bytes of {describe_corpus(results, row.corpus)}" for row in own]
    )
    name = timed_for_the_pile(results, compared)
    timed = compared.tokenizers[name]
    rate = timed.throughput.bytes_per_second
    return (
        f"In the sampled documents a token of the corpus's own tokenizer stands for {said}; "
        f"the tokenizer of {name} encodes {format_bytes(rate)} of {timed.corpus} a second, "
        f"at which The Pile would take {hours_text(timed.pile_seconds)}."
    )


def hours_text(seconds: float) -> str:
    """Return a long duration in hours, as the handout asks for."""
    return f"{format_number(seconds / 3600)} hours"


def foreign_sentences(compared: TokenizerEvaluation, ratios: dict[tuple[str, str], Compression | None]) -> list[str]:
    """Describe the compression of each corpus by the other one's tokenizer."""
    sentences = []
    for text, tokens in (("web", "simple"), ("simple", "web")):
        row, own = ratios[text, tokens], ratios[text, text]
        if row is None or own is None:
            continue
        ratio, own_ratio = row.sample_bytes_per_token, own.sample_bytes_per_token
        change = own_ratio / ratio - 1
        effect = f"so the text becomes {format_percent(abs(change))} {'longer' if change > 0 else 'shorter'} in tokens"
        foreign_size, own_size = (format_int(compared.tokenizers[one.tokenizer].vocab_size) for one in (row, own))
        sentences.append(
            f"The tokenizer of {row.tokenizer} ({foreign_size} ids) makes {format_number(ratio)} bytes per token of "
            f"{row.corpus}, whose own ({own_size} ids) makes {format_number(own_ratio)}: {effect}."
        )
    return sentences


def sample_sentence(compared: TokenizerEvaluation) -> str:
    """Describe the sample of documents."""
    samples = join_words(
        [
            f"{one.documents} documents of {corpus} ({format_bytes(one.bytes)})"
            for corpus, one in compared.corpora.items()
        ]
    )
    return (
        f"The sample, drawn from the validation splits with seed {compared.seed}, is {samples}; the table gives the "
        "ratios of the whole splits, too, where each delimiter counts as one token and its bytes."
    )


def throughput_sentences(compared: TokenizerEvaluation) -> list[str]:
    """Describe the measured speed, and the time for The Pile at this speed."""
    measured = [
        f"{format_bytes(one.throughput.bytes_per_second)} a second for {name} "
        f"({format_bytes(one.throughput.bytes)} of its training text, "
        f"{format_seconds(min(one.throughput.seconds))} to {format_seconds(max(one.throughput.seconds))})"
        for name, one in compared.tokenizers.items()
    ]
    times = join_words([f"{hours_text(one.pile_seconds)} with {name}" for name, one in compared.tokenizers.items()])
    return [
        f"Encoding in one process with an empty cache ran at {join_words(measured)}, each "
        "the median of several passes.",
        f"At this speed The Pile ({format_bytes(compared.pile_bytes)}) would take {times}, if its text is like the "
        "text measured.",
    ]


def uint16_sentence(compared: TokenizerEvaluation) -> str:
    """Compare the largest id with what 16 bits hold."""
    tokenizers = compared.tokenizers
    largest = max(tokenizers, key=lambda name: tokenizers[name].uint16.largest_id)
    check = tokenizers[largest].uint16
    trains = all(one.uint16.train_text_checked for one in tokenizers.values())
    where = "the validation and training texts" if trains else "the validation texts"
    limit = format_int(check.largest_uint16)
    if not all(one.uint16.fits_uint16 for one in tokenizers.values()):
        return f"16 bits do not suffice in this study: ids go up to {format_int(check.largest_id)}, beyond {limit}."
    sizes = sorted({one.vocab_size for one in tokenizers.values()})
    return (
        f"16 bits suffice: the largest id seen in {where} is "
        f"{format_int(check.largest_id)}, no vocabulary has more than "
        f"{format_int(sizes[-1])} ids, and an unsigned 16-bit integer holds up to {limit}, "
        "in half the bytes of 32 bits."
    )


def round_trip_sentence(compared: TokenizerEvaluation) -> str:
    """Report if decoding gave back what was encoded."""
    failed = [f"{row.tokenizer} on {row.corpus}" for row in compared.compression if not row.round_trip]
    if failed:
        return f"Decoding did NOT give back the bytes of every sampled document: {join_words(failed)}."
    return "Decoding gave back every sampled document byte for byte, with every tokenizer."


def cross_table(compared: TokenizerEvaluation) -> Table:
    """Bytes per token on the whole validation split: a row for each text, a column for each tokenizer."""
    ratios = {(row.corpus, row.tokenizer): row.valid_bytes_per_token for row in compared.compression}
    tokenizers = compared.tokenizers
    rows = [[f"text of {corpus}", *(ratios[corpus, name] for name in tokenizers)] for corpus in compared.corpora]
    columns = [f"tokenizer {name} ({format_int(one.vocab_size)} ids)" for name, one in tokenizers.items()]
    return Table(
        "Bytes per token of every text by every tokenizer, on the whole validation split.", ["", *columns], rows
    )


def compression_table(compared: TokenizerEvaluation) -> Table:
    """Bytes per token of every tokenizer on every corpus."""
    keys = ("corpus", "tokenizer", "sample_bytes_per_token", "sample_tokens", "valid_bytes_per_token", "valid_tokens")
    rows = [[getattr(row, key) for key in keys] for row in compared.compression]
    columns = ["text", "tokenizer", "bytes per token, sample", "tokens", "bytes per token, whole split", "tokens there"]
    return Table("Compression of every corpus by every tokenizer", columns, rows)


def throughput_table(compared: TokenizerEvaluation) -> Table:
    """Return the encoding speed and the time for The Pile."""
    rows = [
        [
            name,
            one.corpus,
            one.throughput.bytes,
            sorted(one.throughput.seconds)[len(one.throughput.seconds) // 2],
            one.throughput.bytes_per_second,
            one.pile_seconds / 3600,
        ]
        for name, one in compared.tokenizers.items()
    ]
    columns = ["tokenizer", "text", "bytes", "seconds (median)", "bytes per second", "hours for The Pile"]
    return Table("Encoding speed in one process", columns, rows)


def ids_table(compared: TokenizerEvaluation) -> Table:
    """Return the largest ids beside what 16 bits hold."""
    keys = ("largest_id", "largest_uint16", "fits_uint16")
    rows = [
        [name, one.vocab_size, *(getattr(one.uint16, key) for key in keys)] for name, one in compared.tokenizers.items()
    ]
    columns = ["tokenizer", "vocabulary", "largest id seen", "largest uint16", "16 bits suffice"]
    return Table("Why 16 bits suffice for token ids", columns, rows)


def compression_plot(compared: TokenizerEvaluation) -> Plot:
    """Bytes per token on the sampled documents: a group of bars for each corpus, a bar for each tokenizer."""
    corpora, tokenizers = list(compared.corpora), list(compared.tokenizers)
    found = {(row.tokenizer, row.corpus): row.sample_bytes_per_token for row in compared.compression}
    groups = {f"tokenizer {name}": [found.get((name, corpus)) for corpus in corpora] for name in tokenizers}
    labels = [f"text of {corpus}" for corpus in corpora]
    best = join_words([f"{max((found[name, text], name) for name in tokenizers)[1]} on {text}" for text in corpora])
    return Plot(
        PLOT,
        "Bytes per token in the sampled documents of each corpus, with each tokenizer (more is better compressed).",
        f"Bars of bytes per token; the best tokenizer is {best}.",
        BarPlot("Compression by tokenizer and text", "bytes per token", labels, groups),
    )
