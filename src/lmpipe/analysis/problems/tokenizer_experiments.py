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
# Roles of the corpora whose tokenizer's speed is extrapolated to The Pile, in the order of write_up.json.
THE_PILE_ROLES = ("web", "simple")


def analyze(results: Results) -> Finding:
    """Return the compression ratios, the throughput, and the storage of token ids."""
    evaluation = results.document(TokenizerEvaluation, SOURCE)
    if evaluation is None:
        return missing(f"The tokenizers have not been compared; run {format_command(results.folder / SOURCE)}.")
    ratios = ratios_by_role(results, evaluation)
    complete = all(row is not None for row in ratios.values())
    return Finding(
        "answered" if complete else "partial",
        metrics=ratio_metrics(ratios) | speed_metrics(results, evaluation) | id_metrics(evaluation),
        sentences=[
            short_answer(results, evaluation, ratios),
            *foreign_sentences(evaluation, ratios),
            sample_sentence(evaluation),
            *throughput_sentences(evaluation),
            uint16_sentence(evaluation),
            round_trip_sentence(evaluation),
        ],
        tables=[
            cross_table(evaluation),
            compression_table(evaluation),
            throughput_table(evaluation),
            ids_table(evaluation),
        ],
        plots=[compression_plot(evaluation)],
    )


def ratios_by_role(results: Results, evaluation: TokenizerEvaluation) -> dict[tuple[str, str], Compression | None]:
    """Return the rows of the corpora in the two roles, by (role of the corpus, role of its own tokenizer)."""
    names = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    rows = {(row.corpus, row.tokenizer): row for row in evaluation.compression}
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


def fastest(evaluation: TokenizerEvaluation) -> str:
    """Return the tokenizer that encoded its own corpus's text with the most bytes per second."""
    tokenizers = evaluation.tokenizers
    return max(tokenizers, key=lambda name: tokenizers[name].throughput.bytes_per_second)


def pile_tokenizer(results: Results, evaluation: TokenizerEvaluation) -> str:
    """Return the tokenizer whose speed is extrapolated to The Pile: the web corpus's, or the simple one's.

    A study with neither has the fastest of the others.
    """
    tokenizers = evaluation.tokenizers
    corpora = [results.corpus_in_role(role) for role in THE_PILE_ROLES]
    return next((corpus for corpus in corpora if corpus in tokenizers), None) or fastest(evaluation)


def speed_metrics(results: Results, evaluation: TokenizerEvaluation) -> dict[str, Metric]:
    """Return the throughput of that tokenizer, and the time in which it would encode The Pile."""
    tokenizer = evaluation.tokenizers[pile_tokenizer(results, evaluation)]
    return {
        "throughput_bytes_per_second": Metric(tokenizer.throughput.bytes_per_second, "bytes per second", SOURCE),
        "pile_hours": Metric(tokenizer.pile_seconds / 3600, "h", SOURCE),
    }


def id_metrics(evaluation: TokenizerEvaluation) -> dict[str, Metric]:
    """Return the largest id seen in any text, and whether 16 bits hold all."""
    checks = [tokenizer.uint16 for tokenizer in evaluation.tokenizers.values()]
    return {
        "largest_id": Metric(max(check.largest_id for check in checks), "", SOURCE),
        "uint16_suffices": Metric(all(check.fits_uint16 for check in checks), "", SOURCE),
        "round_trip": Metric(all(row.round_trip for row in evaluation.compression), "", SOURCE),
    }


def short_answer(
    results: Results, evaluation: TokenizerEvaluation, ratios: dict[tuple[str, str], Compression | None]
) -> str:
    """Each corpus's own ratio, the throughput and the time for The Pile."""
    rows = [row for text in ROLE_DATASETS if (row := ratios[text, text])] or [
        r for r in evaluation.compression if r.in_domain
    ]
    ratios_text = join_words(
        [f"{format_number(row.sample_bytes_per_token)} bytes of {describe_corpus(results, row.corpus)}" for row in rows]
    )
    name = pile_tokenizer(results, evaluation)
    tokenizer = evaluation.tokenizers[name]
    rate = tokenizer.throughput.bytes_per_second
    return (
        f"In the sampled documents a token of the corpus's own tokenizer stands for {ratios_text}; "
        f"the tokenizer of {name} encodes {format_bytes(rate)} of {tokenizer.corpus} a second, "
        f"at which The Pile would take {hours_text(tokenizer.pile_seconds)}."
    )


def hours_text(seconds: float) -> str:
    """Return a duration in hours, the handout's unit."""
    return f"{format_number(seconds / 3600)} hours"


def foreign_sentences(evaluation: TokenizerEvaluation, ratios: dict[tuple[str, str], Compression | None]) -> list[str]:
    """Describe the compression of each corpus by the other one's tokenizer."""
    sentences = []
    for text, tokens in (("web", "simple"), ("simple", "web")):
        row, own_row = ratios[text, tokens], ratios[text, text]
        if row is None or own_row is None:
            continue
        ratio, own_ratio = row.sample_bytes_per_token, own_row.sample_bytes_per_token
        change = own_ratio / ratio - 1
        effect = f"so the text becomes {format_percent(abs(change))} {'longer' if change > 0 else 'shorter'} in tokens"
        foreign_size, own_size = (
            format_int(evaluation.tokenizers[name].vocab_size) for name in (row.tokenizer, own_row.tokenizer)
        )
        sentences.append(
            f"The tokenizer of {row.tokenizer} ({foreign_size} ids) makes {format_number(ratio)} bytes per token of "
            f"{row.corpus}, whose own ({own_size} ids) makes {format_number(own_ratio)}: {effect}."
        )
    return sentences


def sample_sentence(evaluation: TokenizerEvaluation) -> str:
    """Describe the sample of documents."""
    samples = join_words(
        [
            f"{corpus_sample.documents} documents of {corpus} ({format_bytes(corpus_sample.bytes)})"
            for corpus, corpus_sample in evaluation.corpora.items()
        ]
    )
    return (
        f"The sample, drawn from the validation splits with seed {evaluation.seed}, is {samples}; the table gives the "
        "ratios of the whole splits, too, where each delimiter counts as one token and its bytes."
    )


def throughput_sentences(evaluation: TokenizerEvaluation) -> list[str]:
    """Describe the measured speed, and the time for The Pile at this speed."""
    rates = [
        f"{format_bytes(tokenizer.throughput.bytes_per_second)} a second for {name} "
        f"({format_bytes(tokenizer.throughput.bytes)} of its training text, "
        f"{format_seconds(min(tokenizer.throughput.seconds))} to {format_seconds(max(tokenizer.throughput.seconds))})"
        for name, tokenizer in evaluation.tokenizers.items()
    ]
    times = join_words(
        [f"{hours_text(tokenizer.pile_seconds)} with {name}" for name, tokenizer in evaluation.tokenizers.items()]
    )
    return [
        f"Encoding in one process with an empty cache ran at {join_words(rates)}, each the median of several passes.",
        f"At this speed The Pile ({format_bytes(evaluation.pile_bytes)}) would take {times}, if its text is like the "
        "text measured.",
    ]


def uint16_sentence(evaluation: TokenizerEvaluation) -> str:
    """Compare the largest id with the largest 16-bit integer."""
    tokenizers = evaluation.tokenizers
    largest = max(tokenizers, key=lambda name: tokenizers[name].uint16.largest_id)
    check = tokenizers[largest].uint16
    includes_train = all(tokenizer.uint16.train_text_checked for tokenizer in tokenizers.values())
    texts = "the validation and training texts" if includes_train else "the validation texts"
    limit = format_int(check.largest_uint16)
    if not all(tokenizer.uint16.fits_uint16 for tokenizer in tokenizers.values()):
        return f"16 bits do not suffice in this study: ids go up to {format_int(check.largest_id)}, beyond {limit}."
    sizes = sorted({tokenizer.vocab_size for tokenizer in tokenizers.values()})
    return (
        f"16 bits suffice: the largest id seen in {texts} is "
        f"{format_int(check.largest_id)}, no vocabulary has more than "
        f"{format_int(sizes[-1])} ids, and an unsigned 16-bit integer holds up to {limit}, "
        "in half the bytes of 32 bits."
    )


def round_trip_sentence(evaluation: TokenizerEvaluation) -> str:
    """Report if decoding restored the encoded text."""
    failed = [f"{row.tokenizer} on {row.corpus}" for row in evaluation.compression if not row.round_trip]
    if failed:
        return f"Decoding did NOT give back the bytes of every sampled document: {join_words(failed)}."
    return "Decoding gave back every sampled document byte for byte, with every tokenizer."


def cross_table(evaluation: TokenizerEvaluation) -> Table:
    """Bytes per token on the whole validation split: a row for each text, a column for each tokenizer."""
    ratios = {(row.corpus, row.tokenizer): row.valid_bytes_per_token for row in evaluation.compression}
    tokenizers = evaluation.tokenizers
    rows = [[f"text of {corpus}", *(ratios[corpus, name] for name in tokenizers)] for corpus in evaluation.corpora]
    columns = [f"tokenizer {name} ({format_int(tokenizer.vocab_size)} ids)" for name, tokenizer in tokenizers.items()]
    return Table(
        "Bytes per token of every text by every tokenizer, on the whole validation split.", ["", *columns], rows
    )


def compression_table(evaluation: TokenizerEvaluation) -> Table:
    """Bytes per token of every tokenizer on every corpus."""
    keys = ("corpus", "tokenizer", "sample_bytes_per_token", "sample_tokens", "valid_bytes_per_token", "valid_tokens")
    rows = [[getattr(row, key) for key in keys] for row in evaluation.compression]
    columns = ["text", "tokenizer", "bytes per token, sample", "tokens", "bytes per token, whole split", "tokens there"]
    return Table("Compression of every corpus by every tokenizer", columns, rows)


def throughput_table(evaluation: TokenizerEvaluation) -> Table:
    """Return the encoding speed and the time for The Pile."""
    rows = [
        [
            name,
            tokenizer.corpus,
            tokenizer.throughput.bytes,
            sorted(tokenizer.throughput.seconds)[len(tokenizer.throughput.seconds) // 2],
            tokenizer.throughput.bytes_per_second,
            tokenizer.pile_seconds / 3600,
        ]
        for name, tokenizer in evaluation.tokenizers.items()
    ]
    columns = ["tokenizer", "text", "bytes", "seconds (median)", "bytes per second", "hours for The Pile"]
    return Table("Encoding speed in one process", columns, rows)


def ids_table(evaluation: TokenizerEvaluation) -> Table:
    """Return the largest ids beside the largest 16-bit integer."""
    keys = ("largest_id", "largest_uint16", "fits_uint16")
    rows = [
        [name, tokenizer.vocab_size, *(getattr(tokenizer.uint16, key) for key in keys)]
        for name, tokenizer in evaluation.tokenizers.items()
    ]
    columns = ["tokenizer", "vocabulary", "largest id seen", "largest uint16", "16 bits suffice"]
    return Table("Why 16 bits suffice for token ids", columns, rows)


def compression_plot(evaluation: TokenizerEvaluation) -> Plot:
    """Bytes per token on the sampled documents: a group of bars for each corpus, a bar for each tokenizer."""
    corpora, tokenizers = list(evaluation.corpora), list(evaluation.tokenizers)
    ratios = {(row.tokenizer, row.corpus): row.sample_bytes_per_token for row in evaluation.compression}
    groups = {f"tokenizer {name}": [ratios.get((name, corpus)) for corpus in corpora] for name in tokenizers}
    labels = [f"text of {corpus}" for corpus in corpora]
    best = join_words([f"{max((ratios[name, text], name) for name in tokenizers)[1]} on {text}" for text in corpora])
    return Plot(
        PLOT,
        "Bytes per token in the sampled documents of each corpus, with each tokenizer (more is better compressed).",
        f"Bars of bytes per token; the best tokenizer is {best}.",
        BarPlot("Compression by tokenizer and text", "bytes per token", labels, groups),
    )
