"""Problems train_bpe_tinystories and train_bpe_expts_owt: cost of training a tokenizer, and what it learns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from statistics import linear_regression

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Finding, Line, Lines, Metric, Table, missing, optional_metric
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.study.editions import write_up
from lmpipe.study.labels import corpus_label
from lmpipe.study.paths import RELATIVE
from lmpipe.tokenizer.documents import LongToken, TokenizerEvaluation, TokenizerTraining, VocabularyProfile

COMPARISON = str(RELATIVE.tokenizer_evaluation)
STAGES = {"count": "counting pre-tokens", "merge": "merging pairs", "save": "saving the files"}
WORDS = ("word", "joined words")
MAX_EXAMPLES = 3


def analyze_web(results: Results) -> Finding:
    """Return the finding on the web corpus's tokenizer, and its overlap with the simple one's vocabulary."""
    evaluation = results.document(TokenizerEvaluation, COMPARISON)
    finding = analyze_training(results, "web")
    if finding.status == "missing" or evaluation is None:
        return finding
    corpora = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    profiles = {name: evaluation.tokenizers[name] for name in corpora.values() if name in evaluation.tokenizers}
    frequencies = {row.tokenizer: row.frequencies for row in evaluation.compression if row.in_domain}
    return replace(
        finding,
        metrics=finding.metrics | overlap_metrics(evaluation, corpora) | zipf_exponents(frequencies, corpora),
        facts=finding.facts | {"corpora": list(corpora.values())},
        figures=vocabulary_figures(results, profiles, frequencies),
    )


def analyze_training(results: Results, role: str) -> Finding:
    """Return cost, stages and longest tokens of the own tokenizer of the corpus in a role (`simple` or `web`)."""
    corpus, text = results.corpus_in_role(role), ROLE_DATASETS[role]
    if corpus is None:
        return missing(f"No corpus of this study stands for {text}; give one of them `stands_for: {text}`.")
    source = str(RELATIVE.tokenizer_training(corpus))
    training = results.document(TokenizerTraining, source)
    if training is None:
        return missing(f"The tokenizer of {corpus} has not been trained; run {results.command('tokenizers')}.")
    if training.existing:
        return missing(f"The tokenizer of {corpus} was not trained: it is {training.existing}.")
    evaluation = results.document(TokenizerEvaluation, COMPARISON)
    profile = evaluation.tokenizers.get(corpus) if evaluation else None
    tokens = profile.longest_tokens if profile else ()
    seconds = {stage: cost.wall_seconds for stage, cost in training.stages}
    facts = {
        "corpus": corpus,
        "full_text": text,
        "slowest_stage": STAGES[max(seconds, key=seconds.get)],
    }
    return Finding(
        "answered" if profile else "partial",
        metrics=cost_metrics(training, seconds, source)
        | extrapolation(training, source, role)
        | longest_metrics(profile),
        facts=facts | longest_facts(tokens),
        tables=[stages_table(training), *([longest_table(tokens)] if tokens else [])],
    )


def cost_metrics(training: TokenizerTraining, seconds: dict[str, float], source: str) -> dict[str, Metric]:
    """Return time, memory, speed and size of the training; no time includes the compilation of kernels."""
    return {
        "wall_seconds": Metric(training.wall_seconds, "s", source),
        "compile_seconds": Metric(training.compile_seconds, "s", source),
        "peak_memory_bytes": Metric(training.peak_memory_bytes, "bytes", source),
        "bytes_per_second": Metric(training.bytes / training.wall_seconds, "bytes per second", source),
        "slowest_stage_share": Metric(max(seconds.values()) / training.wall_seconds, "share of the time", source),
        "vocab_size": Metric(training.vocab_size, "ids", source),
        "merges": Metric(training.merges, "merges", source),
        "text_bytes": Metric(training.bytes, "bytes", source),
        "pretokens": Metric(training.pretokens, "pre-tokens", source),
        "unique_pretokens": Metric(training.unique_pretokens, "pre-tokens", source),
        **{f"{stage}_wall_seconds": Metric(value, "s", source) for stage, value in seconds.items()},
    }


def longest_metrics(profile: VocabularyProfile | None) -> dict[str, Metric]:
    """Return the longest token and its length; undefined without merges or without the comparison."""
    longest = profile.longest_tokens[0] if profile and profile.longest_tokens else None
    reason = "no tokens were merged" if profile else "the tokenizers were not compared"
    values = {
        "longest_token": (longest and longest.text, ""),
        "longest_token_bytes": (longest and longest.bytes, "bytes"),
        "longest_token_occurrences": (longest and longest.occurrences, "occurrences"),
    }
    return {name: optional_metric(value, unit, COMPARISON, reason) for name, (value, unit) in values.items()}


def longest_facts(tokens: Sequence[LongToken]) -> dict[str, JsonValue]:
    """Return the kinds of the longest tokens, and those that are as long as the longest."""
    odd = [token for token in tokens if token.kind not in WORDS]
    return {
        "num_longest": len(tokens),
        "num_words": len(tokens) - len(odd),
        "odd_kinds": list(dict.fromkeys(token.kind for token in odd)),
        "odd_example": odd[0].text if odd else "",
        "equally_long": [token.text for token in tokens if token.bytes == tokens[0].bytes][:MAX_EXAMPLES],
        "rarest_occurrences": min((token.occurrences for token in tokens), default=0),
    }


def extrapolation(training: TokenizerTraining, source: str, role: str) -> dict[str, Metric]:
    """Return the time for the write-up's text, and the factor: counting by bytes, merging by unique pre-tokens."""
    full_text = write_up().texts[ROLE_DATASETS[role]]
    if not training.bytes or not training.unique_pretokens:
        return {"full_text_seconds": Metric(None, "s", source, missing_reason="there was no text")}
    factor = full_text.train_bytes / training.bytes
    counting = training.stages.count.wall_seconds * factor
    merging = training.stages.merge.wall_seconds * full_text.unique_pretokens / training.unique_pretokens
    return {
        "full_text_seconds": Metric(counting + merging, "s", source),
        "full_text_factor": Metric(factor, "times the bytes", source),
    }


def stages_table(training: TokenizerTraining) -> Table:
    """Return seconds, share of the time and peak memory by stage."""
    total = training.wall_seconds
    rows = [
        [STAGES[stage], cost.wall_seconds, cost.wall_seconds / total, cost.peak_memory_bytes]
        for stage, cost in training.stages
    ]
    rows.append(["in all", total, 1.0, training.peak_memory_bytes])
    return Table("Time and memory by stage", ["stage", "seconds", "share of the time", "peak memory, bytes"], rows)


def longest_table(tokens: Sequence[LongToken]) -> Table:
    """Return the longest tokens, their kinds, and their first occurrences in the training text."""
    columns = ["text", "bytes", "id", "kind", "occurrences", "excerpt"]
    rows = [[getattr(token, key) for key in columns] for token in tokens]
    return Table("Longest tokens, with occurrences in the training text", ["token", *columns[1:]], rows,
                 code_columns=["token"])  # fmt: skip


# --- both vocabularies -----------------------------------------------------------------------------------------------

Corpora = Mapping[str, str | None]  # by role


def overlap_metrics(evaluation: TokenizerEvaluation, corpora: Corpora) -> dict[str, Metric]:
    """Return metrics of how the two vocabularies differ; none if they were not compared or share no token."""
    pairs = {frozenset((overlap.first, overlap.second)): overlap.shared for overlap in evaluation.overlaps}
    shared = pairs.get(frozenset(corpora.values()))
    if not shared:
        return {}
    metrics = {"shared_tokens": Metric(shared, "tokens", COMPARISON)}
    for role, corpus in corpora.items():
        profile = evaluation.tokenizers[corpus]
        metrics |= {
            f"share_of_{role}_shared": Metric(shared / profile.merges, "share", COMPARISON),
            f"mean_token_bytes_{role}": Metric(profile.mean_length, "bytes", COMPARISON),
        }
    return metrics


def zipf_exponents(frequencies: Mapping[str, dict[str, int]], corpora: Corpora) -> dict[str, Metric]:
    """Return the slope of log frequency against log rank on each corpus's validation text, by least squares."""
    slopes = {}
    for role, corpus in corpora.items():
        by_rank = frequencies.get(corpus, {})
        if len(by_rank) > 1:
            ranks, counts = ([log(float(value)) for value in values] for values in (by_rank, by_rank.values()))
            slopes[f"zipf_exponent_{role}"] = Metric(linear_regression(ranks, counts).slope, "", COMPARISON)
    return slopes


def vocabulary_figures(
    results: Results, profiles: Mapping[str, VocabularyProfile], frequencies: Mapping[str, dict[str, int]]
) -> list[Figure]:
    """Return the token lengths of the vocabularies, and the frequencies of their tokens by rank."""
    if not profiles:
        return []
    labels = {name: corpus_label(results.study, name) for name in profiles}
    longest = max((int(length) for profile in profiles.values() for length in profile.lengths), default=1)
    lengths = [str(length) for length in range(2, longest + 1)]
    groups = {labels[name]: [profile.lengths.get(n, 0) for n in lengths] for name, profile in profiles.items()}
    lines = [
        Line(labels[name], name, list(map(int, by_rank)), list(by_rank.values()))
        for name, by_rank in frequencies.items()
        if name in profiles
    ]
    zipf = Lines("rank of the token", "occurrences", lines, log_x=True, log_y=True)
    bars = Bars("merged tokens", lengths, groups, list(profiles))
    return [Figure("token_lengths", bars), *([Figure("zipf", zipf)] if lines else [])]
