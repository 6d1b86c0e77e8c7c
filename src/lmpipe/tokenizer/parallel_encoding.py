"""Parallel encoding of a text, block by block."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lmpipe.io.files import open_text
from lmpipe.io.progress import progress
from lmpipe.tokenizer.chunking import BLOCK_BYTES, blocks, cores, read_block
from lmpipe.tokenizer.pretokenizer import special_bytes
from lmpipe.tokenizer.tokenizer import Tokenizer

AHEAD = 2  # blocks beyond one for each core, so that no core waits for the one that hashes and writes


def encoded_blocks(
    text_path: str | Path,
    tokenizer: Tokenizer,
    label: str,
    counts: np.ndarray,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[np.ndarray]:
    """The ids of a text file, or of its bytes from `start` to `stop`, in order.

    They come in arrays (tokens,) that are there until the next one is asked for. `counts` (vocab,), int64, is told how
    often each id occurs. The progress is shown under a label.
    """
    encoder, specials = tokenizer.encoder, special_bytes(tokenizer.special_tokens)
    with open_text(text_path) as file:
        stop = os.fstat(file.fileno()).st_size if stop is None else stop

        def encode(block: tuple[int, int]) -> tuple[Callable[[], None], np.ndarray, int]:
            space = encoder.acquire()
            try:
                read_block(file.fileno(), *block, space.text)
                ids = encoder.encode(space, block[1] - block[0])
            except BaseException:
                encoder.release(space)
                raise
            return lambda: encoder.release(space), ids, block[1] - block[0]

        threads = max(1, min(cores(), -(-(stop - start) // BLOCK_BYTES)))
        with progress(label, stop - start, "B") as bar, ExitStack() as cleanup:
            pool = cleanup.enter_context(ThreadPoolExecutor(threads))
            waiting: deque = deque()
            cleanup.callback(finish, waiting)
            for block in blocks(file.fileno(), specials, start, stop):
                waiting.append(pool.submit(encode, block))
                if len(waiting) > threads + AHEAD:
                    yield from next_ids(waiting, encoder, counts, bar.advance)
            while waiting:
                yield from next_ids(waiting, encoder, counts, bar.advance)


def next_ids(waiting: deque, encoder: Any, counts: np.ndarray, advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    """Yield the ids of the first of the blocks that are being encoded."""
    release, ids, size = waiting.popleft().result()
    try:
        encoder.count_ids(ids, counts)
        yield ids
    finally:
        release()
    advance(size)


def finish(waiting: deque) -> None:
    """Let what was begun end, after a fault or when no more is asked for."""
    for future in waiting:
        if not future.cancel() and not future.exception():
            future.result()[0]()
