"""Parallel encoding of a text file: blocks are encoded by all CPUs and delivered in order."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from lmpipe.io.progress import progress
from lmpipe.kernels.bpe.encoder import Encoder, Workspace
from lmpipe.study.text_files import open_plain_text
from lmpipe.tokenizer.chunking import BLOCK_BYTES, available_cpus, blocks, read_block
from lmpipe.tokenizer.pretokenizer import special_bytes
from lmpipe.tokenizer.tokenizer import Tokenizer

PREFETCH = 2  # blocks beyond one for each thread, so no thread waits for the one that hashes and writes

Pending = deque[Future[tuple[Workspace, np.ndarray, int]]]


def encode_blocks(
    text_path: str | Path,
    tokenizer: Tokenizer,
    label: str,
    counts: np.ndarray,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield the ids of a text file, or of its bytes from `start` to `stop`, in order and in constant memory.

    Each array (tokens,) is valid until the next one is requested. The token frequencies are added to `counts`, int64
    (vocab,). `label` names the progress bar.
    """
    encoder, specials = tokenizer.encoder, special_bytes(tokenizer.special_tokens)
    with open_plain_text(text_path) as file:
        stop = os.fstat(file.fileno()).st_size if stop is None else stop

        def encode(block: tuple[int, int]) -> tuple[Workspace, np.ndarray, int]:
            size = block[1] - block[0]
            space = encoder.acquire()
            try:
                read_block(file.fileno(), *block, space.text)
                return space, space.encode(size), size
            except BaseException:
                encoder.release(space)
                raise

        threads = max(1, min(available_cpus(), -(-(stop - start) // BLOCK_BYTES)))
        with progress(label, stop - start, "B") as bar, ExitStack() as cleanup:
            pool = cleanup.enter_context(ThreadPoolExecutor(threads))
            pending: Pending = deque()
            cleanup.callback(cancel_pending, pending, encoder)
            for block in blocks(file.fileno(), specials, start, stop):
                pending.append(pool.submit(encode, block))
                if len(pending) > threads + PREFETCH:
                    yield from drain_one(pending, encoder, counts, bar.advance)
            while pending:
                yield from drain_one(pending, encoder, counts, bar.advance)


def encode_path(text_path: str | Path, tokenizer: Tokenizer, start: int = 0) -> np.ndarray:
    """Return the ids of a text file from byte `start` on, (tokens,); raise InputError if it cannot be read."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    blocks = [ids.copy() for ids in encode_blocks(text_path, tokenizer, f"encoding {text_path}", counts, start)]
    return np.concatenate(blocks) if blocks else np.zeros(0, tokenizer.encoder.dtype)


def drain_one(
    pending: Pending, encoder: Encoder, counts: np.ndarray, advance: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Yield the ids of the first pending block and release its workspace."""
    space, ids, size = pending.popleft().result()
    try:
        encoder.count_ids(ids, counts)
        yield ids
    finally:
        encoder.release(space)
    advance(size)


def cancel_pending(pending: Pending, encoder: Encoder) -> None:
    """Cancel the pending blocks, after an error or when the iteration is abandoned."""
    for future in pending:
        if not future.cancel() and not future.exception():
            encoder.release(future.result()[0])
