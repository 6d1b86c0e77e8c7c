"""Token files: opening them, and drawing training batches and validation windows from them."""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmpipe.errors import InputError
from lmpipe.study.documents import TOKEN_FILE, read_shape

DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
CHUNK_TOKENS = 1 << 22


class TokenArray:
    """The ids of a token file; a slice of them, (tokens,), is read from the disk each time that it is asked for.

    A memory map would read as little, but every page that a batch touched would count as this process's memory from
    then on, until the whole file does.
    """

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype = path, dtype
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self.count = os.fstat(self.descriptor).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.count)
        size = max(0, stop - start) * self.dtype.itemsize
        ids = os.pread(self.descriptor, size, start * self.dtype.itemsize)
        if len(ids) < size:
            raise InputError(
                f"{self.path}: expected {self.count} tokens, as when it was opened, found the end after "
                f"{start + len(ids) // self.dtype.itemsize}; delete it and encode the corpus again"
            )
        return np.frombuffer(ids, self.dtype)


Tokens = np.ndarray | TokenArray


@dataclass(frozen=True)
class TokenDataset:
    """A token file on disk: its `tokens` (tokens,), which are read where they are needed; `info` is its .json."""

    path: Path
    tokens: TokenArray
    info: dict[str, Any]

    @classmethod
    def open(cls, bin_path: str | Path, vocab_size: int | None = None) -> "TokenDataset":
        """Open NAME.bin with NAME.json beside it, and check its size and ids.

        Raises InputError where a file is missing or damaged, or has ids from vocab_size upwards (by default the
        vocabulary that the .json names).
        """
        path = Path(bin_path)
        remedy = "delete it and encode the corpus again"
        info = read_shape(path.with_suffix(".json"), TOKEN_FILE)
        dtype = DTYPES[info["dtype"]]
        size = path.stat().st_size if path.exists() else None
        if size != info["tokens"] * dtype.itemsize:
            found = "no file" if size is None else f"{size} bytes"
            expected = f"{info['tokens']} tokens of {dtype.itemsize} bytes"
            raise InputError(f"{path}: size: expected {expected}, found {found}; {remedy}")
        tokens = TokenArray(path, dtype)
        largest = max_id_of(tokens)
        if largest != info["max_id"]:
            raise InputError(f"{path}: expected {info['max_id']} as the largest id, found {largest}; {remedy}")
        if largest >= (limit := vocab_size or info["vocab_size"]):
            raise InputError(
                f"{path}: expected ids below the vocabulary's {limit}, found {largest}; "
                "use the tokenizer that encoded this file"
            )
        return cls(path, tokens, info)


def max_id_of(tokens: Tokens) -> int:
    """The largest id of a token file, looked up block by block."""
    return max(int(tokens[start : start + CHUNK_TOKENS].max()) for start in range(0, len(tokens), CHUNK_TOKENS))


def check_length(count: int, context_length: int) -> None:
    """Raise InputError for a training split that has no window of context_length inputs and as many targets."""
    if count <= context_length:
        raise InputError(
            f"context_length: expected a training split of at least {context_length + 1} tokens, "
            f"found {count}; shorten the context or give the corpus more text"
        )


def batch_starts(count: int, seed: int, step: int, batch_size: int, context_length: int) -> np.ndarray:
    """Where the windows of one training step begin in so many tokens, int64 (batch,).

    They begin anywhere with equal chance: a pure function of the count, the seed and the step. Raises InputError where
    the split has fewer than context_length + 1 tokens.
    """
    check_length(count, context_length)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    return generator.integers(0, count - context_length, size=batch_size)


def get_batch(
    tokens: Tokens, seed: int, step: int, batch_size: int, context_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one training step, each (batch, seq) int64; targets are one token further."""
    starts = batch_starts(len(tokens), seed, step, batch_size, context_length)
    windows = np.stack([tokens[start : start + context_length + 1] for start in starts.tolist()]).astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def validation_windows(
    tokens: Tokens, context_length: int, limit_tokens: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fixed windows (seq,) int64 of inputs and targets that make every token but the first a target exactly once.

    The last window may be shorter; `limit_tokens` keeps only the first so many targets. Raises InputError for a split
    of fewer than two tokens.
    """
    if len(tokens) < 2:
        raise InputError(f"validation split: expected at least 2 tokens, found {len(tokens)}; give it more text")
    targets = len(tokens) - 1 if limit_tokens is None else min(len(tokens) - 1, limit_tokens)
    for start in range(0, targets, context_length):
        window = np.asarray(tokens[start : min(start + context_length, targets) + 1], dtype=np.int64)
        yield window[:-1], window[1:]
