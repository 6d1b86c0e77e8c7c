"""Overlap of the splits of a corpus: n-grams of words that both have, as checks for contamination count them.

Brown et al. 2020 (appendix C) take n-grams of 13 words without regard to case and punctuation. Here a word is a run of
ASCII letters, ASCII digits and bytes outside ASCII, and a document of fewer words is one n-gram.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from lmpipe.data.sources.splits import join_blocks
from lmpipe.io.progress import progress
from lmpipe.tokenizer.pretokenizer import documents

NGRAM_WORDS = 13
# Of larger validation texts a sample of about as many bytes is compared.
SAMPLE_BYTES = 1 << 22
BLOCK_BYTES = 1 << 17  # as fast as larger blocks, 72 MB/s
SPACE, END = 0x20, 0xFF  # END is in no UTF-8 text
DELIMITER = bytes([SPACE, END, SPACE])
NON_WORD = bytes(byte for byte in range(128) if not chr(byte).isalnum())
TO_WORDS = bytes.maketrans(NON_WORD, bytes([SPACE]) * len(NON_WORD))
FILTER_SIZE = 1 << 24  # slots for hashes: a filter is 1.5x faster than a search for each hash
MULTIPLIER = 0x9E3779B97F4A7C15
INVERSE = pow(MULTIPLIER, -1, 1 << 64)


def measure_overlap(train: Path, valid: Path) -> float:
    """Return the fraction of the n-grams of a validation text that are in the training text.

    Memory is constant: of a large validation text, random n-grams are compared.
    """
    share, random = SAMPLE_BYTES / max(SAMPLE_BYTES, valid.stat().st_size), np.random.RandomState(0)
    sampled = (hashes[random.random_sample(len(hashes)) < share] for _, hashes in ngram_hashes(valid))
    valid_hashes = np.concatenate([np.empty(0, np.uint64), *sampled])
    ngrams, counts = np.unique(valid_hashes, return_counts=True)
    if not len(ngrams):
        return 0.0
    is_seen, is_candidate = np.zeros(len(ngrams), bool), np.zeros(FILTER_SIZE, bool)
    is_candidate[ngrams % FILTER_SIZE] = True
    with progress(f"comparing {valid} with {train}", train.stat().st_size, "B") as bar:
        for size, hashes in ngram_hashes(train):
            hashes = hashes[is_candidate[hashes % FILTER_SIZE]]
            index = np.searchsorted(ngrams, hashes).clip(max=len(ngrams) - 1)
            is_seen[index[ngrams[index] == hashes]] = True
            bar.advance(size)
    return float(counts[is_seen].sum() / counts.sum())


def ngram_hashes(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the bytes of each block of a text, and the hashes of its n-grams (ngrams,)."""
    for block in join_blocks((document + DELIMITER for document in documents(path)), BLOCK_BYTES):
        yield len(block), hash_ngrams(block)


def hash_ngrams(text: bytes) -> np.ndarray:
    """Return the hashes of the n-grams of documents, uint64 (ngrams,), in order; DELIMITER ends each document."""
    data = np.frombuffer(text.lower().translate(TO_WORDS), np.uint8)
    edges = np.flatnonzero(np.diff(data != SPACE, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    is_end = data[starts] == END
    words, document = hash_ranges(data, starts, stops)[~is_end], np.cumsum(is_end)[~is_end]
    lengths = np.bincount(document)
    ends = np.cumsum(lengths)
    index, last = np.arange(len(words)), ends[document]
    starts = index[(index + NGRAM_WORDS <= last) | (index == last - lengths[document])]
    return hash_ranges(words, starts, np.minimum(starts + NGRAM_WORDS, last[starts]))


def hash_ranges(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return a hash of `values[start:stop]`, uint64, for each start and stop (ranges,).

    It is a polynomial of the values modulo 2⁶⁴ (Karp and Rabin 1987), whose bits are then mixed.
    """
    size = 1 << len(values).bit_length()
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * powers(MULTIPLIER, size)[: len(values)], out=sums[1:])
    hashes = (sums[stops] - sums[starts]) * powers(INVERSE, size)[starts]
    hashes = (hashes ^ hashes >> 32) * MULTIPLIER
    return hashes ^ hashes >> 29


@cache
def powers(base: int, size: int) -> np.ndarray:
    """Return powers of a number modulo 2⁶⁴, uint64 (size,)."""
    return np.cumprod(np.full(size, base, np.uint64))
