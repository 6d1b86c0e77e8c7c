"""Encoder: the tables of a vocabulary, a cache of pre-tokens that threads share, and each thread's workspace."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from lmpipe.kernels.bpe.block_scan import BlockScan, SpecialTokenTable, class_table
from lmpipe.kernels.bpe.structs import DONE, NARROW_IDS, SCRATCH_BYTES, SLOT, WORK
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, addresses_of, buffer_of
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.structs import PADDING, round_up

KERNEL_MODULE = "lmpipe.kernels.bpe.encode_kernels"
INITIAL_CAPACITY, MAX_CAPACITY = 1 << 14, 1 << 21  # slots of the cache: 512 KB, 64 MB
ARENA_BYTES, MAX_ARENAS = 1 << 20, 48
MIN_ARENA_LEFT = 1 << 16  # if less is left before a block, a new arena is made
INITIAL_SCRATCH = 1 << 12  # symbols
SCRATCH_UNIT = 256  # symbols; the scratch is a multiple
SCRATCH_GROWTH = 16
INITIAL_TEXT = 1 << 16
# Longer pre-tokens are merged in windows of this many bytes, whose last tokens are left to the next one.
WINDOW, MARGIN = 512, 64
SLACK = 8  # bytes behind the ids that a store may reach
WRITERS = 4  # a block being encoded may fill a quarter of the free slots that no other block may fill


class Workspace:
    """Memory to encode one block of text: `text`, which the caller fills, and room for ids and scratch."""

    def __init__(self, encoder: Encoder):
        self.kernels, self.dtype = encoder.kernels, encoder.dtype
        self.block = BlockScan(encoder.classes, encoder.specials)
        self.work = StructBuffer(WORK.nbytes)
        for field, value in encoder.tables.items():
            self.work[field] = value
        self.text = Buffer(INITIAL_TEXT)
        self.output = Buffer(INITIAL_TEXT)
        self.scratch = Buffer(0)
        self._make_scratch(INITIAL_SCRATCH)
        self.slots: Buffer | None = None  # the cache while a block is encoded
        self.share = 0  # slots of it that the block may fill

    def _make_scratch(self, symbols: int) -> None:
        self.scratch = Buffer(SCRATCH_BYTES * symbols)
        self.work[WORK.scratch] = self.scratch.address
        self.work[WORK.scratch_symbols] = symbols

    def write(self, data: bytes | bytearray) -> None:
        """Copy a text into the buffer."""
        if len(data) + PADDING > self.text.size:
            self.text.grow(2 * len(data) + PADDING)
        with self.text.bytes_view() as view:
            view[: len(data)] = data

    def encode(self, size: int) -> np.ndarray:
        """Return the ids (tokens,) of the first `size` bytes of the text; they are valid until the next use."""
        # No token is shorter than a byte.
        needed = self.dtype.itemsize * size + SLACK
        if needed > self.output.size:
            self.output = Buffer(2 * needed)
        self.work[WORK.output] = self.output.address
        self.block.start(self.text.address, size, self.work.address)
        while self.kernels.encode_block(self.block.state.address) != DONE:
            # Never more at once than the word needs, nor than a growth that keeps restarts cheap.
            limit = SCRATCH_GROWTH * self.work[WORK.scratch_symbols]
            self._make_scratch(round_up(min(limit, self.work[WORK.scratch_needed]), SCRATCH_UNIT))
        output_bytes = self.work[WORK.output] - self.output.address
        return self.output.array(self.dtype, output_bytes // self.dtype.itemsize)


class Encoder:
    """Encodes bytes with a vocabulary; many threads may do so at once, each in a workspace.

    `byte_ids` has the id of each byte, `merges` the left, right and merged id of each merge, the earliest first,
    `lengths` (ids,) the bytes of each id, `specials` the special tokens and their ids.
    """

    def __init__(
        self,
        byte_ids: Sequence[int],
        merges: Sequence[tuple[int, int, int]],
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
        capacity = 1 << (4 * len(merges) + 1).bit_length()
        merged_ids, special_ids = [merge[2] for merge in merges], [token_id for _, token_id in specials]
        self.tables = {
            WORK.merges: self._copy(np.zeros(capacity, np.uint64)),
            WORK.merges_capacity: capacity,
            WORK.window: WINDOW,
            WORK.margin: MARGIN,
            WORK.merged_ids: self._copy(np.array(merged_ids, np.uint32)),
            WORK.byte_ids: self._copy(np.array(byte_ids, np.uint32)),
            WORK.lengths: self._copy(lengths.astype(np.uint32)),
            WORK.special_ids: self._copy(np.array(special_ids, np.uint32)),
        }
        work, triples = StructBuffer(WORK.nbytes), np.array(merges, np.int64)
        for field, value in self.tables.items():
            work[field] = value
        self.kernels.enter_merges(work.address, *addresses_of(triples), len(merges))
        self.idle: list[Workspace] = []
        self.arenas: list[Buffer] = []
        self.max_capacity = MAX_CAPACITY
        self._use_cache(Buffer(SLOT.nbytes * INITIAL_CAPACITY, huge=True), INITIAL_CAPACITY, 0)

    def _copy(self, array: np.ndarray) -> int:
        """Copy an array to memory that lives as long as the encoder; returns its address."""
        self.buffers.append(buffer_of(array.tobytes()))
        return self.buffers[-1].address

    def _use_cache(self, slots: Buffer, capacity: int, used: int) -> None:
        # Slots that are filled, and slots that blocks being encoded may fill: never more than three quarters, since a
        # look-up ends at a free slot.
        self.slots, self.capacity, self.used, self.reserved = slots, capacity, used, 0

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """Acquire a workspace while the block runs."""
        space = self.acquire()
        try:
            yield space
        finally:
            self.release(space)

    def acquire(self) -> Workspace:
        """Return a workspace for one block of text, with its share of the cache; `release` it afterwards."""
        with self.lock:
            space = self.idle.pop() if self.idle else Workspace(self)
            if 2 * self.used > self.capacity and self.capacity < self.max_capacity:
                self._enlarge()
            work, space.slots = space.work, self.slots
            if work[WORK.arena_left] < MIN_ARENA_LEFT and len(self.arenas) < MAX_ARENAS:
                # Without memory for it, long pre-tokens are merged again each time.
                with contextlib.suppress(OSError, MemoryError):
                    self.arenas.append(Buffer(ARENA_BYTES))
                    work[WORK.arena], work[WORK.arena_left] = self.arenas[-1].address, ARENA_BYTES
            work[WORK.slots], work[WORK.capacity] = self.slots.address, self.capacity
            free = max(0, 3 * self.capacity // 4 - self.used - self.reserved)
            space.share = work[WORK.free] = free // WRITERS
            self.reserved += space.share
            return space

    def release(self, space: Workspace) -> None:
        """Give back a workspace whose ids are no longer needed."""
        with self.lock:
            # Entries of a cache that was replaced meanwhile are lost; its last reader frees it.
            if space.slots is self.slots:
                self.reserved -= space.share
                self.used += space.share - space.work[WORK.free]
            space.slots = None
            self.idle.append(space)

    def count_ids(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Add the number of occurrences of each id to `counts` (vocab,), int64."""
        ids_address, counts_address = addresses_of(ids, counts)
        self.kernels.count_ids(ids_address, len(ids), counts_address)

    def _enlarge(self) -> None:
        """Replace the cache by one of four times the size; without memory for it, keep this one for good.

        Blocks that still read the old one lose what they enter.
        """
        capacity = min(4 * self.capacity, self.max_capacity)
        try:
            slots = Buffer(SLOT.nbytes * capacity, huge=True)
        except (OSError, MemoryError):
            self.max_capacity = self.capacity
            return
        used = self.kernels.copy_slots(self.slots.address, self.capacity, slots.address, capacity)
        self._use_cache(slots, capacity, used)
