"""The memory of the merge loop (merge.py) and the steps between its calls, from the caller's side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lmpipe.kernels.bpe.pretoken_table import PretokenArrays
from lmpipe.kernels.bpe.structs import (
    COUNTER,
    EVENT,
    HEAP_ENTRY,
    HEAP_FULL,
    MERGE,
    MERGE_FINISHED,
    NARROW_IDS,
    NEAR,
    PAIR,
    PAIRS_ENDED,
    POOL_FULL,
    RECORD,
    RECORD_UNIT,
    SLACK,
    TEXT_FULL,
    TOKEN,
)
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, borrowed
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import WORD

KERNEL_MODULE = "lmpipe.kernels.bpe.merge_kernels"
BYTES = 256
MERGES_PER_CALL = 1 << 8  # between two reports of progress
INITIAL_COUNTERS = 1 << 16
# From the sum of all counts of pairs S, the rarest of N merges occurs S / (c * N**1.5) times, with c from 0.2 to 0.4 in
# prose of 100 MB to 1 GB. Looking after the pairs above that alone makes merging 1.4 to 1.7 times faster (1.0 s, not
# 1.6 s, at 1 GB of web text and 32,000 tokens) and its memory smaller. A wrong guess costs another count, 0.4 s there.
GUESS = 0.4
# From then on: pairs for each merge that is still wanted, and as many more.
PAIRS_PER_MERGE, EXTRA_PAIRS = 3, 1000
HEADROOM = 2  # how many times what is needed at first the growing buffers have
BYTES_PER_TOKEN = 16  # bytes that a token has, as a first guess


class MergeLoop:
    """Words on their way from bytes to tokens: `wanted` merges, of which the first makes the token `first`."""

    def __init__(self, words: PretokenArrays, first: int, wanted: int):
        is_wide = first + wanted > NARROW_IDS
        self.kernels = load(KERNEL_MODULE, is_wide)
        self.wanted = wanted
        self.state = StructBuffer(MERGE.nbytes)
        self.state[MERGE.next] = first
        self.buffers: dict[int, Buffer] = {}
        self._provide_for_words(words, 4 if is_wide else 2)
        self._provide_for_tokens(first + wanted)

    def _provide_for_words(self, words: PretokenArrays, symbol_bytes: int) -> None:
        """Make the records of the words, and what is as large as they are."""
        text, lengths, counts = words
        symbols = int(lengths.sum(dtype=np.int64))
        overhead = RECORD.symbols + RECORD_UNIT
        self._provide(MERGE.records, overhead * len(lengths) + symbol_bytes * symbols + SLACK)
        # Enough for any merge; the system provides no more of it than the largest one touches.
        self._provide(MERGE.events, EVENT.nbytes * (symbols + 1))
        with borrowed(text, lengths, counts) as addresses:
            self.kernels.write_records(self.state.address, *addresses, len(lengths))

    def _provide_for_tokens(self, vocab_size: int) -> None:
        """Make what has a place for each token, and note the 256 bytes as tokens."""
        for near in (MERGE.near_left, MERGE.near_right):
            self._provide(near, NEAR.nbytes * vocab_size)
        for touched in (MERGE.left, MERGE.right):
            self._provide(touched, 4 * vocab_size)
        self._provide(MERGE.output, 2 * WORD * self.wanted)
        self._provide(MERGE.text, BYTES_PER_TOKEN * vocab_size, MERGE.text_size)
        self._provide(MERGE.tokens, TOKEN.nbytes * vocab_size)
        tokens = self.buffers[MERGE.tokens].array("i8", 3 * BYTES).reshape(BYTES, 3)
        numbers = np.arange(BYTES)
        tokens[:, 0] = (numbers.astype(np.uint64) << np.uint64(56)).view(np.int64)
        tokens[:, 1], tokens[:, 2] = numbers, 1
        self.buffers[MERGE.text].array("u1", BYTES)[:] = numbers
        self.state[MERGE.text_used] = BYTES

    def _provide(self, field: int, size: int, size_field: int | None = None, unit: int = 1) -> None:
        """Give a field of the state a new buffer of so many bytes; `size_field` counts them in units."""
        if field in self.buffers:
            self.buffers[field].close()
        self.buffers[field] = Buffer(max(size, unit))
        self._locate(field, size_field, unit)

    def _grow(self, field: int, size_field: int, unit: int, needed: int) -> None:
        """Make a buffer at least twice as long, and longer by so many units."""
        buffer = self.buffers[field]
        buffer.grow(max(2 * buffer.size, buffer.size + unit * needed))
        self._locate(field, size_field, unit)

    def _locate(self, field: int, size_field: int | None, unit: int) -> None:
        """Tell the kernels where a buffer is and how many units it has."""
        self.state[field] = self.buffers[field].address
        if size_field is not None:
            self.state[size_field] = self.buffers[field].size // unit

    def run(self, advance: Callable[[int], None]) -> np.ndarray:
        """Merge until all is done or no pair is left; returns the ids of the merged pairs (merges, 2).

        `advance` is told of every number of merges that is done.
        """
        state = self.state
        ended = self.wanted == 0 or not self.find_pairs()
        while not ended:
            before = state[MERGE.done]
            state[MERGE.wanted] = min(self.wanted, before + MERGES_PER_CALL)
            reason = self.kernels.merge(state.address)
            advance(state[MERGE.done] - before)
            if reason == MERGE_FINISHED:
                ended = state[MERGE.done] == self.wanted
            elif reason == PAIRS_ENDED:
                ended = state[MERGE.least] == 1 or not self.find_pairs()
            else:
                self.make_room(reason)
        return self.buffers[MERGE.output].array("i8", 2 * state[MERGE.done]).reshape(-1, 2).copy()

    def make_room(self, reason: int) -> None:
        """Make the buffer longer for which a merge has stopped."""
        state = self.state
        new_pairs = state[MERGE.lefts] + state[MERGE.rights] + 1
        if reason == POOL_FULL:
            self._grow(MERGE.pool, MERGE.pool_size, 4, state[MERGE.events_used])
        elif reason == HEAP_FULL:
            self._grow(MERGE.heap, MERGE.heap_size, HEAP_ENTRY.nbytes, new_pairs)
        elif reason == TEXT_FULL:
            # No token is longer than all that are there together.
            self._grow(MERGE.text, MERGE.text_size, 1, state[MERGE.text_used])
        else:
            old, capacity = self.buffers.pop(MERGE.pairs), state[MERGE.pairs_capacity]
            self._provide_pairs(state[MERGE.pairs_used] + new_pairs)
            self.kernels.grow_pairs(state.address, old.address, capacity)
            old.close()

    def _provide_pairs(self, pairs: int) -> None:
        """Make a table for so many pairs and more, at most three quarters full."""
        capacity = 1 << (4 * HEADROOM * pairs // 3).bit_length()
        self._provide(MERGE.pairs, PAIR.nbytes * capacity)
        self.state[MERGE.pairs_capacity] = capacity

    def find_pairs(self) -> bool:
        """Count all pairs, and make lists for those that may be merged next; False where no pair is left."""
        state, run = self.state, self.kernels
        run.pack_records(state.address)
        counts = self._count_pairs()
        if not len(counts):
            return False
        least = self._least_count(counts)
        selected = int((counts >= least).sum())
        state[MERGE.least] = least
        state[MERGE.pairs_used] = state[MERGE.heap_used] = 0
        self._provide_pairs(selected)
        self._provide(MERGE.heap, HEAP_ENTRY.nbytes * HEADROOM * selected, MERGE.heap_size, HEAP_ENTRY.nbytes)
        run.select_pairs(state.address)
        self._provide(MERGE.counter, 0)
        words = run.measure_lists(state.address)
        self._provide(MERGE.pool, 4 * HEADROOM * words, MERGE.pool_size, 4)
        run.fill_lists(state.address)
        return True

    def _least_count(self, counts: np.ndarray) -> int:
        """How often a pair must occur to be looked after, so that few are, and they suffice for the wanted merges."""
        wanted = self.wanted - self.state[MERGE.done]
        if self.state[MERGE.done] == 0:
            guess = int(counts.sum() / (GUESS * wanted**1.5))
            return max(1, min(guess, int(counts.max())))
        kept = min(len(counts), PAIRS_PER_MERGE * wanted + EXTRA_PAIRS)
        return int(np.partition(counts, len(counts) - kept)[len(counts) - kept])

    def _count_pairs(self) -> np.ndarray:
        """Count all pairs; returns the counts."""
        capacity = INITIAL_COUNTERS
        while True:
            self._provide(MERGE.counter, COUNTER.nbytes * capacity)
            self.state[MERGE.counter_capacity] = capacity
            if not self.kernels.count_pairs(self.state.address):
                counters = self.buffers[MERGE.counter].array("i8", 2 * capacity).reshape(-1, 2)
                return counters[counters[:, 0] != 0, 1]
            capacity *= 2

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self.state, *self.buffers.values()):
            buffer.close()
