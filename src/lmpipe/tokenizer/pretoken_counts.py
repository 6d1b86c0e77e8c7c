"""Counts of the unique pre-tokens of text files, made by all CPUs, and their files, one for each shard."""

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
from lmpipe.io.files import atomic_write, check_no_overwrite
from lmpipe.io.progress import progress
from lmpipe.io.validation import short_repr
from lmpipe.kernels.bpe.block_scan import BlockScan, SpecialTokenTable, class_table
from lmpipe.kernels.bpe.pretoken_table import PretokenArrays, PretokenTable, load_kernels
from lmpipe.kernels.runtime.buffers import Buffer, buffer_of
from lmpipe.kernels.runtime.structs import PADDING
from lmpipe.provenance.environment import peak_memory_bytes
from lmpipe.study.text_files import open_plain_text
from lmpipe.tokenizer.chunking import BLOCK_BYTES, available_cpus, blocks, find_end, read_block
from lmpipe.tokenizer.documents import PretokenShard
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT, special_bytes

# A thread's table stays small enough for the processor's caches; a full one is added to the shared table.
THREAD_CAPACITY = 1 << 20
MAX_TEXT_BYTES = 1 << 62  # so sums of counts fit into 64 bits


class PretokenCounts(Mapping[bytes, int]):
    """Unique pre-tokens, sorted by their bytes, and their frequencies.

    Arrays, because a Python dict of millions of words takes ten times the memory: `text` (uint8) holds the joined
    pre-tokens, `lengths` (uint32) and `counts` (int64) one number for each.
    """

    def __init__(self, text: np.ndarray, lengths: np.ndarray, counts: np.ndarray):
        self.text, self.lengths, self.counts = text, lengths, counts

    @classmethod
    def from_mapping(cls, counts: Mapping[bytes, int]) -> "PretokenCounts":
        """Build counts from any mapping."""
        if isinstance(counts, cls):
            return counts
        words = sorted(counts)
        text = np.frombuffer(b"".join(words), np.uint8)
        lengths = np.fromiter(map(len, words), np.uint32, len(words))
        return cls(text, lengths, np.fromiter(map(counts.__getitem__, words), np.int64, len(words)))

    @property
    def arrays(self) -> PretokenArrays:
        """The arrays `text`, `lengths` and `counts`."""
        return self.text, self.lengths, self.counts

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
    path: str | Path, special_tokens: Sequence[str], start: int = 0, stop: int | None = None, in_order: bool = True
) -> PretokenCounts:
    """Count the unique pre-tokens of a file, or of its bytes from `start` to `stop`, with all CPUs.

    The counts do not depend on the number of CPUs or on block sizes. Memory beyond the counts is constant. Without
    `in_order` the pre-tokens are unsorted, which is faster.
    """
    specials = special_bytes(special_tokens)
    with open_plain_text(path) as file:
        stop = os.fstat(file.fileno()).st_size if stop is None else stop
        with progress(f"counting pre-tokens of {path}", max(0, stop - start), "B") as bar:
            table = count_blocks(file.fileno(), specials, start, stop, bar.advance)
    return PretokenCounts(*table.words(in_order))


def count_blocks(
    file: int, specials: Sequence[bytes], start: int, stop: int, advance: Callable[[int], None]
) -> PretokenTable:
    """Count the pre-tokens of the bytes of a file (a descriptor) from `start` to `stop`.

    `advance` is called with the number of bytes done.
    """
    threads = max(1, min(available_cpus(), -(-(stop - start) // BLOCK_BYTES)))
    todo, lock, shared = blocks(file, specials, start, stop), threading.Lock(), PretokenTable()
    classes, special_table = buffer_of(class_table()), SpecialTokenTable(specials)

    def work(_: int) -> None:
        table, scan = PretokenTable(), BlockScan(classes, special_table)
        buffer = Buffer(BLOCK_BYTES + BLOCK_BYTES // 8 + PADDING)
        try:
            while True:
                with lock:
                    block = next(todo, None)
                if block is None:
                    break
                read_block(file, *block, buffer)
                scan.start(buffer.address, block[1] - block[0], table.state.address)
                count_block(scan, table, block[1] - block[0], shared, lock)
                with lock:
                    advance(block[1] - block[0])
            with lock:
                shared.add(table)
        except BaseException:
            with lock:
                todo.close()
            raise

    if threads == 1:
        work(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    return shared


def count_block(scan: BlockScan, table: PretokenTable, size: int, shared: PretokenTable, lock: threading.Lock) -> None:
    """Count a block of `size` bytes in a thread's table; add a full one to the shared table and clear it."""
    table.reserve(0, size)
    while not table.count(scan):
        if table.capacity_for(BlockScan.STARTS) <= THREAD_CAPACITY:
            table.reserve(BlockScan.STARTS, 0)
        else:
            with lock:
                shared.add(table)
            table.clear()


def sum_counts(shards: Iterable[Mapping[bytes, int]]) -> PretokenCounts:
    """Sum several counts.

    >>> dict(sum_counts([{b"a": 1}, {b"a": 2, b"b": 1}]))
    {b'a': 3, b'b': 1}
    """
    table = PretokenTable()
    for shard in map(PretokenCounts.from_mapping, shards):
        table.add_words(shard.text.tobytes(), shard.lengths, shard.counts)
    return PretokenCounts(*table.words())


def shard_bounds(path: str | Path, num_shards: int) -> list[tuple[int, int]]:
    """Divide a file into `num_shards` byte ranges (start, stop) of about equal size, each ending after a document.

    Some are empty if documents are few and long.
    """
    with open_plain_text(path) as file:
        size = os.fstat(file.fileno()).st_size
        delimiter = END_OF_TEXT.encode()
        ends = [find_end(file.fileno(), delimiter, size * shard // num_shards) for shard in range(1, num_shards)]
        bounds = [size if end is None else end for end in ends]
    return list(pairwise([0, *accumulate(bounds, max), size]))


def shard_range(path: str | Path, shard: int, num_shards: int) -> tuple[int, int]:
    """Return one range of `shard_bounds`; raise InputError for a shard that does not exist."""
    if not 0 <= shard < num_shards:
        raise InputError("--shard", f"is {shard}, but shards are numbered from 0 to {num_shards - 1}", "correct it")
    return shard_bounds(path, num_shards)[shard]


def write_counts(file: BinaryIO, counts: Mapping[bytes, int]) -> None:
    """Write counts as an .npz file with the arrays of PretokenCounts; equal counts give equal bytes."""
    arrays = PretokenCounts.from_mapping(counts)
    np.savez(file, text=arrays.text, lengths=arrays.lengths, counts=arrays.counts)
    file.flush()


def load_counts(path: str | Path) -> PretokenCounts:
    """Read a file of `write_counts`; raise InputError if it is missing or damaged."""
    remedy = "delete it and count again"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            text, lengths, counts = [np.array(arrays[name]) for name in ("text", "lengths", "counts")]
    except FileNotFoundError:
        raise InputError(path, "is missing", "run lmpipe count-pretokens first") from None
    except (PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for damaged files
        raise InputError(path, f"is a damaged file of counts ({short_repr(str(error))})", remedy) from None
    # Compiled code reads these arrays without checks.
    if [(array.dtype.str[1:], array.ndim) for array in (text, lengths, counts)] != [("u1", 1), ("u4", 1), ("i8", 1)]:
        raise InputError(path, "does not hold arrays of uint8, uint32 and int64", remedy)
    if len(lengths) != len(counts) or lengths.sum(dtype=np.int64) != len(text) or not lengths.all():
        raise InputError(path, f"holds lengths that do not match its {len(text)} bytes of text", remedy)
    if counts.min(initial=1) < 1 or lengths @ counts.astype(np.float64) > MAX_TEXT_BYTES:
        raise InputError(path, f"holds impossible counts, {counts.min()} to {counts.max()}", remedy)
    return PretokenCounts(text, lengths, counts)


def count_shard(
    text_path: str | Path,
    shard: int,
    num_shards: int,
    npz_path: str | Path,
    json_path: str | Path,
    special_tokens: Sequence[str] = (),
) -> PretokenShard:
    """Write the pre-token counts of one shard, numbered from 0, as an .npz file, and its size and cost as .json.

    `special_tokens` are those beside the end of text.
    """
    started = time.perf_counter()
    load_kernels()
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    check_no_overwrite([text_path], [npz_path, json_path])
    start, stop = shard_range(text_path, shard, num_shards)
    counts = count_pretokens(text_path, (END_OF_TEXT, *special_tokens), start, stop)
    with atomic_write(npz_path, "wb") as file:
        write_counts(file, counts)
        info = PretokenShard(
            bytes=stop - start,
            pretokens=int(counts.counts.sum()),
            unique_pretokens=len(counts),
            wall_seconds=time.perf_counter() - started,
            compile_seconds=compile_seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
        # Written before the counts get their name: if it cannot be, an earlier pair stays whole.
        info.write(json_path)
    return info
