"""Counting the unique pre-tokens of long files with all cores, and the files of counts, one for each shard."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lmpipe.errors import InputError
from lmpipe.io.files import atomic_write, check_no_overwrite, open_text, write_json
from lmpipe.io.progress import progress
from lmpipe.io.validation import short_repr
from lmpipe.kernels.bpe.block_scan import BlockScan, SpecialTokenTable, class_table
from lmpipe.kernels.bpe.pretoken_table import PretokenArrays, PretokenTable, ThreadCounter
from lmpipe.kernels.runtime.buffers import Buffer, buffer_of
from lmpipe.kernels.runtime.structs import PADDING
from lmpipe.provenance.environment import peak_memory_bytes
from lmpipe.tokenizer.chunking import BLOCK_BYTES, available_cpus, blocks, read_block
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, special_bytes

# A thread's table stays small enough for the caches to help; when it is full, it goes into the shared one.
THREAD_CAPACITY = 1 << 20
MAX_TEXT_BYTES = 1 << 62  # bytes; sums of counts stay below what 64 bits hold


class PretokenCounts(Mapping[bytes, int]):
    """Unique pre-tokens in the order of their bytes, and how often each occurs.

    Arrays, because a Python dict of millions of words takes ten times their memory: `text` (uint8) is all of them
    joined, `lengths` (uint32) and `counts` (int64) have a number for each.
    """

    def __init__(self, text: np.ndarray, lengths: np.ndarray, counts: np.ndarray):
        self.text, self.lengths, self.counts = text, lengths, counts

    @classmethod
    def of(cls, counts: Mapping[bytes, int]) -> "PretokenCounts":
        """Counts given as any mapping."""
        if isinstance(counts, cls):
            return counts
        words = sorted(counts)
        text = np.frombuffer(b"".join(words), np.uint8)
        lengths = np.fromiter(map(len, words), np.uint32, len(words))
        return cls(text, lengths, np.fromiter(map(counts.__getitem__, words), np.int64, len(words)))

    @cached_property
    def _dict(self) -> dict[bytes, int]:
        text, ends = self.text.tobytes(), np.cumsum(self.lengths, dtype=np.int64).tolist()
        words = (text[start:stop] for start, stop in pairwise([0, *ends]))
        return dict(zip(words, self.counts.tolist(), strict=True))

    def __getitem__(self, pretoken: bytes) -> int:
        return self._dict[pretoken]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._dict)

    def __len__(self) -> int:
        return len(self.counts)


def count_pretokens(
    path: str | Path, special_tokens: Sequence[str], start: int = 0, stop: int | None = None
) -> PretokenCounts:
    """Count the unique pre-tokens of a file, or of its bytes from `start` to `stop`, with all cores.

    The counts do not depend on the number of cores, nor on how the file is read in blocks; beside them, memory is
    constant.
    """
    return PretokenCounts(*count_pretokens_arrays(path, special_tokens, start, stop))


def count_pretokens_arrays(
    path: str | Path, special_tokens: Sequence[str], start: int = 0, stop: int | None = None, in_order: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As count_pretokens, but the arrays of PretokenCounts; without `in_order` in any order, which is faster."""
    specials = special_bytes(special_tokens)
    with open_text(path) as file:
        stop = os.fstat(file.fileno()).st_size if stop is None else stop
        with progress(f"counting pre-tokens of {path}", max(0, stop - start), "B") as bar:
            return count_file_range(file.fileno(), specials, start, stop, bar.advance, in_order)


def count_file_range(
    file: int, specials: Sequence[bytes], start: int, stop: int, advance: Callable[[int], None], in_order: bool = True
) -> PretokenArrays:
    """Count the pre-tokens of a file's bytes from `start` to `stop`; they are returned in the order of their bytes.

    `file` is a descriptor; `advance` is told of every number of bytes that is done. Without `in_order` the order of the
    words may depend on the threads, and it takes less time.
    """
    threads = max(1, min(available_cpus(), -(-(stop - start) // BLOCK_BYTES)))
    todo, lock, shared = blocks(file, specials, start, stop), threading.Lock(), PretokenTable()
    with buffer_of(class_table()) as classes, SpecialTokenTable(specials) as special_table:

        def work(_: int) -> None:
            counter = ThreadCounter(classes, special_table)
            buffer = Buffer(BLOCK_BYTES + BLOCK_BYTES // 8 + PADDING)
            try:
                while True:
                    with lock:
                        block = next(todo, None)
                    if block is None:
                        break
                    read_block(file, *block, buffer)
                    count_text(counter, buffer.address, block[1] - block[0], shared, lock)
                    with lock:
                        advance(block[1] - block[0])
                with lock:
                    shared.add(counter.table)
            except BaseException:
                with lock:
                    todo.close()
                raise
            finally:
                counter.close()
                buffer.close()

        try:
            if threads == 1:
                work(0)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(work, range(threads)))
            return shared.words(in_order)
        finally:
            shared.close()


def count_text(counter: ThreadCounter, address: int, size: int, shared: PretokenTable, lock: threading.Lock) -> None:
    """Count a text in memory in a thread's table, which is emptied into the shared one when it is full."""
    counter.start(address, size)
    while not counter.count():
        if counter.table.capacity_for(BlockScan.STARTS) <= THREAD_CAPACITY:
            counter.table.reserve(BlockScan.STARTS, 0)
        else:
            with lock:
                shared.add(counter.table)
            counter.table.clear()


def sum_count_arrays(parts: Iterable[PretokenArrays]) -> PretokenArrays:
    """The sums of several counts, in the order of the bytes."""
    table = PretokenTable()
    try:
        for text, lengths, counts in parts:
            table.add_words(text.tobytes(), np.ascontiguousarray(lengths), np.ascontiguousarray(counts))
        return table.words()
    finally:
        table.close()


def sum_counts(parts: Iterable[Mapping[bytes, int]]) -> PretokenCounts:
    """The sums of several counts.

    >>> dict(sum_counts([{b"a": 1}, {b"a": 2, b"b": 1}]))
    {b'a': 3, b'b': 1}
    """
    return PretokenCounts(
        *sum_count_arrays((part.text, part.lengths, part.counts) for part in map(PretokenCounts.of, parts))
    )


def shard_bounds(path: str | Path, shards: int) -> list[tuple[int, int]]:
    """Cut a file into byte ranges (start, stop) of about equal size, each ending after a document.

    There are always `shards` ranges; where documents are few and long, some are empty.
    """
    with open_text(path) as file:
        size = os.fstat(file.fileno()).st_size
        cuts = [next_document_start(file, size * shard // shards, size) for shard in range(1, shards)]
    return list(pairwise([0, *accumulate(cuts, max), size]))


def next_document_start(file: BinaryIO, place: int, size: int) -> int:
    """The first byte after the first delimiter at or after a place; the size of the file where none follows."""
    delimiter = END_OF_TEXT.encode()
    file.seek(place)
    tail, offset = b"", place
    while block := file.read(BLOCK_BYTES):
        window = tail + block
        if (found := window.find(delimiter)) >= 0:
            return offset + found + len(delimiter)
        tail = window[-len(delimiter) + 1 :]
        offset += len(window) - len(tail)
    return size


def save_counts(path: str | Path, counts: Mapping[bytes, int]) -> None:
    """Write counts as an .npz: `text` (all pre-tokens joined, ordered by bytes), `lengths`, `counts`.

    Equal counts give equal bytes.
    """
    with atomic_write(path, "wb") as file:
        write_counts(file, PretokenCounts.of(counts))


def write_counts(file: BinaryIO, counts: PretokenCounts) -> None:
    """Write counts into an open file, as `save_counts` says."""
    np.savez(file, text=counts.text, lengths=counts.lengths, counts=counts.counts)
    file.flush()


def load_counts(path: str | Path) -> PretokenCounts:
    """Read what `save_counts` wrote; raises InputError where the file is missing or damaged."""
    remedy = "delete it and count again"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = [np.array(arrays[name]) for name in ("text", "lengths", "counts")]
    except FileNotFoundError:
        raise InputError(f"{path}: expected counted pre-tokens, found no file; run count-pretokens first") from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for damaged files
        raise InputError(
            f"{path}: expected counted pre-tokens, found a damaged file ({short_repr(str(error))}); {remedy}"
        ) from None
    # Compiled code reads these arrays: they must be what it takes them for.
    if [(array.dtype.str[1:], array.ndim) for array in found] != [("u1", 1), ("u4", 1), ("i8", 1)]:
        raise InputError(f"{path}: expected arrays of uint8, uint32 and int64, found others; {remedy}")
    text, lengths, counts = found
    if len(lengths) != len(counts) or lengths.sum(dtype=np.int64) != len(text) or not lengths.all():
        raise InputError(
            f"{path}: lengths: expected their sum to be {len(text)} bytes of text, found another; {remedy}"
        )
    if counts.min(initial=1) < 1 or lengths @ counts.astype(np.float64) > MAX_TEXT_BYTES:
        raise InputError(f"{path}: counts: expected those of a text, found {counts.min()} to {counts.max()}; {remedy}")
    return PretokenCounts(text, lengths, counts)


def count_shard(text_path: str | Path, shard: int, shards: int, npz_path: str | Path, json_path: str | Path) -> None:
    """Count the pre-tokens of one of `shards` shards, numbered from 0, into an .npz; its size and cost into a .json."""
    started = time.perf_counter()
    check_no_overwrite([text_path], [npz_path, json_path])
    if not 0 <= shard < shards:
        raise InputError(f"--shard: expected a number from 0 to {shards - 1}, found {shard}; correct it")
    start, stop = shard_bounds(text_path, shards)[shard]
    counts = count_pretokens(text_path, (END_OF_TEXT,), start, stop)
    with atomic_write(npz_path, "wb") as file:
        write_counts(file, counts)
        record = {
            "bytes": stop - start,
            "pretokens": int(counts.counts.sum()),
            "unique_pretokens": len(counts),
            "wall_seconds": time.perf_counter() - started,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        # Before the counts get their name: where it cannot be written, an earlier pair stays whole.
        write_json(json_path, record)
