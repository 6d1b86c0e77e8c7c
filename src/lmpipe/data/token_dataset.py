"""Token files: opening them, and drawing training batches and validation windows from them."""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmpipe.data.documents import TokenFileInfo
from lmpipe.errors import InputError

DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
CHUNK_TOKENS = 1 << 22
REENCODE = "delete it and encode the corpus again"


class TokenArray:
    """The ids of a token file; each slice, (tokens,), is read from the disk.

    A memory map reads as little, but counts every page that a batch has touched as this process's memory, in the end
    the whole file.
    """

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self.count = os.fstat(self.descriptor).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, window: slice) -> np.ndarray:
        start, stop, _ = window.indices(self.count)
        size = max(0, stop - start) * self.dtype.itemsize
        ids = os.pread(self.descriptor, size, start * self.dtype.itemsize)
        if len(ids) < size:
            end = start + len(ids) // self.dtype.itemsize
            raise InputError(self.path, f"ends after {end} tokens, but had {self.count} when it was opened", REENCODE)
        return np.frombuffer(ids, self.dtype)


Tokens = np.ndarray | TokenArray


@dataclass(frozen=True)
class TokenDataset:
    """A token file: its ids `tokens` (tokens,), read as they are needed, and the description in its .json file."""

    path: Path
    tokens: Tokens
    info: TokenFileInfo

    @classmethod
    def open(cls, bin_path: str | Path, vocab_size: int | None = None) -> "TokenDataset":
        """Open NAME.bin with NAME.json beside it, and check its size and ids.

        Raises InputError if a file is missing or damaged, or has ids from `vocab_size` upwards (by default the
        vocabulary size in the .json file).
        """
        path = Path(bin_path)
        info = TokenFileInfo.read(path.with_suffix(".json"))
        dtype = DTYPES[info.dtype]
        if not path.exists():
            raise InputError(path, "is missing", "encode the corpus again")
        size = path.stat().st_size
        if not info.tokens or size != info.tokens * dtype.itemsize:
            problem = f"has {size} bytes, but {info.tokens} tokens of {dtype.itemsize} bytes according to its .json"
            raise InputError(path, problem, REENCODE)
        tokens = TokenArray(path, dtype)
        max_id = max(int(tokens[start : start + CHUNK_TOKENS].max()) for start in range(0, len(tokens), CHUNK_TOKENS))
        if max_id != info.max_id:
            raise InputError(path, f"has the largest id {max_id}, but {info.max_id} according to its .json", REENCODE)
        if max_id >= (limit := vocab_size or info.vocab_size):
            problem = f"contains the id {max_id}, which a vocabulary of {limit} does not have"
            raise InputError(path, problem, "use the tokenizer that encoded this file")
        return cls(path, tokens, info)


def check_length(count: int, context_length: int) -> None:
    """Raise InputError for a training split of `count` tokens without a window of context_length + 1 tokens."""
    if count <= context_length:
        problem = f"is {context_length}, but the training split has only {count} tokens"
        raise InputError("context_length", problem, "shorten the context or give the corpus more text")


def batch_starts(count: int, seed: int, step: int, batch_size: int, context_length: int) -> np.ndarray:
    """Draw the starts of the windows of one training step, int64 (batch,), uniformly from `count` tokens.

    They are a pure function of the count, the seed and the step. Raises InputError if the split has fewer than
    context_length + 1 tokens.
    """
    check_length(count, context_length)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    return generator.integers(0, count - context_length, size=batch_size)


def get_batch(
    tokens: Tokens, seed: int, step: int, batch_size: int, context_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of one training step, each (batch, seq) int64; targets are shifted by one token."""
    starts = batch_starts(len(tokens), seed, step, batch_size, context_length)
    windows = np.stack([tokens[start : start + context_length + 1] for start in starts.tolist()]).astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def validation_windows(
    tokens: Tokens, context_length: int, limit_tokens: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield fixed windows (seq,) int64 of inputs and targets in which every token but the first is a target once.

    The last window may be shorter. With `limit_tokens`, yield windows at equal strides over the whole split: as many as
    have that many targets at most, but at least one. Raises InputError for a split of fewer than two tokens.
    """
    if len(tokens) < 2:
        raise InputError("validation split", f"has {len(tokens)} tokens, but needs 2", "give it more text")
    starts = range(0, len(tokens) - 1, context_length)
    total = len(starts)
    count = total if limit_tokens is None else min(total, max(1, limit_tokens // context_length))
    for index in range(count):
        start = starts[(2 * index + 1) * total // (2 * count)]
        window = np.asarray(tokens[start : start + context_length + 1], dtype=np.int64)
        yield window[:-1], window[1:]
