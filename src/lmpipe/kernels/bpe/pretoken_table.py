"""Tables that kernels count in, and what they need to count a block of text, from the caller's side."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from lmpipe.kernels.bpe.structs import BATCH, BLOCK, DIGIT, DONE, KEY, LETTER, MATCH, SLOT, TABLE, WHITE
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, borrowed, buffer_of
from lmpipe.kernels.runtime.disk_cache import cached
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import WORD

KERNEL_MODULE = "lmpipe.kernels.bpe.pretoken_table_kernels"
PretokenArrays = tuple[np.ndarray, np.ndarray, np.ndarray]

INITIAL_CAPACITY = 1 << 16
INITIAL_ARENA = 1 << 20


def class_table() -> bytes:
    """Return the class of every code point (LETTER, DIGIT, WHITE or OTHER, a byte each); computing it takes 0.3 s."""
    return cached("classes", version("regex"), make_class_table)


def make_class_table() -> bytes:
    """Ask the regex package for the class of every code point; surrogates, which no text contains, are punctuation."""
    import regex

    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    table = bytearray(len(characters))
    for kind, pattern in ((LETTER, r"\p{L}+"), (DIGIT, r"\p{N}+"), (WHITE, r"\s+")):
        for run in regex.finditer(pattern, characters):
            table[run.start() : run.end()] = bytes([kind]) * (run.end() - run.start())
    return bytes(table)


class SpecialTokenTable:
    """The special tokens as find_specials reads them: a table at `address`, and the texts that it points to."""

    def __init__(self, specials: Sequence[bytes]):
        self.texts = buffer_of(b"".join(specials))
        firsts = sorted({special[0] for special in specials})
        places = np.cumsum([self.texts.address, *map(len, specials)]).tolist()
        rows = [(-len(special), places[number], len(special), number) for number, special in enumerate(specials)]
        values = [len(firsts), len(specials), *firsts, *(value for row in sorted(rows) for value in row[1:])]
        self.table = StructBuffer(WORD * len(values))
        for index, value in enumerate(values):
            self.table[WORD * index] = value
        self.address = self.table.address

    def __enter__(self) -> SpecialTokenTable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.texts.close()
        self.table.close()


class PretokenTable:
    """Unique pre-tokens and how often they were counted (count.py); it grows as far as it must.

    `capacity` is a power of two.
    """

    def __init__(self, capacity: int = INITIAL_CAPACITY):
        self.state = StructBuffer(TABLE.nbytes)
        self.arena = Buffer(INITIAL_ARENA)
        self.slots = Buffer(SLOT.nbytes * capacity, huge=True)
        self._describe(capacity)

    def _describe(self, capacity: int) -> None:
        """Tell the kernels where the slots and the arena are."""
        self.capacity = capacity
        self.state[TABLE.slots] = self.slots.address
        self.state[TABLE.capacity] = capacity
        self.state[TABLE.arena] = self.arena.address
        self.state[TABLE.arena_size] = self.arena.size

    @property
    def used(self) -> int:
        """The number of unique pre-tokens."""
        return self.state[TABLE.used]

    @property
    def arena_used(self) -> int:
        """The bytes of the pre-tokens that do not fit into a slot."""
        return self.state[TABLE.arena_used]

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
            self.slots = Buffer(SLOT.nbytes * capacity, huge=True)
            self.state[TABLE.used] = 0
        self._describe(capacity)
        if capacity > old_capacity:
            load(KERNEL_MODULE).add_slots(self.state.address, old.address, old_capacity, 0)
            old.close()

    def add(self, other: PretokenTable) -> None:
        """Add the counts of another table, which is to be cleared or closed then."""
        if not self.used and self.capacity <= other.capacity:
            self._exchange(other)
            return
        self.reserve(other.used, other.arena_used)
        load(KERNEL_MODULE).add_slots(self.state.address, other.slots.address, other.capacity, other.arena.address)

    def _exchange(self, other: PretokenTable) -> None:
        """Take what the other table has and give it what this one has, without copying."""
        self.arena, other.arena = other.arena, self.arena
        self.slots, other.slots = other.slots, self.slots
        for field in (TABLE.used, TABLE.arena_used):
            self.state[field], other.state[field] = other.state[field], self.state[field]
        capacity = self.capacity
        self._describe(other.capacity)
        other._describe(capacity)

    def add_words(self, text: bytes, lengths: np.ndarray, counts: np.ndarray) -> None:
        """Add pre-tokens: their bytes joined, their lengths (uint32, none is 0) and counts (int64)."""
        self.reserve(len(lengths), len(text))
        with buffer_of(text) as buffer, borrowed(lengths, counts) as addresses:
            load(KERNEL_MODULE).add_words(self.state.address, buffer.address, *addresses, len(lengths))

    def clear(self) -> None:
        """Remove everything; the capacity stays."""
        ctypes.memset(self.slots.address, 0, self.slots.size)
        self.state[TABLE.used] = self.state[TABLE.arena_used] = 0

    def words(self, in_order: bool = True) -> PretokenArrays:
        """The pre-tokens in the order of their bytes: text (uint8, joined), lengths (uint32), counts (int64).

        Without `in_order` only the first eight bytes of each decide, which takes half the time.
        """
        first, second = np.empty(self.used, np.uint64), np.empty(self.used, np.uint64)
        numbers = np.empty(self.used, np.int64)
        with borrowed(first, second, numbers) as addresses:
            text_bytes = load(KERNEL_MODULE).list_slots(self.state.address, *addresses)
        order = np.lexsort((second, first)) if in_order else np.argsort(first)
        numbers = numbers[order]
        if in_order:
            is_long = second[order] & np.uint64(255) == 255
            numbers[is_long] = self._sorted_long(numbers[is_long])
        text, lengths = np.empty(text_bytes, np.uint8), np.empty(self.used, np.uint32)
        counts = np.empty(self.used, np.int64)
        with borrowed(numbers, text, lengths, counts) as (numbers_at, *addresses):
            load(KERNEL_MODULE).write_words(self.state.address, numbers_at, self.used, *addresses)
        return text, lengths, counts

    def _sorted_long(self, numbers: np.ndarray) -> np.ndarray:
        """The slots of pre-tokens in the arena, given by their numbers, in the order of their bytes."""
        slots = self.slots.array("i8", 4 * self.capacity).reshape(-1, 4)[numbers]
        arena = self.arena.bytes_view()
        starts, sizes = slots[:, SLOT.high // WORD] & np.int64(2**63 - 1), slots[:, SLOT.size // WORD]
        texts = [
            bytes(arena[start : start + size]) for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        ]
        return numbers[sorted(range(len(texts)), key=texts.__getitem__)]

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self.state, self.arena, self.slots):
            buffer.close()


class BlockScan:
    """What going through a block of text takes: its state, found special tokens, and starts of pre-tokens."""

    STARTS = 1 << 12
    FOUND = 1 << 10

    def __init__(self, classes: Buffer, specials: SpecialTokenTable):
        self.state = StructBuffer(BLOCK.nbytes)
        self.starts = Buffer(4 * (self.STARTS + 1))
        self.keys = Buffer(KEY.nbytes * BATCH)
        self.found = Buffer(MATCH.nbytes * self.FOUND)
        self.classes, self.specials = classes, specials

    def start(self, address: int, size: int, table: int) -> None:
        """Take up a text of `size` bytes at an address, with PADDING readable bytes behind it."""
        state = self.state
        ctypes.memset(state.address, 0, state.size)
        state[BLOCK.base], state[BLOCK.stop], state[BLOCK.table] = address, size, table
        state[BLOCK.classes], state[BLOCK.specials] = self.classes.address, self.specials.address
        state[BLOCK.matches], state[BLOCK.matches_room] = self.found.address, self.FOUND
        state[BLOCK.starts], state[BLOCK.starts_room] = self.starts.address, self.STARTS
        state[BLOCK.keys] = self.keys.address

    def close(self) -> None:
        """Give the memory back."""
        for buffer in (self.state, self.starts, self.keys, self.found):
            buffer.close()


class ThreadCounter:
    """What one thread needs to count blocks of text in its own table."""

    def __init__(self, classes: Buffer, specials: SpecialTokenTable, capacity: int = INITIAL_CAPACITY):
        self.table = PretokenTable(capacity)
        self.block = BlockScan(classes, specials)

    def start(self, address: int, size: int) -> None:
        """Take up a text of `size` bytes at an address, with PADDING readable bytes behind it."""
        self.block.start(address, size, self.table.state.address)
        self.table.reserve(0, size)

    def count(self) -> bool:
        """Count the text; False where the table must first be given room for STARTS words more."""
        return load(KERNEL_MODULE).count_block(self.block.state.address) == DONE

    def close(self) -> None:
        """Give the memory back."""
        self.table.close()
        self.block.close()
