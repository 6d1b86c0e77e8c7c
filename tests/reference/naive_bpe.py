"""Byte-level BPE as the handout defines it, on tuples of byte strings: every merge recounts every pair."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import regex

GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def cut(text: str, special_tokens: list[str]) -> list[tuple[str, bool]]:
    """Pieces of a text and whether each is a special token; at every place the longest that fits."""
    pieces, ordinary, index = [], "", 0
    while index < len(text):
        fitting = [special for special in special_tokens if text.startswith(special, index)]
        if fitting:
            longest = max(fitting, key=len)
            pieces += [(ordinary, False), (longest, True)]
            ordinary, index = "", index + len(longest)
        else:
            ordinary, index = ordinary + text[index], index + 1
    return [*pieces, (ordinary, False)]


def pretokens(text: str, special_tokens: list[str]) -> list[bytes]:
    """Return the pre-tokens of a text, without its special tokens."""
    return [
        match.encode("utf-8", "surrogateescape")
        for piece, is_special in cut(text, special_tokens)
        if not is_special
        for match in regex.findall(GPT2, piece)
    ]


def merged(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """Return a word with every occurrence of a pair merged, from left to right."""
    result, index = [], 0
    while index < len(word):
        if word[index : index + 2] == pair:
            result.append(pair[0] + pair[1])
            index += 2
        else:
            result.append(word[index])
            index += 1
    return tuple(result)


def split_bytes(word: bytes) -> tuple[bytes, ...]:
    return tuple(bytes([byte]) for byte in word)


def train(text: str, vocab_size: int, special_tokens: list[str]) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Return the vocabulary and the merges."""
    vocab = [bytes([byte]) for byte in range(256)] + [special.encode() for special in special_tokens]
    merges = merge_words(Counter(pretokens(text, special_tokens)), vocab_size - len(vocab))
    return dict(enumerate([*vocab, *(left + right for left, right in merges)])), merges


def merge_words(counts: Mapping[bytes, int], num_merges: int) -> list[tuple[bytes, bytes]]:
    """Return the first merges of counted words, fewer if no pair is left."""
    words = Counter({split_bytes(word): count for word, count in counts.items()})
    merges = []
    while len(merges) < num_merges:
        pairs = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        changed = Counter()
        for word, count in words.items():
            changed[merged(word, best)] += count
        words = changed
    return merges


def encode(
    text: str, vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]], special_tokens: list[str]
) -> list[int]:
    """Token ids: inside every pre-token, all merges in turn."""
    ids = {token: token_id for token_id, token in vocab.items()}
    encoded = []
    for piece, is_special in cut(text, special_tokens):
        if is_special:
            encoded.append(ids[piece.encode()])
            continue
        for word in pretokens(piece, []):
            symbols = split_bytes(word)
            for pair in merges:
                symbols = merged(symbols, pair)
            encoded += [ids[symbol] for symbol in symbols]
    return encoded
