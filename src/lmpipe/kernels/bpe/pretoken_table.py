"""PretokenTable: unique pre-tokens with their counts."""

from __future__ import annotations

import ctypes

import numpy as np

from lmpipe.kernels.bpe.block_scan import BlockScan, class_table
from lmpipe.kernels.bpe.structs import DONE, SLOT, TABLE
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, addresses_of, buffer_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import WORD

KERNEL_MODULE = "lmpipe.kernels.bpe.pretoken_table_kernels"
# Pre-tokens: their bytes joined (uint8), the length of each (uint32, never 0), the count of each (int64).
PretokenArrays = tuple[np.ndarray, np.ndarray, np.ndarray]

INITIAL_CAPACITY = 1 << 16
INITIAL_ARENA = 1 << 20


def load_kernels() -> None:
    """Load the kernels and the classes of characters, compiled if necessary, before a clock starts."""
    load(KERNEL_MODULE)
    class_table()


class PretokenTable:
    """Unique pre-tokens and their counts; grows as needed. `capacity` is a power of two."""

    def __init__(self, capacity: int = INITIAL_CAPACITY):
        self.kernels = load(KERNEL_MODULE)
        self.state = StructBuffer(TABLE.nbytes)
        self.arena = Buffer(INITIAL_ARENA)
        self.slots = Buffer(SLOT.nbytes * capacity, huge=True)
        self._set_buffers(capacity)

    def _set_buffers(self, capacity: int) -> None:
        """Store the addresses and sizes of slots and arena in the state."""
        self.capacity = capacity
        self.state[TABLE.slots] = self.slots.address
        self.state[TABLE.capacity] = capacity
        self.state[TABLE.arena] = self.arena.address
        self.state[TABLE.arena_size] = self.arena.size

    @property
    def used(self) -> int:
        """Number of unique pre-tokens."""
        return self.state[TABLE.used]

    @property
    def arena_used(self) -> int:
        """Bytes of the pre-tokens that do not fit into a slot."""
        return self.state[TABLE.arena_used]

    def capacity_for(self, words: int) -> int:
        """Return the capacity that has room for this many more pre-tokens."""
        capacity = self.capacity
        while 4 * (self.used + words) > 3 * capacity:
            capacity *= 2
        return capacity

    def reserve(self, words: int, text_bytes: int) -> None:
        """Make room for this many more pre-tokens and bytes."""
        if self.arena_used + text_bytes > self.arena.size:
            self.arena.grow(max(2 * self.arena.size, self.arena_used + text_bytes))
        old, old_capacity = self.slots, self.capacity
        capacity = self.capacity_for(words)
        if capacity == old_capacity:
            self._set_buffers(capacity)
            return
        self.slots = Buffer(SLOT.nbytes * capacity, huge=True)
        self.state[TABLE.used] = 0
        self._set_buffers(capacity)
        self.kernels.add_slots(self.state.address, old.address, old_capacity, 0)

    def add(self, other: PretokenTable) -> None:
        """Add the counts of another table, which is to be cleared or dropped afterwards."""
        if not self.used and self.capacity <= other.capacity:
            self._swap(other)
            return
        self.reserve(other.used, other.arena_used)
        self.kernels.add_slots(self.state.address, other.slots.address, other.capacity, other.arena.address)

    def _swap(self, other: PretokenTable) -> None:
        """Swap the contents of two tables without copying."""
        self.arena, other.arena = other.arena, self.arena
        self.slots, other.slots = other.slots, self.slots
        for field in (TABLE.used, TABLE.arena_used):
            self.state[field], other.state[field] = other.state[field], self.state[field]
        capacity = self.capacity
        self._set_buffers(other.capacity)
        other._set_buffers(capacity)

    def add_words(self, text: bytes, lengths: np.ndarray, counts: np.ndarray) -> None:
        """Add pre-tokens, given as in PretokenArrays."""
        self.reserve(len(lengths), len(text))
        with buffer_of(text) as buffer:
            self.kernels.add_words(self.state.address, buffer.address, *addresses_of(lengths, counts), len(lengths))

    def count(self, scan: BlockScan) -> bool:
        """Count a block of text; False if the table must first be given room for BlockScan.STARTS more words."""
        return self.kernels.count_block(scan.state.address) == DONE

    def clear(self) -> None:
        """Remove everything; the capacity stays."""
        ctypes.memset(self.slots.address, 0, self.slots.size)
        self.state[TABLE.used] = self.state[TABLE.arena_used] = 0

    def words(self, in_order: bool = True) -> PretokenArrays:
        """Return the pre-tokens in the order of their bytes.

        Without `in_order`, the order is that of the first eight bytes alone, which takes half the time.
        """
        first, second = np.empty(self.used, np.uint64), np.empty(self.used, np.uint64)
        indices = np.empty(self.used, np.int64)
        text_bytes = self.kernels.list_slots(self.state.address, *addresses_of(first, second, indices))
        order = np.lexsort((second, first)) if in_order else np.argsort(first)
        indices = indices[order]
        if in_order:
            is_long = second[order] & np.uint64(255) == 255
            indices[is_long] = self._sort_long(indices[is_long])
        text, lengths = np.empty(text_bytes, np.uint8), np.empty(self.used, np.uint32)
        counts = np.empty(self.used, np.int64)
        indices_address, *addresses = addresses_of(indices, text, lengths, counts)
        self.kernels.write_words(self.state.address, indices_address, self.used, *addresses)
        return text, lengths, counts

    def _sort_long(self, indices: np.ndarray) -> np.ndarray:
        """Sort the slots of pre-tokens in the arena, given by their indices, by their bytes."""
        slots = self.slots.array("i8", SLOT.nbytes // WORD * self.capacity).reshape(self.capacity, -1)[indices]
        arena = self.arena.bytes_view()
        starts = (slots[:, SLOT.high // WORD] & np.int64(2**63 - 1)).tolist()
        sizes = slots[:, SLOT.size // WORD].tolist()
        texts = [bytes(arena[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
        return indices[sorted(range(len(texts)), key=texts.__getitem__)]
