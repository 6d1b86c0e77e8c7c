"""Evaluation of tokenizers: bytes per token, throughput, longest tokens, overlap (handout, section 2.7)."""

import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median

import numpy as np
import regex
from pydantic import NonNegativeInt

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import open_text
from lmpipe.study.paths import StudyPaths
from lmpipe.tokenizer.documents import (
    Compression,
    DocumentSample,
    LongToken,
    Throughput,
    TokenizerEvaluation,
    TokenKind,
    VocabularyOverlap,
    VocabularyProfile,
)
from lmpipe.tokenizer.parallel_encoding import encode_blocks
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, decode_utf8, documents, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer
from lmpipe.tokenizer.vocabulary import MAX_VOCAB_SIZE

NUM_SAMPLE_DOCUMENTS = 10
NUM_LONGEST_TOKENS = 10
EXCERPT_CHARACTERS = 60
THROUGHPUT_BYTES = 4_000_000
THROUGHPUT_PASSES = 3
MIN_MERGES = 16  # of the shortest prefix of the merges whose compression is measured
PILE_BYTES = 825_000_000_000  # The Pile (Gao et al. 2020)
MAX_PERIOD = 4  # characters that a repetition repeats


class TokenFile(Document, extra="ignore"):
    """Part of the description of a token file."""

    max_id: NonNegativeInt
    """Largest id in the file."""


def evaluate_tokenizers(
    results: str | Path, corpora: Sequence[str], tokenizers: Mapping[str, str], seed: int = 0
) -> TokenizerEvaluation:
    """Measure every tokenizer in a study's results folder on every corpus.

    `tokenizers` maps names to the corpora that they were trained on; `seed` draws the sampled documents. Raises
    InputError if a corpus has no document.
    """
    paths = StudyPaths(Path(results))
    opened = {name: Tokenizer.from_folder(paths.tokenizer(name)) for name in tokenizers}
    samples = {corpus: sample_documents(paths.text(corpus, "valid"), NUM_SAMPLE_DOCUMENTS, seed) for corpus in corpora}
    rows = [
        measure_compression(
            opened[name], paths.text(corpus, "valid"), samples[corpus], name, corpus, corpus == tokenizers[name]
        )
        for corpus in corpora
        for name in tokenizers
    ]
    profiles = {}
    for name, corpus in tokenizers.items():
        max_ids = [row.largest_id for row in rows if row.tokenizer == name]
        if (token_file := paths.tokens(name, "train").with_suffix(".json")).exists():
            max_ids.append(TokenFile.read(token_file).max_id)
        profiles[name] = profile_vocabulary(opened[name], corpus, paths, max(max_ids))
    return TokenizerEvaluation(
        seed=seed,
        pile_bytes=PILE_BYTES,
        corpora={
            corpus: DocumentSample(documents=len(sample), bytes=sum(map(len, sample)))
            for corpus, sample in samples.items()
        },
        compression=tuple(rows),
        tokenizers=profiles,
        overlaps=tuple(compare_vocabularies(*pair, opened) for pair in combinations(tokenizers, 2)),
    )


# --- compression and speed


def sample_documents(path: Path, count: int, seed: int) -> list[bytes]:
    """Draw `count` documents of a file without replacement, or all if there are fewer; return them in their order."""
    total = sum(1 for _ in documents(path))
    if not total:
        raise InputError(path, "has no documents", "give the corpus more text")
    indices = set(random.Random(seed).sample(range(total), min(count, total)))
    return [document for index, document in enumerate(documents(path)) if index in indices]


def measure_compression(
    tokenizer: Tokenizer, path: Path, sample: list[bytes], name: str, corpus: str, in_domain: bool
) -> Compression:
    """Count the tokens of sampled documents, without delimiters, and of a whole file, with them."""
    encoded = [tokenizer.encode(decode_utf8(document)) for document in sample]
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for _ in encode_blocks(path, tokenizer, f"compressing {path}", counts):
        pass
    tokens = int(counts.sum())
    tokenizer.clear_cache()  # one tokenizer follows another, and their caches would add up
    sample_tokens = sum(map(len, encoded))
    return Compression(
        tokenizer=name,
        corpus=corpus,
        in_domain=in_domain,
        sample_tokens=sample_tokens,
        sample_bytes_per_token=sum(map(len, sample)) / sample_tokens,
        valid_tokens=tokens,
        valid_bytes_per_token=path.stat().st_size / tokens,
        largest_id=int(counts.nonzero()[0].max(initial=0)),
        frequencies=rank_frequencies(counts),
        round_trip=list(map(tokenizer.decode_bytes, encoded)) == sample,
    )


def rank_frequencies(counts: np.ndarray) -> dict[str, int]:
    """Return the counts (vocab,) above 0 at ranks that grow by a factor of √2, the largest first.

    >>> rank_frequencies(np.array([7, 0, 9, 8, 5, 6]))
    {'1': 9, '2': 8, '3': 7, '4': 6}
    """
    ordered = np.sort(counts[counts > 0])[::-1]
    ranks = dict.fromkeys(round(2 ** (half / 2)) for half in range(2 * MAX_VOCAB_SIZE.bit_length()))
    return {str(rank): int(ordered[rank - 1]) for rank in ranks if rank <= len(ordered)}


def compression_by_merges(tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Return the bytes per token of a text with the first MIN_MERGES · 2ⁿ merges of a tokenizer, and with all."""
    size, total, compression, merges = len(encode_utf8(text)), len(tokenizer.merges), {}, MIN_MERGES
    while True:
        prefix = Tokenizer(tokenizer.vocab, tokenizer.merges[:merges], tokenizer.special_tokens)
        compression[str(min(merges, total))] = size / len(prefix.encode_to_numpy(text))
        if merges >= total:
            return compression
        merges *= 2


def text_prefix(path: Path, limit: int) -> str:
    """Return the first documents of a file, about `limit` bytes; the whole file if it is shorter.

    Raises InputError if they contain only white space and delimiters.
    """
    with open_text(path) as file:
        data = file.read(limit)
    if not data.replace(END_OF_TEXT.encode(), b"").strip():
        raise InputError(path, "has no text", "give the corpus more text")
    if len(data) == limit and (end := data.rfind(END_OF_TEXT.encode())) >= 0:
        data = data[: end + len(END_OF_TEXT)]
    return decode_utf8(data)


def measure_throughput(tokenizer: Tokenizer, text: str) -> Throughput:
    """Measure the encoding speed on one core: the median of THROUGHPUT_PASSES passes, each with an empty cache."""
    seconds = []
    for _ in range(THROUGHPUT_PASSES):
        tokenizer.clear_cache()
        started = time.perf_counter()
        tokenizer.encode_to_numpy(text)
        seconds.append(time.perf_counter() - started)
    size = len(encode_utf8(text))
    return Throughput(bytes=size, seconds=tuple(seconds), bytes_per_second=size / median(seconds))


# --- vocabularies


def profile_vocabulary(tokenizer: Tokenizer, corpus: str, paths: StudyPaths, largest_id: int) -> VocabularyProfile:
    """Measure the speed, and summarize the merged tokens: lengths, kinds, the longest ones in the training text."""
    train_text, valid_text = (paths.text(corpus, split) for split in ("train", "valid"))
    throughput = measure_throughput(tokenizer, text_prefix(train_text, THROUGHPUT_BYTES))
    merged = tokenizer.merged_tokens
    lengths = Counter(map(len, merged))
    return VocabularyProfile(
        corpus=corpus,
        vocab_size=tokenizer.vocab_size,
        sha256=tokenizer.sha256,
        throughput=throughput,
        pile_seconds=PILE_BYTES / throughput.bytes_per_second,
        largest_id=largest_id,
        merges=len(tokenizer.merges),
        mean_length=fmean(map(len, merged)) if merged else None,
        lengths={str(length): lengths[length] for length in sorted(lengths)},
        compression_by_merges=compression_by_merges(tokenizer, text_prefix(valid_text, THROUGHPUT_BYTES)),
        kinds=dict(Counter(map(token_kind, merged)).most_common()),
        longest_tokens=tuple(longest_tokens(tokenizer, train_text)),
    )


def longest_tokens(tokenizer: Tokenizer, path: Path) -> list[LongToken]:
    """List the longest merged tokens, the earlier first among equals, with their occurrences in a text."""
    ids = {token: token_id for token_id, token in tokenizer.vocab.items()}
    pairs = dict(zip(tokenizer.merged_tokens, tokenizer.merges, strict=True))
    longest = sorted(pairs, key=lambda token: (-len(token), ids[token]))[:NUM_LONGEST_TOKENS]
    occurrences = count_occurrences(path, longest)
    return [
        LongToken(
            text=printable_token(token),
            bytes=len(token),
            id=ids[token],
            parts=tuple(map(printable_token, pairs[token])),
            kind=token_kind(token),
            occurrences=occurrences[token][0],
            excerpt=occurrences[token][1],
        )
        for token in longest
    ]


def count_occurrences(path: Path, tokens: Sequence[bytes]) -> dict[bytes, tuple[int, str]]:
    """Count each token's bytes in a file's documents, without overlaps; return the counts and an excerpt each."""
    occurrences = dict.fromkeys(tokens, (0, ""))
    for document in documents(path):
        for token in tokens:
            if count := document.count(token):
                total, first = occurrences[token]
                occurrences[token] = total + count, first or excerpt(document, token)
    return occurrences


def excerpt(document: bytes, token: bytes) -> str:
    """Return a token's first occurrence in a document, between ‹ and ›, with its surroundings, on one line.

    >>> excerpt(b"It was a responsibility.", b" responsibility")
    'It was a‹␣responsibility›.'
    """
    start = document.find(token)
    # Four bytes hold any character, so this many are enough; an incomplete one is dropped.
    reach = 4 * EXCERPT_CHARACTERS
    before = document[max(0, start - reach) : start].decode("utf-8", "ignore")[-EXCERPT_CHARACTERS:]
    after = document[start + len(token) :][:reach].decode("utf-8", "ignore")[:EXCERPT_CHARACTERS]
    before, after = (re.sub(r"\s+", " ", side) for side in (before, after))
    return f"{before}‹{printable_token(token)}›{after}"


def printable_token(token: bytes) -> str:
    r"""Return a token as printable text: a space becomes ␣, malformed and invisible characters become escapes.

    >>> printable_token(b" caf\xc3\xa9\n\xff")
    '␣café\\n\\xff'
    """
    text = token.decode("utf-8", "backslashreplace").replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def token_kind(token: bytes) -> TokenKind:
    """Classify a token, ignoring white space around it.

    >>> [token_kind(token) for token in (b" responsibility", b"--------", b" ValueError", b"'ll")]
    ['word', 'repetition', 'joined words', 'mixed']
    """
    try:
        text = token.decode("utf-8").strip()
    except UnicodeDecodeError:
        return "not valid UTF-8"
    if not text:
        return "white space"
    if is_mojibake(text):
        return "mojibake"
    # Up to MAX_PERIOD characters at least three times, the last time in part.
    if any(len(text) >= 3 * period and text[period:] == text[:-period] for period in range(1, MAX_PERIOD + 1)):
        return "repetition"
    if regex.fullmatch(r"[\p{L}\p{M}]+", text):
        return "joined words" if re.search("[a-z][A-Z]", text) else "word"
    if regex.fullmatch(r"\p{N}+", text):
        return "number"
    return "mixed" if regex.search(r"[\p{L}\p{N}]", text) else "punctuation"


def is_mojibake(text: str) -> bool:
    """Return True if a text is UTF-8 decoded as Windows-1252 or Latin-1: it can be reversed, or is Ã and Â alike."""
    if text.isascii():
        return False
    if re.fullmatch("[\u0080-\u00ff]{2,}", text) and re.search("[ÂÃ]", text):
        return True
    try:
        return not text.encode("cp1252").decode("utf-8").isascii()
    except UnicodeError:
        return False


def compare_vocabularies(first: str, second: str, opened: Mapping[str, Tokenizer]) -> VocabularyOverlap:
    """Count the merged tokens that two tokenizers share."""
    shared = set(opened[first].merged_tokens) & set(opened[second].merged_tokens)
    return VocabularyOverlap(first=first, second=second, shared=len(shared))
