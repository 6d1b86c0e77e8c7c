"""Training of a tokenizer: cost, stages and longest tokens, for both problems on it."""

from collections.abc import Sequence
from math import log
from statistics import linear_regression

from pydantic import JsonValue

from lmpipe.analysis.finding import Bars, Figure, Finding, Line, Lines, Metric, Table, missing
from lmpipe.analysis.problems.write_up_comparison import stand_in_for
from lmpipe.analysis.results import ROLE_DATASETS, Results
from lmpipe.io.formatting import format_command
from lmpipe.study.labels import corpus_label
from lmpipe.tokenizer.documents import (
    LongToken,
    TokenizerEvaluation,
    TokenizerTraining,
    VocabularyOverlap,
    VocabularyProfile,
)

COMPARISON = "tokenizer_experiments.json"
STAGES = {"count": "counting pre-tokens", "merge": "merging pairs", "save": "saving the files"}
# The write-up's training texts: bytes, and unique pre-tokens (counted in full).
FULL_TEXTS = {"simple": (2_227_753_162, 59_933), "web": (11_920_511_059, 6_602_749)}
WORDS = ("word", "joined words")
MAX_EXAMPLES = 3


def analyze_training(results: Results, role: str) -> Finding:
    """Return the finding on the own tokenizer of the corpus in a role (`simple` or `web`)."""
    corpus, text = results.corpus_in_role(role), ROLE_DATASETS[role]
    if corpus is None:
        return missing(f"No corpus of this study stands for {text}; give one of them `stands_for: {text}`.")
    source = f"tokenizers/{corpus}/training.json"
    training = results.document(TokenizerTraining, source)
    if training is None:
        return missing(f"The tokenizer of {corpus} has not been trained; run {format_command('tokenizers')}.")
    evaluation = read_evaluation(results)
    profile = evaluation.tokenizers.get(corpus) if evaluation else None
    tokens = profile.longest_tokens if profile else ()
    facts = {
        "corpus": corpus,
        "full_text": text,
        "is_stand_in": stand_in_for(results, corpus) is not None,
        "requested_vocab_size": results.study.corpora[corpus].tokenizer.vocab_size,
        "slowest_stage": STAGES[max(dict(training.stages), key=lambda stage: stage_seconds(training)[stage])],
    }
    return Finding(
        "answered" if profile else "partial",
        metrics=cost_metrics(training, source) | extrapolation(training, source, role) | longest_metrics(profile),
        facts=facts | longest_facts(tokens),
        tables=[stages_table(training), *([longest_table(tokens)] if tokens else [])],
    )


def read_evaluation(results: Results) -> TokenizerEvaluation | None:
    """Return the evaluation of tokenizers; None if it does not exist."""
    return results.document(TokenizerEvaluation, COMPARISON)


def stage_seconds(training: TokenizerTraining) -> dict[str, float]:
    """Return the seconds of each stage."""
    return {stage: cost.wall_seconds for stage, cost in training.stages}


def cost_metrics(training: TokenizerTraining, source: str) -> dict[str, Metric]:
    """Return time, memory, speed and size of the training; no time includes the compilation of kernels."""
    seconds = stage_seconds(training)
    stages = {f"{stage}_wall_seconds": Metric(value, "s", source) for stage, value in seconds.items()}
    slowest = max(seconds.values()) / training.wall_seconds
    return {
        "wall_seconds": Metric(training.wall_seconds, "s", source),
        "compile_seconds": Metric(training.compile_seconds, "s", source),
        "peak_memory_bytes": Metric(training.peak_memory_bytes, "bytes", source),
        "bytes_per_second": Metric(training.bytes / training.wall_seconds, "bytes per second", source),
        "slowest_stage_share": Metric(slowest, "share of the time", source),
        "vocab_size": Metric(training.vocab_size, "ids", source),
        "merges": Metric(training.merges, "merges", source),
        "text_bytes": Metric(training.bytes, "bytes", source),
        "pretokens": Metric(training.pretokens, "pre-tokens", source),
        "unique_pretokens": Metric(training.unique_pretokens, "pre-tokens", source),
        **stages,
    }


def longest_metrics(profile: VocabularyProfile | None) -> dict[str, Metric]:
    """Return the longest token and its length; undefined without merges or without the comparison."""
    tokens = profile.longest_tokens if profile else ()
    reason = "" if tokens else "no tokens were merged" if profile else "the tokenizers were not compared"
    longest = tokens[0] if tokens else None
    values = {
        "longest_token": (longest and longest.text, ""),
        "longest_token_bytes": (longest and longest.bytes, "bytes"),
        "longest_token_occurrences": (longest and longest.occurrences, "occurrences"),
    }
    return {name: Metric(value, unit, COMPARISON, missing_reason=reason) for name, (value, unit) in values.items()}


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
    text_bytes, unique = FULL_TEXTS[role]
    if not training.bytes or not training.unique_pretokens:
        return {"full_text_seconds": Metric(None, "s", source, missing_reason="there was no text")}
    factor = text_bytes / training.bytes
    counting = training.stages.count.wall_seconds * factor
    merging = training.stages.merge.wall_seconds * unique / training.unique_pretokens
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


def overlap_of(results: Results) -> VocabularyOverlap | None:
    """Return the overlap of the simple and the web corpus's vocabulary; None if they were not compared."""
    evaluation, roles = read_evaluation(results), {results.corpus_in_role(role) for role in ROLE_DATASETS}
    overlaps = evaluation.overlaps if evaluation else ()
    return next((overlap for overlap in overlaps if {overlap.first, overlap.second} == roles), None)


def comparison_metrics(results: Results) -> dict[str, Metric]:
    """Return metrics of how the two vocabularies differ; none if they were not compared or share no token."""
    overlap = overlap_of(results)
    if overlap is None or not overlap.shared:
        return {}
    metrics = {"shared_tokens": Metric(overlap.shared, "tokens", COMPARISON)}
    for role in ROLE_DATASETS:
        profile = read_evaluation(results).tokenizers[results.corpus_in_role(role)]
        metrics |= {
            f"share_of_{role}_shared": Metric(overlap.shared / profile.merges, "share", COMPARISON),
            f"mean_token_bytes_{role}": Metric(profile.mean_length, "bytes", COMPARISON),
        }
    return metrics


def zipf_exponents(results: Results) -> dict[str, Metric]:
    """Return the slope of log frequency against log rank on each corpus's validation text, by least squares."""
    slopes = {}
    for role in ROLE_DATASETS:
        frequencies = own_frequencies(results).get(results.corpus_in_role(role), {})
        if len(frequencies) > 1:
            ranks, counts = ([log(float(value)) for value in values] for values in (frequencies, frequencies.values()))
            slopes[f"zipf_exponent_{role}"] = Metric(linear_regression(ranks, counts).slope, "", COMPARISON)
    return slopes


def own_frequencies(results: Results) -> dict[str, dict[str, int]]:
    """Return the frequencies by rank of the tokens of each tokenizer in the validation text of its corpus."""
    evaluation = read_evaluation(results)
    rows = evaluation.compression if evaluation else ()
    return {row.tokenizer: row.frequencies for row in rows if row.in_domain}


def comparison_facts(results: Results) -> dict[str, JsonValue]:
    """Return the earliest merges that only one of the two vocabularies has."""
    overlap = overlap_of(results)
    only = {overlap.first: overlap.only_first, overlap.second: overlap.only_second} if overlap else {}
    names = {role: results.corpus_in_role(role) for role in ROLE_DATASETS}
    return {
        "corpora": list(names.values()),
        **{f"only_{role}": list(only.get(name, ())[:MAX_EXAMPLES]) for role, name in names.items()},
    }


def profiles_in_roles(results: Results) -> dict[str, VocabularyProfile]:
    """Return the vocabularies of the corpora in the two roles that were evaluated."""
    evaluation = read_evaluation(results)
    names = filter(None, map(results.corpus_in_role, ROLE_DATASETS))
    return {name: evaluation.tokenizers[name] for name in names if evaluation and name in evaluation.tokenizers}


def comparison_figures(results: Results) -> list[Figure]:
    """Return the token lengths of the vocabularies, and the frequencies of their tokens by rank."""
    profiles = profiles_in_roles(results)
    if not profiles:
        return []
    longest = max((int(length) for profile in profiles.values() for length in profile.lengths), default=1)
    lengths = range(2, longest + 1)
    groups = {
        corpus_label(results.study, name): [profile.lengths.get(str(n), 0) for n in lengths]
        for name, profile in profiles.items()
    }
    bars = Bars("merged tokens", [str(length) for length in lengths], groups)
    lines = [
        Line(corpus_label(results.study, name), name, list(map(int, frequencies)), list(frequencies.values()))
        for name, frequencies in own_frequencies(results).items()
        if name in profiles
    ]
    zipf = Lines("rank of the token", "occurrences", lines, log_x=True, log_y=True)
    return [Figure("token_lengths", bars), *([Figure("zipf", zipf)] if lines else [])]


def kinds_table(results: Results) -> list[Table]:
    """Return the number of merged tokens by kind in both vocabularies."""
    profiles = profiles_in_roles(results)
    kinds = dict.fromkeys(kind for profile in profiles.values() for kind in profile.kinds)
    rows = [[kind, *(profile.kinds.get(kind, 0) for profile in profiles.values())] for kind in kinds]
    return [Table("Merged tokens by kind", ["kind", *profiles], rows)] if len(profiles) > 1 else []
