"""Yardsticks of a corpus: losses of n-gram tables and of xz."""

import lzma
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lmpipe.data.documents import NgramBudget, NgramLoss, Yardsticks
from lmpipe.data.ngrams import MAX_ORDER, count_ngrams, ngram_probs
from lmpipe.data.token_dataset import TokenDataset, Tokens
from lmpipe.errors import InputError
from lmpipe.io.files import open_text
from lmpipe.study.paths import StudyPaths
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT
from lmpipe.tokenizer.vocabulary import Vocabulary

BLOCK_TOKENS = 1 << 10
CHUNK_TOKENS = 1 << 20  # of the validation split, whose probabilities are computed at once
BLOCK_BYTES = 1 << 16
MAX_XZ_BYTES = 1 << 25  # of training and of validation text; xz looks back 64 MiB
XZ_PRESET = 9


def measure_yardsticks(results: str | Path, corpus: str, tokenizer: str, budgets: Sequence[int]) -> Yardsticks:
    """Measure a corpus of a study's results folder; `budgets` are numbers of training tokens, at least one.

    Raises InputError if a file is missing or damaged, or the validation split has less than two tokens.
    """
    paths = StudyPaths(Path(results))
    vocabulary = Vocabulary.from_folder(paths.tokenizer(tokenizer))
    train, valid = (TokenDataset.open(paths.tokens(tokenizer, split)) for split in ("train", "valid"))
    if len(valid.tokens) < 2:
        raise InputError("validation split", f"has {len(valid.tokens)} tokens, but needs 2", "give it more text")
    counts = sorted({min(budget, len(train.tokens)) for budget in budgets})
    byte_lengths = vocabulary.byte_lengths
    ngrams = [measure_ngrams(strided_windows(train.tokens, count), valid.tokens, byte_lengths) for count in counts]
    train_text, valid_text = (paths.text(corpus, split) for split in ("train", "valid"))
    xz_bytes = min(MAX_XZ_BYTES, max(budgets) * train.info.text_bytes // train.info.tokens)
    return Yardsticks(
        corpus=corpus,
        tokenizer=tokenizer,
        vocab_size=vocabulary.vocab_size,
        valid_tokens=len(valid.tokens) - 1,
        valid_bytes=sum(int(byte_lengths[chunk].sum()) for _, chunk in target_chunks(valid.tokens)),
        uniform_loss=math.log(vocabulary.vocab_size),
        budgets=tuple(ngrams),
        xz_bits_per_byte=measure_xz(train_text, valid_text, xz_bytes),
    )


# --- n-gram tables


def strided_windows(tokens: Tokens, count: int) -> np.ndarray:
    """Return about `count` token ids in windows (windows, length) at equal strides over a split of at least as many."""
    starts, length = strides(len(tokens), count, BLOCK_TOKENS)
    return np.stack([tokens[start : start + length] for start in starts])


def strides(total: int, size: int, block: int) -> tuple[list[int], int]:
    """Return starts and length, at most `block`, of the parts of a whole of `total` that have about `size` together."""
    num_parts = -(-size // block)
    length = size // max(1, num_parts)
    return [index * (total - length) // max(1, num_parts - 1) for index in range(num_parts)], length


def measure_ngrams(windows: np.ndarray, valid: Tokens, byte_lengths: np.ndarray) -> NgramBudget:
    """Return the losses on a validation split of tables counted on training windows (windows, length).

    `byte_lengths` (vocab,) are the text bytes of each id; bits per byte leave out the end-of-text tokens, which have 0.
    """
    tables = count_ngrams(windows, len(byte_lengths))
    nats, text_nats, text_bytes = np.zeros(len(tables)), np.zeros(len(tables)), 0
    for context, targets in target_chunks(valid):
        lengths = byte_lengths[targets]
        for index, probs in enumerate(ngram_probs(tables, np.concatenate((context, targets)))):
            losses = -np.log(probs[len(context) - 1 :])
            nats[index] += losses.sum()
            text_nats[index] += losses[lengths > 0].sum()
        text_bytes += int(lengths.sum())
    losses, bits = nats / (len(valid) - 1), text_nats / math.log(2) / max(1, text_bytes)
    rows = [
        NgramLoss(order=n, loss=loss, bits_per_byte=rate)
        for n, (loss, rate) in enumerate(zip(losses, bits, strict=True), 1)
    ]
    return NgramBudget(train_tokens=windows.size, ngrams=tuple(rows))


def target_chunks(tokens: Tokens) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all tokens of a split but the first in chunks, each after the tokens before it that n-grams need."""
    for start in range(1, len(tokens), CHUNK_TOKENS):
        yield tokens[max(0, start - MAX_ORDER + 1) : start], tokens[start : start + CHUNK_TOKENS]


# --- xz


def measure_xz(train: Path, valid: Path, train_bytes: int) -> float:
    """Return the bits per byte of the validation text after about `train_bytes` of training text."""
    first, second = strided_text(train, train_bytes), strided_text(valid, MAX_XZ_BYTES)
    size = len(compress(first + second)) - len(compress(first))
    return 8 * size / max(1, len(second))


def compress(text: bytes) -> bytes:
    """Compress a text by xz."""
    return lzma.compress(text, preset=XZ_PRESET, check=lzma.CHECK_NONE)


def strided_text(path: Path, num_bytes: int) -> bytes:
    """Return about `num_bytes` of a text in blocks at equal strides, or all of it; a line ends each document."""
    with open_text(path) as file:
        size = os.fstat(file.fileno()).st_size
        starts, length = strides(size, min(size, num_bytes), BLOCK_BYTES)
        text = b"".join(os.pread(file.fileno(), length, start) for start in starts)
    return text.replace(END_OF_TEXT.encode(), b"\n")
