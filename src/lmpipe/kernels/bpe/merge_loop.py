"""MergeLoop: the memory of the merge kernels (merge_kernels.py), and the steps between their calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lmpipe.kernels.bpe.pretoken_table import PretokenArrays
from lmpipe.kernels.bpe.structs import (
    COUNTER,
    EVENT,
    HEAP_ENTRY,
    MERGE,
    MERGE_FINISHED,
    MERGED_PAIR,
    NARROW_IDS,
    NEIGHBOUR,
    PAIR,
    PAIRS_ENDED,
    POOL_FULL,
    RECORD,
    RECORD_UNIT,
    RECORDS_SLACK,
    TEXT_FULL,
    TOKEN,
)
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, addresses_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import WORD

KERNEL_MODULE = "lmpipe.kernels.bpe.merge_kernels"
BYTES = 256
MERGES_PER_CALL = 1 << 8  # between two reports of progress
INITIAL_COUNTERS = 1 << 16
# With S the sum of all counts of pairs, the rarest of N merges occurs S / (c * N**1.5) times, with c from 0.2 to 0.4 in
# prose of 100 MB to 1 GB. Tracking only the pairs above that makes merging 1.4 to 1.7 times faster (1.0 s instead of
# 1.6 s for 1 GB of web text and 32,000 tokens; benchmarks/bpe.py --job train) and its memory smaller. A wrong guess
# costs another count, 0.4 s there.
MIN_COUNT_FACTOR = 0.4
# From then on: pairs for each merge that is left, and as many more.
PAIRS_PER_MERGE, EXTRA_PAIRS = 3, 1000
HEADROOM = 2  # the initial size of growing buffers, as a multiple of what is needed first
BYTES_PER_TOKEN = 16  # a first guess


def load_kernels(vocab_size: int) -> None:
    """Load the kernels for a vocabulary, compiled if necessary, before a clock starts."""
    load(KERNEL_MODULE, vocab_size > NARROW_IDS)


class MergeLoop:
    """Trains `num_merges` merges of words; the first makes the token `first_id`."""

    def __init__(self, words: PretokenArrays, first_id: int, num_merges: int):
        is_wide = first_id + num_merges > NARROW_IDS
        self.kernels = load(KERNEL_MODULE, is_wide)
        self.num_merges = num_merges
        self.state = StructBuffer(MERGE.nbytes)
        self.state[MERGE.next_id] = first_id
        self.buffers: dict[int, Buffer] = {}
        self._write_records(words, 4 if is_wide else 2)
        self._allocate_tokens(first_id + num_merges)

    def _write_records(self, words: PretokenArrays, id_bytes: int) -> None:
        text, lengths, counts = words
        symbols = int(lengths.sum(dtype=np.int64))
        overhead = RECORD.symbols + RECORD_UNIT
        self._allocate(MERGE.records, overhead * len(lengths) + id_bytes * symbols + RECORDS_SLACK)
        # Enough for any merge; the system provides only the pages that the largest one touches.
        self._allocate(MERGE.events, EVENT.nbytes * (symbols + 1))
        self.kernels.write_records(self.state.address, *addresses_of(text, lengths, counts), len(lengths))

    def _allocate_tokens(self, vocab_size: int) -> None:
        """Allocate the arrays indexed by token, and enter the 256 bytes as tokens."""
        for neighbours, dirty in (
            (MERGE.left_neighbours, MERGE.left_dirty),
            (MERGE.right_neighbours, MERGE.right_dirty),
        ):
            self._allocate(neighbours, NEIGHBOUR.nbytes * vocab_size)
            self._allocate(dirty, 4 * vocab_size)
        self._allocate(MERGE.output, MERGED_PAIR.nbytes * self.num_merges)
        self._allocate(MERGE.text, BYTES_PER_TOKEN * vocab_size, MERGE.text_size)
        self._allocate(MERGE.tokens, TOKEN.nbytes * vocab_size)
        tokens = self.buffers[MERGE.tokens].array("i8", TOKEN.nbytes // WORD * BYTES).reshape(BYTES, -1)
        values = np.arange(BYTES)
        tokens[:, TOKEN.head // WORD] = (values.astype(np.uint64) << np.uint64(56)).view(np.int64)
        tokens[:, TOKEN.start // WORD], tokens[:, TOKEN.size // WORD] = values, 1
        self.buffers[MERGE.text].array("u1", BYTES)[:] = values
        self.state[MERGE.text_used] = BYTES

    def _allocate(self, field: int, size: int, size_field: int | None = None, unit: int = 1) -> None:
        """Set a field of the state to a new buffer of `size` bytes, and `size_field` to its number of units."""
        self.buffers.pop(field, None)  # freed before the new one exists
        self.buffers[field] = Buffer(max(size, unit))
        self._set_buffer(field, size_field, unit)

    def _grow(self, field: int, size_field: int, unit: int, needed: int) -> None:
        """Make a buffer at least twice as long, and longer by `needed` units."""
        buffer = self.buffers[field]
        buffer.grow(max(2 * buffer.size, buffer.size + unit * needed))
        self._set_buffer(field, size_field, unit)

    def _set_buffer(self, field: int, size_field: int | None = None, unit: int = 1) -> None:
        self.state[field] = self.buffers[field].address
        if size_field is not None:
            self.state[size_field] = self.buffers[field].size // unit

    def run(self, advance: Callable[[int], None]) -> np.ndarray:
        """Merge until num_merges are done or no pair is left; returns the ids of the merged pairs (merges, 2).

        `advance(n)` is called after each n merges.
        """
        state = self.state
        is_finished = self.num_merges == 0 or not self.find_pairs()
        while not is_finished:
            before = state[MERGE.done]
            state[MERGE.target] = min(self.num_merges, before + MERGES_PER_CALL)
            reason = self.kernels.merge(state.address)
            advance(state[MERGE.done] - before)
            if reason == MERGE_FINISHED:
                is_finished = state[MERGE.done] == self.num_merges
            elif reason == PAIRS_ENDED:
                is_finished = state[MERGE.min_count] == 1 or not self.find_pairs()
            else:
                self.make_room(reason)
        return self.buffers[MERGE.output].array("i8", 2 * state[MERGE.done]).reshape(-1, 2).copy()

    def make_room(self, reason: int) -> None:
        """Grow the buffer that stopped the merge loop."""
        state = self.state
        if reason == POOL_FULL:
            self._grow(MERGE.pool, MERGE.pool_size, 4, state[MERGE.events_used])
        elif reason == TEXT_FULL:
            # No token is longer than all tokens together.
            self._grow(MERGE.text, MERGE.text_size, 1, state[MERGE.text_used])
        else:
            old, capacity = self.buffers.pop(MERGE.pairs), state[MERGE.pairs_capacity]
            self._allocate_pairs(state[MERGE.pairs_used] + state[MERGE.num_left] + state[MERGE.num_right] + 1)
            self.buffers[MERGE.heap].grow(HEAP_ENTRY.nbytes * state[MERGE.pairs_capacity])
            self._set_buffer(MERGE.heap)
            self.kernels.grow_pairs(state.address, old.address, capacity)

    def _allocate_pairs(self, pairs: int) -> None:
        """Allocate a table for HEADROOM times as many pairs, at most three quarters full."""
        capacity = 1 << (4 * HEADROOM * pairs // 3).bit_length()
        self._allocate(MERGE.pairs, PAIR.nbytes * capacity)
        self.state[MERGE.pairs_capacity] = capacity

    def find_pairs(self) -> bool:
        """Count all pairs, and list the words of those that may be merged next; False if no pair is left."""
        state, run = self.state, self.kernels
        counts = self._count_pairs()
        if not len(counts):
            return False
        min_count = self._min_count(counts)
        selected = int((counts >= min_count).sum())
        state[MERGE.min_count] = min_count
        state[MERGE.pairs_used] = state[MERGE.heap_used] = 0
        self._allocate_pairs(selected)
        self._allocate(MERGE.heap, HEAP_ENTRY.nbytes * state[MERGE.pairs_capacity])
        run.select_pairs(state.address)
        self._allocate(MERGE.counters, 0)
        words = run.measure_lists(state.address)
        self._allocate(MERGE.pool, 4 * HEADROOM * words, MERGE.pool_size, 4)
        run.fill_lists(state.address)
        return True

    def _min_count(self, counts: np.ndarray) -> int:
        """Choose the count from which pairs are tracked: few pairs, but enough for the merges that are left."""
        left = self.num_merges - self.state[MERGE.done]
        if self.state[MERGE.done] == 0:
            guess = int(counts.sum() / (MIN_COUNT_FACTOR * left**1.5))
            return max(1, min(guess, int(counts.max())))
        tracked = min(len(counts), PAIRS_PER_MERGE * left + EXTRA_PAIRS)
        return int(np.partition(counts, len(counts) - tracked)[len(counts) - tracked])

    def _count_pairs(self) -> np.ndarray:
        """Count all pairs; returns the counts."""
        capacity = INITIAL_COUNTERS
        while True:
            self._allocate(MERGE.counters, COUNTER.nbytes * capacity)
            self.state[MERGE.counters_capacity] = capacity
            if not self.kernels.count_pairs(self.state.address):
                counters = self.buffers[MERGE.counters].array("i8", 2 * capacity).reshape(-1, 2)
                return counters[counters[:, COUNTER.key // WORD] != 0, COUNTER.count // WORD]
            capacity *= 2
