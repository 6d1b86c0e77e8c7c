"""Tables that kernels count in, and what they need to count a block of text, from the caller's side."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmpipe.kernels.runtime import structs
from lmpipe.kernels.runtime.buffers import Buffer, buffer_of, lent
from lmpipe.kernels.runtime.loader import kernels

if TYPE_CHECKING:  # loaded by name: so that it counts as code that this module runs (provenance.code_digest)
    from lmpipe.kernels.bpe import count  # noqa: F401

Words = tuple[np.ndarray, np.ndarray, np.ndarray]

FIRST_CAPACITY = 1 << 16
FIRST_ARENA = 1 << 20


class State(Buffer):
    """Fields of 64 bits that a kernel reads and writes, all zero at first."""

    def __init__(self, fields: int):
        super().__init__(structs.WORD * fields)
        self._fields = (ctypes.c_int64 * fields).from_address(self.address)

    def __getitem__(self, field: int) -> int:
        return self._fields[field]

    def __setitem__(self, field: int, value: int) -> None:
        self._fields[field] = value


class Specials:
    """The special tokens as find_specials reads them: a table at `address`, and the texts that it points to."""

    def __init__(self, specials: Sequence[bytes]):
        self.texts = buffer_of(b"".join(specials))
        firsts = sorted({special[0] for special in specials})
        places = np.cumsum([self.texts.address, *map(len, specials)]).tolist()
        rows = [(-len(special), places[number], len(special), number) for number, special in enumerate(specials)]
        values = [len(firsts), len(specials), *firsts, *(value for row in sorted(rows) for value in row[1:])]
        self.table = State(len(values))
        for field, value in enumerate(values):
            self.table[field] = value
        self.address = self.table.address

    def __enter__(self) -> Specials:
        return self

    def __exit__(self, *exception: object) -> None:
        self.texts.close()
        self.table.close()


class Table:
    """Unique pre-tokens and how often they were counted (count.py); it grows as far as it must.

    `capacity` is a power of two.
    """

    def __init__(self, capacity: int = FIRST_CAPACITY):
        self.state = State(structs.TABLE_FIELDS)
        self.arena = Buffer(FIRST_ARENA)
        self.slots = Buffer(structs.SLOT_BYTES * capacity, huge=True)
        self._describe(capacity)

    def _describe(self, capacity: int) -> None:
        """Tell the kernels where the slots and the arena are."""
        self.capacity = capacity
        self.state[structs.TABLE_SLOTS] = self.slots.address
        self.state[structs.TABLE_CAPACITY] = capacity
        self.state[structs.TABLE_ARENA] = self.arena.address
        self.state[structs.TABLE_ARENA_SIZE] = self.arena.size

    @property
    def used(self) -> int:
        """The number of unique pre-tokens."""
        return self.state[structs.TABLE_USED]

    @property
    def arena_used(self) -> int:
        """The bytes of the pre-tokens that do not fit into a slot."""
        return self.state[structs.TABLE_ARENA_USED]

    def capacity_for(self, words: int) -> int:
        """The capacity that has room for so many more pre-tokens."""
        capacity = self.capacity
        while 4 * (self.used + words) > 3 * capacity:
            capacity *= 2
        return capacity

    def reserve(self, words: int, text_bytes: int) -> None:
        """Make room for so many more pre-tokens and bytes."""
        if self.arena_used + text_bytes > self.arena.size:
            self.arena.grow(max(2 * self.arena.size, self.arena_used + text_bytes))
        old, old_capacity = self.slots, self.capacity
        capacity = self.capacity_for(words)
        if capacity > old_capacity:
            self.slots = Buffer(structs.SLOT_BYTES * capacity, huge=True)
            self.state[structs.TABLE_USED] = 0
        self._describe(capacity)
        if capacity > old_capacity:
            kernels().add_slots(self.state.address, old.address, old_capacity, 0)
            old.close()

    def add(self, other: Table) -> None:
        """Add the counts of another table, which is to be cleared or closed then."""
        if not self.used and self.capacity <= other.capacity:
            self._exchange(other)
            return
        self.reserve(other.used, other.arena_used)
        kernels().add_slots(self.state.address, other.slots.address, other.capacity, other.arena.address)

    def _exchange(self, other: Table) -> None:
        """Take what the other table has and give it what this one has, without copying."""
        self.arena, other.arena = other.arena, self.arena
        self.slots, other.slots = other.slots, self.slots
        for field in (structs.TABLE_USED, structs.TABLE_ARENA_USED):
            self.state[field], other.state[field] = other.state[field], self.state[field]
        capacity = self.capacity
        self._describe(other.capacity)
        other._describe(capacity)

    def add_words(self, text: bytes, lengths: np.ndarray, counts: np.ndarray) -> None:
        """Add pre-tokens: their bytes joined, their lengths (uint32, none is 0) and counts (int64)."""
        self.reserve(len(lengths), len(text))
        with buffer_of(text) as buffer, lent(lengths, counts) as addresses:
            kernels().add_words(self.state.address, buffer.address, *addresses, len(lengths))

    def clear(self) -> None:
        """Remove everything; the capacity stays."""
        ctypes.memset(self.slots.address, 0, self.slots.size)
        self.state[structs.TABLE_USED] = self.state[structs.TABLE_ARENA_USED] = 0

    def words(self, in_order: bool = True) -> Words:
        """The pre-tokens in the order of their bytes: text (uint8, joined), lengths (uint32), counts (int64).

        Without `in_order` only the first eight bytes of each decide, which takes half the time.
        """
        first, second = np.empty(self.used, np.uint64), np.empty(self.used, np.uint64)
        numbers = np.empty(self.used, np.int64)
        with lent(first, second, numbers) as addresses:
            text_bytes = kernels().list_slots(self.state.address, *addresses)
        order = np.lexsort((second, first)) if in_order else np.argsort(first)
        numbers = numbers[order]
        if in_order:
            is_long = second[order] & np.uint64(255) == 255
            numbers[is_long] = self._sorted_long(numbers[is_long])
        text, lengths = np.empty(text_bytes, np.uint8), np.empty(self.used, np.uint32)
        counts = np.empty(self.used, np.int64)
        with lent(numbers, text, lengths, counts) as (numbers_at, *addresses):
            kernels().write_words(self.state.address, numbers_at, self.used, *addresses)
        return text, lengths, counts

    def _sorted_long(self, numbers: np.ndarray) -> np.ndarray:
        """The slots of pre-tokens in the arena, given by their numbers, in the order of their bytes."""
        slots = self.slots.array("i8", 4 * self.capacity).reshape(-1, 4)[numbers]
        arena = self.arena.bytes_view()
        starts, sizes = slots[:, structs.SLOT_HIGH] & np.int64(2**63 - 1), slots[:, structs.SLOT_SIZE]
        texts = [
            bytes(arena[start : start + size]) for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        ]
        return numbers[sorted(range(len(texts)), key=texts.__getitem__)]

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self.state, self.arena, self.slots):
            buffer.close()


class Block:
    """What going through a block of text takes: its state, found special tokens, and starts of pre-tokens."""

    STARTS = 1 << 12
    FOUND = 1 << 10

    def __init__(self, classes: Buffer, specials: Specials):
        self.state = State(structs.BLOCK_FIELDS)
        self.starts = Buffer(4 * (self.STARTS + 1))
        self.keys = Buffer(structs.KEY_BYTES * structs.BATCH)
        self.found = Buffer(structs.WORD * structs.FOUND_FIELDS * self.FOUND)
        self.classes, self.specials = classes, specials

    def start(self, address: int, size: int, table: int) -> None:
        """Take up a text of `size` bytes at an address, with PADDING readable bytes behind it."""
        state = self.state
        ctypes.memset(state.address, 0, state.size)
        state[structs.BLOCK_BASE], state[structs.BLOCK_STOP], state[structs.BLOCK_TABLE] = address, size, table
        state[structs.BLOCK_CLASSES], state[structs.BLOCK_SPECIALS] = self.classes.address, self.specials.address
        state[structs.BLOCK_FOUND], state[structs.BLOCK_FOUND_ROOM] = self.found.address, self.FOUND
        state[structs.BLOCK_STARTS], state[structs.BLOCK_STARTS_ROOM] = self.starts.address, self.STARTS
        state[structs.BLOCK_KEYS] = self.keys.address

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self.state, self.starts, self.keys, self.found):
            buffer.close()


class BlockCounter:
    """What one thread needs to count blocks of text in its own table."""

    def __init__(self, classes: Buffer, specials: Specials, capacity: int = FIRST_CAPACITY):
        self.table = Table(capacity)
        self.block = Block(classes, specials)

    def start(self, address: int, size: int) -> None:
        """Take up a text of `size` bytes at an address, with PADDING readable bytes behind it."""
        self.block.start(address, size, self.table.state.address)
        self.table.reserve(0, size)

    def count(self) -> bool:
        """Count the text; False where the table must first be given room for STARTS words more."""
        return kernels().count_block(self.block.state.address) == structs.DONE

    def close(self) -> None:
        """Give the memory back."""
        self.table.close()
        self.block.close()
