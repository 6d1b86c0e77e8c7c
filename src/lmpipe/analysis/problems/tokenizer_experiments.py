"""Problem tokenizer_experiments: compression on every corpus, throughput, the time for The Pile, and 16-bit ids."""

from collections.abc import Mapping
from itertools import product
from statistics import median

from pydantic import JsonValue

from lmpipe.analysis.finding import Figure, Finding, Line, Lines, Metric, Table, missing, optional_metric
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.io.formatting import format_int
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import RELATIVE
from lmpipe.tokenizer.documents import TokenizerEvaluation

ID = "tokenizer_experiments"
SOURCE = str(RELATIVE.tokenizer_evaluation)
NO_CORPUS = "this study lacks a corpus in one of the two places"


def analyze(results: Results) -> Finding:
    """Return the compression ratios, the throughput, and the storage of token ids."""
    evaluation = results.document(TokenizerEvaluation, SOURCE)
    if evaluation is None:
        return missing(f"The tokenizers have not been compared; run {results.command(results.folder / SOURCE)}.")
    corpora = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    timed = timed_tokenizer(evaluation, corpora)
    ratios = ratio_metrics(evaluation, corpora)
    is_complete = all(metric.value is not None for metric in ratios.values())
    return Finding(
        "answered" if is_complete else "partial",
        metrics=ratios | speed_and_id_metrics(evaluation, timed),
        facts=corpora | facts_of(evaluation, timed),
        tables=[cross_table(evaluation), compression_table(evaluation), tokenizers_table(evaluation)],
        figures=[Figure("compression", compression_figure(results, evaluation))],
        reason="" if is_complete else NO_CORPUS,
    )


def timed_tokenizer(evaluation: TokenizerEvaluation, corpora: Mapping[str, str | None]) -> str:
    """Return the tokenizer whose speed is extrapolated to The Pile: the web corpus's, or the simple one's.

    A study with neither has the fastest of the others.
    """
    tokenizers = evaluation.tokenizers
    fastest = max(tokenizers, key=lambda name: tokenizers[name].throughput.bytes_per_second)
    return next((corpora[role] for role in ("web", "simple") if corpora[role] in tokenizers), fastest)


def facts_of(evaluation: TokenizerEvaluation, timed: str) -> dict[str, JsonValue]:
    """Return the names in the answer, the loss of a foreign tokenizer, and the failures of the round trip."""
    profile = evaluation.tokenizers[timed]
    merges, bytes_per_token = list(profile.compression_by_merges.items())[-1]
    return {
        "own": [
            {"corpus": row.corpus, "bytes_per_token": row.valid_bytes_per_token}
            for row in evaluation.compression
            if row.tokenizer == row.corpus
        ],
        "timed_tokenizer": timed,
        "timed_bytes": profile.throughput.bytes,
        "pile_factor": evaluation.pile_bytes / profile.throughput.bytes,
        "vocab_size": max(profile.vocab_size for profile in evaluation.tokenizers.values()),
        "merges": int(merges),
        "bytes_per_token": bytes_per_token,
        "not_restored": [f"{row.tokenizer} on {row.corpus}" for row in evaluation.compression if not row.round_trip],
    }


def ratio_metrics(evaluation: TokenizerEvaluation, corpora: Mapping[str, str | None]) -> dict[str, Metric]:
    """Return bytes per token on the whole validation split, and the growth of a text by the other role's tokenizer."""
    ratios = {(row.corpus, row.tokenizer): row.valid_bytes_per_token for row in evaluation.compression}
    metrics = {}
    for text, tokens in product(corpora, repeat=2):
        ratio, own = ratios.get((corpora[text], corpora[tokens])), ratios.get((corpora[text], corpora[text]))
        name = "own" if text == tokens else f"by_{tokens}"
        metrics[f"bytes_per_token_{text}_{name}"] = optional_metric(ratio, "bytes per token", SOURCE, NO_CORPUS)
        if text != tokens:
            growth = own / ratio - 1 if ratio and own else None
            metrics[f"growth_{text}_{name}"] = optional_metric(growth, "share of the tokens", SOURCE, NO_CORPUS)
    return metrics


def speed_and_id_metrics(evaluation: TokenizerEvaluation, timed: str) -> dict[str, Metric]:
    """Return throughput, time to encode The Pile, the largest id seen in any text, and if 16 bits hold all."""
    profiles, tokenizer = evaluation.tokenizers.values(), evaluation.tokenizers[timed]
    largest = max(profile.largest_id for profile in profiles)
    num_ids = max(largest + 1, *(profile.vocab_size for profile in profiles))
    return {
        "throughput_bytes_per_second": Metric(tokenizer.throughput.bytes_per_second, "bytes per second", SOURCE),
        "pile_hours": Metric(tokenizer.pile_seconds / 3600, "h", SOURCE),
        "largest_id": Metric(largest, "", SOURCE),
        "uint16_suffices": Metric(num_ids <= 1 << 16, "", SOURCE),
        "round_trip": Metric(all(row.round_trip for row in evaluation.compression), "", SOURCE),
    }


def cross_table(evaluation: TokenizerEvaluation) -> Table:
    """Return bytes per token on the whole validation split: a row for each text, a column for each tokenizer."""
    ratios = {(row.corpus, row.tokenizer): row.valid_bytes_per_token for row in evaluation.compression}
    tokenizers = evaluation.tokenizers
    rows = [[f"text of {corpus}", *(ratios[corpus, name] for name in tokenizers)] for corpus in evaluation.corpora]
    columns = [f"tokenizer {name} ({format_int(tokenizer.vocab_size)} ids)" for name, tokenizer in tokenizers.items()]
    return Table("Bytes per token on the whole validation split", ["", *columns], rows)


def compression_table(evaluation: TokenizerEvaluation) -> Table:
    """Return the tokens of the validation split and of the sampled documents, which have no delimiters."""
    keys = ("corpus", "tokenizer", "valid_tokens", "sample_tokens", "sample_bytes_per_token")
    rows = [[getattr(row, key) for key in keys] for row in evaluation.compression]
    columns = ["text", "tokenizer", "tokens", "tokens of sampled documents", "their bytes per token"]
    return Table("Tokens of the validation split and of sampled documents", columns, rows)


def tokenizers_table(evaluation: TokenizerEvaluation) -> Table:
    """Return the encoding speed of each tokenizer, the time for The Pile, and the largest id."""
    rows = [
        [name, profile.vocab_size, profile.throughput.bytes, median(profile.throughput.seconds),
         profile.throughput.bytes_per_second, profile.pile_seconds / 3600, profile.largest_id]
        for name, profile in evaluation.tokenizers.items()
    ]  # fmt: skip
    columns = ["tokenizer", "ids", "bytes timed", "seconds", "bytes per second", "hours for The Pile"]
    columns += ["largest id seen"]
    return Table("Encoding in one process with an empty cache", columns, rows)


def compression_figure(results: Results, evaluation: TokenizerEvaluation) -> Lines:
    """Return bytes per token of each corpus by its own tokenizer against the number of its first merges."""
    lines = []
    for corpus in filter(evaluation.tokenizers.get, evaluation.corpora):
        by_merges = evaluation.tokenizers[corpus].compression_by_merges
        points = {int(merges): ratio for merges, ratio in by_merges.items() if int(merges)}
        lines.append(Line(corpus_label(results.study, corpus), corpus, list(points), list(points.values())))
    return Lines("merges", "bytes per token", lines, log_x=True)
