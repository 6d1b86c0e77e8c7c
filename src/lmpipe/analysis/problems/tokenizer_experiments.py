"""Problem tokenizer_experiments: compression on every corpus, throughput, the time for The Pile, and 16-bit ids."""

from statistics import median

from pydantic import JsonValue

from lmpipe.analysis.finding import Figure, Finding, Line, Lines, Metric, Table, missing
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.io.formatting import format_command, format_int
from lmpipe.study.labels import corpus_label
from lmpipe.tokenizer.documents import Compression, TokenizerEvaluation

ID = "tokenizer_experiments"
SOURCE = "tokenizer_experiments.json"
# Roles of the corpora whose tokenizer's speed is extrapolated to The Pile, in the order of the write-up.
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
        facts=facts_of(results, evaluation),
        tables=[cross_table(evaluation), compression_table(evaluation), tokenizers_table(evaluation)],
        figures=[Figure("compression", compression_figure(results, evaluation))],
        reason="" if complete else "this study lacks a corpus in one of the two places",
    )  # fmt: skip


def facts_of(results: Results, evaluation: TokenizerEvaluation) -> dict[str, JsonValue]:
    """Return the names in the answer, the loss of a foreign tokenizer, and the failures of the round trip."""
    names = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    tokenizer = pile_tokenizer(results, evaluation)
    profile = evaluation.tokenizers[tokenizer]
    timed_bytes, (merges, bytes_per_token) = profile.throughput.bytes, list(profile.compression_by_merges.items())[-1]
    return {
        **names,
        "own": [
            {"corpus": row.corpus, "bytes_per_token": row.valid_bytes_per_token}
            for row in evaluation.compression
            if row.tokenizer == row.corpus
        ],
        "timed_tokenizer": tokenizer,
        "timed_bytes": timed_bytes,
        "pile_factor": evaluation.pile_bytes / timed_bytes,
        "vocab_size": max(profile.vocab_size for profile in evaluation.tokenizers.values()),
        "merges": int(merges),
        "bytes_per_token": bytes_per_token,
        "not_restored": [f"{row.tokenizer} on {row.corpus}" for row in evaluation.compression if not row.round_trip],
    }


def ratios_by_role(results: Results, evaluation: TokenizerEvaluation) -> dict[tuple[str, str], Compression | None]:
    """Return the rows of the corpora in the two roles, by (role of the corpus, role of its own tokenizer)."""
    names = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    rows = {(row.corpus, row.tokenizer): row for row in evaluation.compression}
    return {
        (text, tokens): rows.get((names[text], names[tokens])) for text in ROLE_DATASETS for tokens in ROLE_DATASETS
    }


def ratio_metrics(ratios: dict[tuple[str, str], Compression | None]) -> dict[str, Metric]:
    """Return bytes per token on the whole validation split, and the growth of a text by the other tokenizer."""
    metrics = {}
    for (text, tokens), row in ratios.items():
        own, reason = ratios[text, text], "" if row else "this study lacks a corpus in one of the two places"
        ratio = row and row.valid_bytes_per_token
        name = "own" if text == tokens else f"by_{tokens}"
        metrics[f"bytes_per_token_{text}_{name}"] = Metric(ratio, "bytes per token", SOURCE, missing_reason=reason)
        if text != tokens:
            growth = own.valid_bytes_per_token / ratio - 1 if row and own else None
            metrics[f"growth_{text}_{name}"] = Metric(growth, "share of the tokens", SOURCE, missing_reason=reason)
    return metrics


def pile_tokenizer(results: Results, evaluation: TokenizerEvaluation) -> str:
    """Return the tokenizer whose speed is extrapolated to The Pile: the web corpus's, or the simple one's.

    A study with neither has the fastest of the others.
    """
    tokenizers = evaluation.tokenizers
    corpora = [results.corpus_in_role(role) for role in THE_PILE_ROLES]
    fastest = max(tokenizers, key=lambda name: tokenizers[name].throughput.bytes_per_second)
    return next((corpus for corpus in corpora if corpus in tokenizers), fastest)


def speed_metrics(results: Results, evaluation: TokenizerEvaluation) -> dict[str, Metric]:
    """Return the throughput of that tokenizer, and the time in which it would encode The Pile."""
    tokenizer = evaluation.tokenizers[pile_tokenizer(results, evaluation)]
    return {
        "throughput_bytes_per_second": Metric(tokenizer.throughput.bytes_per_second, "bytes per second", SOURCE),
        "pile_hours": Metric(tokenizer.pile_seconds / 3600, "h", SOURCE),
    }


def id_metrics(evaluation: TokenizerEvaluation) -> dict[str, Metric]:
    """Return the largest id seen in any text, and whether 16 bits hold all."""
    profiles = evaluation.tokenizers.values()
    largest = max(profile.largest_id for profile in profiles)
    num_ids = max(largest + 1, *(profile.vocab_size for profile in profiles))
    return {
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
    columns = [
        "tokenizer",
        "ids",
        "bytes timed",
        "seconds",
        "bytes per second",
        "hours for The Pile",
        "largest id seen",
    ]
    return Table("Encoding in one process with an empty cache", columns, rows)


def compression_figure(results: Results, evaluation: TokenizerEvaluation) -> Lines:
    """Return bytes per token of each corpus by its own tokenizer against the number of its first merges."""
    lines = []
    for corpus in filter(evaluation.tokenizers.get, evaluation.corpora):
        by_merges = evaluation.tokenizers[corpus].compression_by_merges
        points = {int(merges): ratio for merges, ratio in by_merges.items() if int(merges)}
        lines.append(Line(corpus_label(results.study, corpus), corpus, list(points), list(points.values())))
    return Lines("merges", "bytes per token", lines, log_x=True)
