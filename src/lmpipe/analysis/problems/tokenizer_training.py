"""Training of a tokenizer: cost, stages and longest tokens, for both problems on it."""

from collections.abc import Sequence

from lmpipe.analysis.finding import Finding, Metric, Table, missing
from lmpipe.analysis.problems.write_up_comparison import ROLE_DATASETS, describe_corpus
from lmpipe.analysis.results import Results
from lmpipe.io.formatting import (
    code_span,
    format_bytes,
    format_command,
    format_int,
    format_number,
    format_percent,
    format_seconds,
    join_words,
)
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
# The other kinds of lmpipe.tokenizer.evaluation.token_kind in a sentence: of one token, and of several.
ODD_KINDS = {
    "number": ("is a number", "are numbers"),
    "punctuation": ("is punctuation", "are punctuation"),
    "repetition": ("repeats a few characters", "repeat a few characters"),
    "white space": ("is white space", "are white space"),
    "mixed": ("mixes letters with other characters", "mix letters with other characters"),
    "mojibake": ("is text read in a wrong encoding (mojibake)", "are text read in a wrong encoding (mojibake)"),
    "not valid UTF-8": ("cuts a character in two", "cut a character in two"),
}
MAX_QUOTED_CHARACTERS = 24


def analyze_training(results: Results, role: str) -> Finding:
    """Return the finding on the own tokenizer of the corpus in a role (`simple` or `web`)."""
    corpus = results.corpus_in_role(role)
    if corpus is None:
        text = ROLE_DATASETS[role]
        return missing(f"No corpus of this study stands for {text}; give one of them `stands_for: {text}`.")
    source = f"tokenizers/{corpus}/training.json"
    training = results.document(TokenizerTraining, source)
    if training is None:
        return missing(f"The tokenizer of {corpus} has not been trained; run {format_command('tokenizers')}.")
    profile = describe(results, corpus)
    return Finding(
        "answered" if profile else "partial",
        metrics=cost_metrics(training, source) | extrapolation(training, source, role) | longest_metrics(profile),
        sentences=[
            short_answer(results, corpus, training, profile),
            *vocabulary_sentences(results, corpus, training),
            stages_sentence(training),
            *extrapolation_sentences(training, source, role),
            *sense_sentences(profile),
        ],
        tables=[stages_table(training), *longest_tables(corpus, profile)],
    )


def describe(results: Results, corpus: str) -> VocabularyProfile | None:
    """Return the evaluation of a corpus's own tokenizer; None if it is missing."""
    evaluation = comparison(results)
    return evaluation.tokenizers.get(corpus) if evaluation else None


def comparison(results: Results) -> TokenizerEvaluation | None:
    """Return the evaluation of tokenizers; None if it does not exist."""
    return results.document(TokenizerEvaluation, COMPARISON)


def cost_metrics(training: TokenizerTraining, source: str) -> dict[str, Metric]:
    """Time, memory and size of the training."""
    stages = {f"{stage}_wall_seconds": Metric(cost.wall_seconds, "s", source) for stage, cost in training.stages}
    return {
        "wall_seconds": Metric(training.wall_seconds, "s", source),
        "peak_memory_bytes": Metric(training.peak_memory_bytes, "bytes", source),
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
    return {
        "longest_token": Metric(longest and longest.text, "", COMPARISON, missing_reason=reason),
        "longest_token_bytes": Metric(longest and longest.bytes, "bytes", COMPARISON, missing_reason=reason),
        "longest_token_occurrences": Metric(
            longest and longest.occurrences, "occurrences", COMPARISON, missing_reason=reason
        ),
    }


def short_answer(results: Results, corpus: str, training: TokenizerTraining, profile: VocabularyProfile | None) -> str:
    """Time, memory and the longest token in one sentence."""
    cost = (
        f"Training the tokenizer of {describe_corpus(results, corpus)} took {format_seconds(training.wall_seconds)} "
        f"and at most {format_bytes(training.peak_memory_bytes)} of memory"
    )
    tokens = profile.longest_tokens if profile else ()
    if not tokens:
        return f"{cost}."
    length = tokens[0].bytes
    equals = [token for token in tokens if token.bytes == length]
    if len(equals) == 1:
        return f"{cost}; its longest token is {quoted(tokens[0].text)} with {length} bytes."
    verb = "are" if len(equals) <= 3 else "include"
    texts = join_words([quoted(token.text) for token in equals[:3]])
    return f"{cost}; its longest tokens, of {length} bytes, {verb} {texts}."


def quoted(text: str) -> str:
    """Return a token as code; a long one is cut."""
    return code_span(text) if len(text) <= MAX_QUOTED_CHARACTERS else code_span(f"{text[:MAX_QUOTED_CHARACTERS]}…")


def vocabulary_sentences(results: Results, corpus: str, training: TokenizerTraining) -> list[str]:
    """Describe the vocabulary, and if the text had too few pairs to fill it."""
    specials = len(training.special_tokens)
    sentence = (
        f"Its {format_int(training.vocab_size)} ids are 256 bytes, {format_int(specials)} special "
        f"{'token' if specials == 1 else 'tokens'} and {format_int(training.merges)} merges, learned from "
        f"{format_bytes(training.bytes)} of text with {format_int(training.pretokens)} pre-tokens, "
        f"{format_int(training.unique_pretokens)} of them different."
    )
    requested_size = results.study.corpora[corpus].tokenizer.vocab_size
    if training.vocab_size >= requested_size:
        return [sentence]
    return [sentence, f"The study asks for {format_int(requested_size)} ids, but the text has no pair left to merge."]


def stages_sentence(training: TokenizerTraining) -> str:
    """Describe the time of each stage."""
    stages, total = dict(training.stages), training.wall_seconds
    slowest = max(stages, key=lambda stage: stages[stage].wall_seconds)
    other_stages = join_words(
        [
            f"{STAGES[stage]} {format_percent(cost.wall_seconds / total)}"
            for stage, cost in stages.items()
            if stage != slowest
        ]
    )
    share = format_percent(stages[slowest].wall_seconds / total)
    return (
        f"The largest part of the time, {share}, went into {STAGES[slowest]}; {other_stages}. "
        f"In all that is {format_bytes(training.bytes / total)} of text a second."
    )


def extrapolation(training: TokenizerTraining, source: str, role: str) -> dict[str, Metric]:
    """Extrapolate to the write-up's text: counting grows with its bytes, merging with its unique pre-tokens."""
    text_bytes, unique = FULL_TEXTS[role]
    if not training.bytes or not training.unique_pretokens:
        return {"full_text_seconds": Metric(None, "s", source, missing_reason="there was no text")}
    counting = training.stages.count.wall_seconds * text_bytes / training.bytes
    merging = training.stages.merge.wall_seconds * unique / training.unique_pretokens
    return {"full_text_seconds": Metric(counting + merging, "s", source)}


def extrapolation_sentences(training: TokenizerTraining, source: str, role: str) -> list[str]:
    """Describe the extrapolation, unless the text has at least half the write-up's size."""
    text_bytes, unique = FULL_TEXTS[role]
    seconds = extrapolation(training, source, role)["full_text_seconds"].value
    if seconds is None or training.bytes >= text_bytes / 2:
        return []
    return [
        "Extrapolated from these rates, counting by bytes and merging by different pre-tokens, "
        f"{ROLE_DATASETS[role]} in full "
        f"({format_bytes(text_bytes)}, {format_int(unique)} different pre-tokens) would take "
        f"about {format_seconds(seconds)}; "
        "more merges than here would add to that."
    ]


def stages_table(training: TokenizerTraining) -> Table:
    """Seconds, share of the time and peak memory by stage."""
    total = training.wall_seconds
    rows = [
        [STAGES[stage], cost.wall_seconds, cost.wall_seconds / total, cost.peak_memory_bytes]
        for stage, cost in training.stages
    ]
    rows.append(["in all", total, 1.0, training.peak_memory_bytes])
    caption = "Where the time went: seconds of wall time and peak memory of the process, by stage"
    return Table(caption, ["stage", "seconds", "share of the time", "peak memory, bytes"], rows)


def longest_tables(corpus: str, profile: VocabularyProfile | None) -> list[Table]:
    """Return the longest tokens, their kinds, and their first occurrences in the training text."""
    tokens = profile.longest_tokens if profile else ()
    if not tokens:
        return []
    rows = [
        [getattr(token, key) for key in ("text", "bytes", "id", "kind", "occurrences", "excerpt")] for token in tokens
    ]
    caption = f"The longest tokens of {corpus}; occurrences of their bytes in the training text, and around the first"
    return [Table(caption, ["token", "bytes", "id", "kind", "occurrences", "excerpt"], rows, code_columns=["token"])]


def sense_sentences(profile: VocabularyProfile | None) -> list[str]:
    """Judge the longest tokens: their kinds, and how often they occur."""
    tokens = profile.longest_tokens if profile else ()
    if not tokens:
        return []
    words = [token for token in tokens if token.kind in WORDS]
    odd = [token for token in tokens if token.kind not in WORDS]
    rarest = min(token.occurrences for token in tokens)
    frequency = f"each of them occurs at least {format_int(rarest)} times in the training text"
    if not odd:
        return [f"They make sense: the {len(tokens)} longest are all words or parts of words, and {frequency}."]
    kinds = [f"{len(words)} {'is a word or a part of one' if len(words) == 1 else 'are words or parts of words'}"]
    kinds += [f"{len(group)} {ODD_KINDS[kind][len(group) > 1]}" for kind, group in by_kind(odd).items()]
    return [
        f"They make sense as statistics, not all as language: of the {len(tokens)} longest, {join_words(kinds)}, "
        f"such as {quoted(odd[0].text)}; {frequency}, and a frequent pair is merged whatever it means."
    ]


def by_kind(tokens: Sequence[LongToken]) -> dict[str, list[LongToken]]:
    """Tokens by their kind, in the order in which the kinds appear."""
    groups: dict[str, list[LongToken]] = {}
    for token in tokens:
        groups.setdefault(token.kind, []).append(token)
    return groups


def comparison_sentences(results: Results) -> list[str]:
    """Compare the vocabularies of the simple and the web corpus: overlap, lengths, and tokens that only one has."""
    simple, web = results.corpus_in_role("simple"), results.corpus_in_role("web")
    overlap = overlap_of(results, simple, web)
    if overlap is None:
        return []
    profiles = {name: describe(results, name) for name in (simple, web)}
    merges = {name: profile.merges for name, profile in profiles.items()}
    sentences = [
        f"The vocabularies of {simple} and {web} share {format_int(overlap.shared)} merged tokens: "
        f"{format_percent(overlap.shared / merges[simple])} of the {format_int(merges[simple])} of {simple} and "
        f"{format_percent(overlap.shared / merges[web])} of the {format_int(merges[web])} of {web}."
    ]
    earliest = {overlap.first: overlap.only_first, overlap.second: overlap.only_second}
    only = [
        f"only {name} has {join_words([quoted(text) for text in earliest[name][:6]])}"
        for name in (simple, web)
        if earliest[name]
    ]
    if only:
        sentences.append(f"Among the earliest merges, {', and '.join(only)}.")
    lengths = [f"{format_number(profile.mean_length)} bytes for {name}" for name, profile in profiles.items()]
    spaced = [
        f"{format_percent(profile.words_after_space / profile.merges)} for {name}" for name, profile in profiles.items()
    ]
    return [
        *sentences,
        f"The mean length of a merged token is {join_words(lengths)}; the share of them that are a space with letters "
        f"from A to Z is {join_words(spaced)}.",
    ]


def overlap_of(results: Results, first: str | None, second: str | None) -> VocabularyOverlap | None:
    """Return the overlap of two vocabularies; None if they were not compared or share no token."""
    evaluation = comparison(results)
    for overlap in evaluation.overlaps if evaluation else ():
        if {overlap.first, overlap.second} == {first, second} and overlap.shared:
            return overlap
    return None


def comparison_metrics(results: Results) -> dict[str, Metric]:
    """Metrics of how the two vocabularies differ."""
    simple, web = results.corpus_in_role("simple"), results.corpus_in_role("web")
    overlap = overlap_of(results, simple, web)
    if overlap is None:
        return {}
    web_profile, simple_profile = describe(results, web), describe(results, simple)
    return {
        "shared_tokens": Metric(overlap.shared, "tokens", COMPARISON),
        "share_of_simple_shared": Metric(overlap.shared / simple_profile.merges, "share", COMPARISON),
        "share_of_web_shared": Metric(overlap.shared / web_profile.merges, "share", COMPARISON),
        "mean_token_bytes_simple": Metric(simple_profile.mean_length, "bytes", COMPARISON),
        "mean_token_bytes_web": Metric(web_profile.mean_length, "bytes", COMPARISON),
    }


def comparison_tables(results: Results) -> list[Table]:
    """Return the number of tokens by kind and by length in both vocabularies."""
    names = [name for role in ("simple", "web") if (name := results.corpus_in_role(role)) and describe(results, name)]
    if len(names) < 2:
        return []
    return [
        shares_table("Merged tokens by kind", "kind", "kinds", names, results),
        shares_table("Merged tokens by length in bytes", "bytes", "lengths", names, results),
    ]


def shares_table(caption: str, heading: str, key: str, names: list[str], results: Results) -> Table:
    """One row for each kind or length, one column of counts for each vocabulary."""
    counts = [getattr(describe(results, name), key) for name in names]
    kinds = dict.fromkeys(kind for column in counts for kind in column)
    ordered = sorted(kinds, key=int) if key == "lengths" else list(kinds)
    rows = [[int(kind) if key == "lengths" else kind, *(column.get(kind, 0) for column in counts)] for kind in ordered]
    return Table(caption, [heading, *names], rows)
