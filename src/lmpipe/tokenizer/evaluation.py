"""How well tokenizers compress: bytes per token, throughput, longest tokens, overlap (handout, section 2.7)."""

import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import regex

from lmpipe.errors import InputError
from lmpipe.io.files import open_text
from lmpipe.study.documents import TOKEN_FILE, read_shape
from lmpipe.tokenizer.parallel_encoding import encode_blocks
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, decode_utf8, documents, encode_utf8
from lmpipe.tokenizer.tokenizer import Tokenizer

SAMPLED_DOCUMENTS = 10
LONGEST_TOKENS = 10
EXAMPLES = 12
EXCERPT_CHARACTERS = 60
THROUGHPUT_BYTES = 4_000_000
THROUGHPUT_PASSES = 3
PILE_BYTES = 825_000_000_000
LARGEST_UINT16 = 65_535
# A repetition is a group of at most so many characters, at least three times.
REPEATED_CHARACTERS = 4


def evaluate_tokenizers(
    results: str | Path,
    corpora: Sequence[str],
    tokenizers: Mapping[str, str],
    seed: int = 0,
    throughput_bytes: int = THROUGHPUT_BYTES,
) -> dict[str, Any]:
    """Measure every tokenizer of a study's results folder on every corpus: the content of tokenizer_experiments.json.

    `tokenizers` maps names to the corpus that each was trained on; `seed` draws the sampled documents; at most
    `throughput_bytes` of each training text are timed. Raises InputError where a corpus has no document.
    """
    results = Path(results)
    opened = {name: Tokenizer.from_folder(results / "tokenizers" / name) for name in tokenizers}
    samples = {corpus: sample_documents(valid_text(results, corpus), SAMPLED_DOCUMENTS, seed) for corpus in corpora}
    rows = [
        {"tokenizer": name, "corpus": corpus, "own": corpus == tokenizers[name]}
        | compression(opened[name], valid_text(results, corpus), samples[corpus])
        for corpus in corpora
        for name in tokenizers
    ]
    return {
        "seed": seed,
        "pile_bytes": PILE_BYTES,
        "corpora": {corpus: describe_sample(samples[corpus]) for corpus in corpora},
        "compression": rows,
        "tokenizers": {
            name: {"corpus": corpus, "vocab_size": opened[name].vocab_size, "sha256": opened[name].sha256}
            | throughput(opened[name], text_prefix(train_text(results, corpus), throughput_bytes))
            | {"uint16": uint16_check(results, name, opened[name].vocab_size, rows)}
            | describe_vocabulary(opened[name], train_text(results, corpus))
            for name, corpus in tokenizers.items()
        },
        "overlaps": [overlap(first, second, opened) for first, second in combinations(tokenizers, 2)],
    }


def train_text(results: Path, corpus: str) -> Path:
    """The training text of a corpus."""
    return results / "corpora" / corpus / "train.txt"


def valid_text(results: Path, corpus: str) -> Path:
    """The validation text of a corpus."""
    return results / "corpora" / corpus / "valid.txt"


def sample_documents(path: Path, count: int, seed: int) -> dict[int, bytes]:
    """Documents drawn from a file without replacement, by their place in it; all where it has no more than `count`."""
    total = sum(1 for _ in documents(path))
    if not total:
        raise InputError(f"{path}: expected documents, found none; give the corpus more text")
    drawn = set(random.Random(seed).sample(range(total), min(count, total)))
    return {place: document for place, document in enumerate(documents(path)) if place in drawn}


def describe_sample(sample: Mapping[int, bytes]) -> dict[str, Any]:
    """What was sampled: how many documents, which (counted from 0 in the validation split), how many bytes."""
    return {"documents": len(sample), "places": list(sample), "bytes": sum(map(len, sample.values()))}


def compression(tokenizer: Tokenizer, path: Path, sample: Mapping[int, bytes]) -> dict[str, Any]:
    """Bytes per token on sampled documents, without delimiters, and on a whole file, with them."""
    encoded = [tokenizer.encode(decode_utf8(document)) for document in sample.values()]
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for _ in encode_blocks(path, tokenizer, f"compressing {path}", counts):
        pass
    tokens = int(counts.sum())
    # One tokenizer comes after another, and their caches would stand side by side.
    tokenizer.clear_cache()
    sample_bytes, sample_tokens = sum(map(len, sample.values())), sum(map(len, encoded))
    return {
        "sample_bytes": sample_bytes,
        "sample_tokens": sample_tokens,
        "sample_bytes_per_token": sample_bytes / sample_tokens,
        "valid_bytes": path.stat().st_size,
        "valid_tokens": tokens,
        "valid_bytes_per_token": path.stat().st_size / tokens,
        "largest_id": int(counts.nonzero()[0].max(initial=0)),
        "round_trip": list(map(tokenizer.decode_bytes, encoded)) == list(sample.values()),
    }


def text_prefix(path: Path, limit: int) -> str:
    """The first documents of a file, about `limit` bytes of them; the whole file where it is shorter.

    Raises InputError where there is nothing but white space and delimiters.
    """
    with open_text(path) as file:
        data = file.read(limit)
    if not data.replace(END_OF_TEXT.encode(), b"").strip():
        raise InputError(f"{path}: expected text, found none; give the corpus more text")
    if len(data) == limit and (end := data.rfind(END_OF_TEXT.encode())) >= 0:
        data = data[: end + len(END_OF_TEXT)]
    return decode_utf8(data)


def throughput(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Encoding speed on one core in bytes per second: the median of some passes, each with an empty cache."""
    seconds = []
    for _ in range(THROUGHPUT_PASSES):
        tokenizer.clear_cache()
        started = time.perf_counter()
        tokenizer.encode_to_numpy(text)
        seconds.append(time.perf_counter() - started)
    size = len(encode_utf8(text))
    rate = size / median(seconds)
    return {
        "throughput": {"bytes": size, "seconds": seconds, "bytes_per_second": rate},
        "pile_seconds": PILE_BYTES / rate,
    }


def uint16_check(results: Path, name: str, vocab_size: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether all ids seen fit into 16 bits: in the validation texts and, where encoded, in its own training text."""
    seen = [row["largest_id"] for row in rows if row["tokenizer"] == name]
    token_file = results / "tokens" / name / "train.json"
    if token_file.exists():
        seen.append(read_shape(token_file, TOKEN_FILE)["max_id"])
    return {
        "largest_id": max(seen),
        "largest_uint16": LARGEST_UINT16,
        "suffices": max(seen) <= LARGEST_UINT16 and vocab_size - 1 <= LARGEST_UINT16,
        "train_text_checked": token_file.exists(),
    }


def describe_vocabulary(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Figures of the merged tokens: lengths, kinds, and the longest ones with their place in the training text."""
    merged = merged_tokens(tokenizer)
    lengths = Counter(map(len, merged))
    return {
        "merges": len(tokenizer.merges),
        "mean_length": fmean(map(len, merged)) if merged else None,
        "lengths": {str(length): lengths[length] for length in sorted(lengths)},
        "kinds": dict(Counter(map(token_kind, merged)).most_common()),
        "words_after_space": sum(1 for token in merged if re.fullmatch(rb" [A-Za-z]+", token)),
        "longest_tokens": longest_tokens(tokenizer, path),
    }


def merged_tokens(tokenizer: Tokenizer) -> list[bytes]:
    """The tokens that merges made, in their order."""
    return [left + right for left, right in tokenizer.merges]


def longest_tokens(tokenizer: Tokenizer, path: Path) -> list[dict[str, Any]]:
    """The longest merged tokens, the earlier of equals first, with how often the training text has them."""
    ids = {token: token_id for token_id, token in tokenizer.vocab.items()}
    parts = {left + right: (left, right) for left, right in tokenizer.merges}
    longest = sorted(parts, key=lambda token: (-len(token), ids[token]))[:LONGEST_TOKENS]
    found = count_occurrences(path, longest)
    return [
        {
            "text": shown(token),
            "bytes": len(token),
            "hex": token.hex(),
            "id": ids[token],
            "parts": [shown(part) for part in parts[token]],
            "kind": token_kind(token),
            "occurrences": found[token][0],
            "excerpt": found[token][1],
        }
        for token in longest
    ]


def count_occurrences(path: Path, tokens: Sequence[bytes]) -> dict[bytes, tuple[int, str]]:
    """How often a file's documents contain each token's bytes (not overlapping), and an excerpt around the first."""
    counts = dict.fromkeys(tokens, 0)
    excerpts = dict.fromkeys(tokens, "")
    for document in documents(path):
        for token in tokens:
            if times := document.count(token):
                counts[token] += times
                excerpts[token] = excerpts[token] or excerpt(document, token)
    return {token: (counts[token], excerpts[token]) for token in tokens}


def excerpt(document: bytes, token: bytes) -> str:
    """A token's first place in a document, between ‹ and ›, with some characters on either side, on one line.

    >>> excerpt(b"It was a responsibility.", b" responsibility")
    'It was a‹␣responsibility›.'
    """
    place = document.find(token)
    # Four bytes hold any character, so this many hold enough of them; one that is cut is left out.
    reach = 4 * EXCERPT_CHARACTERS
    before = document[max(0, place - reach) : place].decode("utf-8", "ignore")[-EXCERPT_CHARACTERS:]
    after = document[place + len(token) :][:reach].decode("utf-8", "ignore")[:EXCERPT_CHARACTERS]
    before, after = (re.sub(r"\s+", " ", side) for side in (before, after))
    return f"{before}‹{shown(token)}›{after}"


def shown(token: bytes) -> str:
    r"""A token as a text that can be printed: a space becomes ␣; what is malformed or has no shape, an escape.

    >>> shown(b" caf\xc3\xa9\n\xff")
    '␣café\\n\\xff'
    """
    text = token.decode("utf-8", "backslashreplace").replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def token_kind(token: bytes) -> str:
    """What a token is, by rule, apart from white space around it.

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
    if is_repetition(text):
        return "repetition"
    if regex.fullmatch(r"[\p{L}\p{M}]+", text):
        return "joined words" if re.search("[a-z][A-Z]", text) else "word"
    if regex.fullmatch(r"\p{N}+", text):
        return "number"
    return "mixed" if regex.search(r"[\p{L}\p{N}]", text) else "punctuation"


def is_repetition(text: str) -> bool:
    """Whether a text is one group of up to four characters, three times or more (the last may be cut)."""
    return any(
        len(text) >= 3 * period and text[period:] == text[:-period] for period in range(1, REPEATED_CHARACTERS + 1)
    )


def is_mojibake(text: str) -> bool:
    """Whether a text is UTF-8 read as Windows-1252 or Latin-1: it turns back, or is Ã and Â among their like."""
    if text.isascii():
        return False
    if re.fullmatch("[\u0080-\u00ff]{2,}", text) and re.search("[ÂÃ]", text):
        return True
    try:
        return not text.encode("cp1252").decode("utf-8").isascii()
    except UnicodeError:
        return False


def overlap(first: str, second: str, opened: Mapping[str, Tokenizer]) -> dict[str, Any]:
    """How many merged tokens two tokenizers share, and the earliest that only one of them has."""
    tokens = {name: merged_tokens(opened[name]) for name in (first, second)}
    shared = set(tokens[first]) & set(tokens[second])
    only = {name: [shown(token) for token in tokens[name] if token not in shared][:EXAMPLES] for name in tokens}
    return {
        "first": first,
        "second": second,
        "shared": len(shared),
        "share_of_first": len(shared) / len(tokens[first]) if tokens[first] else 0.0,
        "share_of_second": len(shared) / len(tokens[second]) if tokens[second] else 0.0,
        "only_first": only[first],
        "only_second": only[second],
    }
