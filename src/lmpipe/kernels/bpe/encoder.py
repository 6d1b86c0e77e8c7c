"""The memory of the encoder (encode.py): the tables of a vocabulary, the cache that threads share, a thread's own."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lmpipe.kernels.bpe.pretoken_table import BlockScan, SpecialTokenTable, class_table
from lmpipe.kernels.bpe.structs import DONE, NARROW_IDS, SCRATCH_BYTES, SLOT, WORK
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, borrowed, buffer_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import PADDING

KERNEL_MODULE = "lmpipe.kernels.bpe.encode_kernels"
INITIAL_CAPACITY, MAX_CAPACITY = 1 << 14, 1 << 21  # slots of the cache: 512 KB, 64 MB
ARENA_BYTES, MAX_ARENAS = 1 << 20, 48
MIN_ARENA_LEFT = 1 << 16  # where less is left before a block, a new arena is made
INITIAL_SCRATCH = 1 << 12  # symbols; a multiple of 256
INITIAL_TEXT = 1 << 16
# Longer pre-tokens are merged in windows of so many bytes, whose last tokens are left to the next one.
WINDOW, MARGIN = 512, 64
SLACK = 8  # bytes behind the ids that a store may reach
WRITERS = 4  # a block under way may fill a quarter of what is free in the cache and no other may fill


class Workspace:
    """What one block of text takes to be encoded: `text`, which the caller fills, and room for ids and scratch."""

    def __init__(self, encoder: Encoder):
        self.dtype = encoder.dtype
        self.block = BlockScan(encoder.classes, encoder.specials)
        self.work = StructBuffer(WORK.nbytes)
        for field, value in encoder.tables.items():
            self.work[field] = value
        self.text = Buffer(INITIAL_TEXT)
        self.output = Buffer(INITIAL_TEXT)
        self.scratch = Buffer(0)
        self._make_scratch(INITIAL_SCRATCH)
        self.share = self.generation = 0  # of the cache: the slots that it may fill, and how often it was forgotten

    def _make_scratch(self, symbols: int) -> None:
        self.scratch.close()
        self.scratch = Buffer(SCRATCH_BYTES * symbols)
        self.work[WORK.scratch] = self.scratch.address
        self.work[WORK.scratch_symbols] = symbols

    def write(self, data: bytes | bytearray) -> None:
        """Put a text into the buffer."""
        if len(data) + PADDING > self.text.size:
            self.text.grow(2 * len(data) + PADDING)
        with self.text.bytes_view() as view:
            view[: len(data)] = data

    def encode(self, run: object, size: int) -> np.ndarray:
        """The ids (tokens,) of the first bytes of the text; they are there until the workspace is used again."""
        # No token is shorter than a byte.
        needed = self.dtype.itemsize * size + SLACK
        if needed > self.output.size:
            self.output.close()
            self.output = Buffer(2 * needed)
        self.work[WORK.output] = self.output.address
        self.block.start(self.text.address, size, self.work.address)
        while run.encode_block(self.block.state.address) != DONE:
            self._make_scratch(2 * self.work[WORK.scratch_symbols])
        written = self.work[WORK.output] - self.output.address
        return self.output.array(self.dtype, written // self.dtype.itemsize)

    def close(self) -> None:
        """Give the memory back."""
        self.block.close()
        for buffer in (self.work, self.text, self.output, self.scratch):
            buffer.close()


class Encoder:
    """Encodes bytes with a vocabulary; many threads may do so at once, each in a workspace.

    `byte_ids` has the id of each byte, `rules` the left, right and merged id of each merge, the earliest first,
    `lengths` (ids,) the bytes of each id, `specials` the special tokens and their ids.
    """

    def __init__(
        self,
        byte_ids: Sequence[int],
        rules: Sequence[tuple[int, int, int]],
        lengths: np.ndarray,
        specials: Sequence[tuple[bytes, int]],
    ):
        is_wide = len(lengths) > NARROW_IDS
        self.kernels = load(KERNEL_MODULE, is_wide)
        self.dtype = np.dtype("<u4" if is_wide else "<u2")
        self.lock = threading.Lock()
        self.classes = buffer_of(class_table())
        self.specials = SpecialTokenTable([special for special, _ in specials])
        self.buffers: list[Buffer] = []
        capacity = 1 << (4 * len(rules) + 1).bit_length()
        merged, special_ids = [rule[2] for rule in rules], [token_id for _, token_id in specials]
        self.tables = {
            WORK.rules: self._keep(np.zeros(capacity, np.uint64)),
            WORK.rules_capacity: capacity,
            WORK.window: WINDOW,
            WORK.margin: MARGIN,
            WORK.merged: self._keep(np.array(merged, np.uint32)),
            WORK.byte_ids: self._keep(np.array(byte_ids, np.uint32)),
            WORK.lengths: self._keep(lengths.astype(np.uint32)),
            WORK.special_ids: self._keep(np.array(special_ids, np.uint32)),
        }
        with StructBuffer(WORK.nbytes) as work, borrowed(np.array(rules, np.int64)) as (triples,):
            for field, value in self.tables.items():
                work[field] = value
            self.kernels.enter_rules(work.address, triples, len(rules))
        self.idle: list[Workspace] = []
        self.active_readers: Counter[int] = Counter()  # blocks under way, by the address of the cache that they read
        self.generation = 0
        self.retired_slots: list[Buffer] = []  # caches that are still read
        self.retired_arenas: list[Buffer] = []
        self.arenas: list[Buffer] = []
        self._make_cache(INITIAL_CAPACITY)

    def _keep(self, array: np.ndarray) -> int:
        """Copy an array to memory that stays; returns its address."""
        self.buffers.append(buffer_of(array.tobytes()))
        return self.buffers[-1].address

    def _make_cache(self, capacity: int) -> None:
        # Slots that are filled, and slots that blocks under way may fill: never more than three quarters, since a
        # look-up ends at a free slot.
        self.capacity, self.used, self.reserved = capacity, 0, 0
        self.slots = Buffer(SLOT.nbytes * capacity, huge=True)

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A workspace for one block of text at a time, kept for the next one."""
        space = self.acquire()
        try:
            yield space
        finally:
            self.release(space)

    def acquire(self) -> Workspace:
        """Take a workspace, with its share of the cache."""
        with self.lock:
            space = self.idle.pop() if self.idle else Workspace(self)
            if 2 * self.used > self.capacity and self.capacity < MAX_CAPACITY:
                self._enlarge()
            work = space.work
            if space.generation != self.generation:
                space.generation = self.generation
                work[WORK.arena_left] = 0
            if work[WORK.arena_left] < MIN_ARENA_LEFT and len(self.arenas) < MAX_ARENAS:
                self.arenas.append(Buffer(ARENA_BYTES))
                work[WORK.arena], work[WORK.arena_left] = self.arenas[-1].address, ARENA_BYTES
            work[WORK.slots], work[WORK.capacity] = self.slots.address, self.capacity
            free = max(0, 3 * self.capacity // 4 - self.used - self.reserved)
            space.share = work[WORK.free] = free // WRITERS
            self.reserved += space.share
            self.active_readers[self.slots.address] += 1
            return space

    def release(self, space: Workspace) -> None:
        """Give a workspace back, whose ids are no longer needed."""
        with self.lock:
            self.active_readers[space.work[WORK.slots]] -= 1
            # What went into a cache that was replaced meanwhile is lost.
            if space.work[WORK.slots] == self.slots.address:
                self.reserved -= space.share
                self.used += space.share - space.work[WORK.free]
            self.idle.append(space)
            self._close_unread()

    def encode(self, space: Workspace, size: int) -> np.ndarray:
        """The ids (tokens,) of the first bytes of a workspace's text; they are there until it is used again."""
        return space.encode(self.kernels, size)

    def count_ids(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Add how often each id occurs to `counts` (vocab,), int64."""
        with borrowed(ids, counts) as (start, counts_at):
            self.kernels.count_ids(start, len(ids), counts_at)

    def _enlarge(self) -> None:
        """Replace the cache by one of four times the size; those that still read the old one lose what they enter."""
        self.retired_slots.append(self.slots)
        old, old_capacity = self.slots, self.capacity
        self._make_cache(min(4 * self.capacity, MAX_CAPACITY))
        self.used = self.kernels.copy_slots(old.address, old_capacity, self.slots.address, self.capacity)
        self._close_unread()

    def clear(self) -> None:
        """Empty the cache."""
        with self.lock:
            self.retired_slots.append(self.slots)
            self.retired_arenas += self.arenas
            self.arenas = []
            self._make_cache(INITIAL_CAPACITY)
            self.generation += 1
            self._close_unread()

    def _close_unread(self) -> None:
        """Give back the caches that no block reads any more, and forgotten texts when none is under way."""
        for slots in [slots for slots in self.retired_slots if not self.active_readers[slots.address]]:
            self.retired_slots.remove(slots)
            slots.close()
        while self.retired_arenas and not self.active_readers.total():
            self.retired_arenas.pop().close()
