"""Counting unique pre-tokens in an open hash table: 400 to 800 MB of text per second and core (benchmarks/bpe.py)."""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.hash_slot_kernels import (
    LONG,
    arena_hash,
    copy_bytes,
    equal_words,
    free_slot,
    hash_slot,
    inline_hash,
    inline_high,
    inline_low,
    next_slot,
    prepare_keys,
)
from lmpipe.kernels.bpe.pretokenizer_kernels import advance, next_segment, next_starts, scan
from lmpipe.kernels.bpe.structs import BATCH, BLOCK, DONE, INLINE_BYTES, KEY, NO_ROOM, SLOT, TABLE
from lmpipe.kernels.runtime.intrinsics import (
    ZERO,
    big_endian,
    inlined,
    kernel,
    load32,
    load64,
    load_int,
    store32,
    store64,
    store_int,
)
from lmpipe.kernels.runtime.structs import WORD


@inlined
def inline_slot(slots, capacity, offset, low, high):
    """Return the slot of a pre-token of up to 15 bytes from an offset on: its own, or the free one where it belongs."""
    while True:
        other = load64(slots + offset + SLOT.high)
        if other == ZERO or (other == high and load64(slots + offset + SLOT.low) == low):
            return slots + offset
        offset = next_slot(offset, capacity)


@kernel
def arena_slot(slots, capacity, arena, address, size, hash_value):
    """Return the slot of a pre-token of 16 bytes or more: its own, or the free one where it belongs."""
    offset = hash_slot(hash_value, capacity)
    while True:
        slot = slots + offset
        high = load64(slot + SLOT.high)
        if high == ZERO:
            return slot
        if (
            high & LONG != ZERO
            and load64(slot + SLOT.low) == hash_value
            and load_int(slot + SLOT.size) == size
            and equal_words(arena + np.int64(high & ~LONG), address, size)
        ):
            return slot
        offset = next_slot(offset, capacity)


@inlined
def add_count(slot, count):
    """Add to the count of a slot."""
    store_int(slot + SLOT.count, load_int(slot + SLOT.count) + count)


@kernel
def add_long(table, address, size, count):
    """Add `count` to a pre-token of 16 bytes or more, which is copied into the arena if it is new."""
    hash_value = arena_hash(address, size)
    arena = load_int(table + TABLE.arena)
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    slot = arena_slot(slots, capacity, arena, address, size, hash_value)
    if load64(slot + SLOT.high) == ZERO:
        start = load_int(table + TABLE.arena_used)
        copy_bytes(arena + start, address, size)
        store_int(table + TABLE.arena_used, start + size)
        store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
        store64(slot + SLOT.low, hash_value)
        store64(slot + SLOT.high, LONG | uint64(start))
        store_int(slot + SLOT.size, size)
    add_count(slot, count)
    return 0


@kernel
def add_inline(table, low, high, count):
    """Add `count` to a pre-token of up to 15 bytes."""
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    slot = inline_slot(slots, capacity, hash_slot(inline_hash(low, high), capacity), low, high)
    if load64(slot + SLOT.high) == ZERO:
        store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
        store64(slot + SLOT.low, low)
        store64(slot + SLOT.high, high)
    add_count(slot, count)
    return 0


@kernel
def probe_and_count(slots, capacity, slot, low, high):
    """Count a pre-token that is not in the slot where its look-up starts; returns 1 if it is new, else 0."""
    slot = inline_slot(slots, capacity, slot - slots, low, high)
    add_count(slot, 1)
    if load64(slot + SLOT.high) != ZERO:
        return 0
    store64(slot + SLOT.low, low)
    store64(slot + SLOT.high, high)
    return 1


@kernel
def count_starts(base, starts, count, table, keys):
    """Count pre-tokens, given as in prepare_keys; the table has room for all of them."""
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    new = 0
    for first in range(0, count, BATCH):
        keys_end = prepare_keys(base, starts + 4 * first, count - first, slots, capacity, keys)
        for key in range(keys, keys_end, KEY.nbytes):
            low, high, slot = load64(key + KEY.low), load64(key + KEY.high), load_int(key + KEY.slot)
            if high == LONG:
                add_long(table, base + np.int64(low), slot, 1)
            elif load64(slot + SLOT.low) == low and load64(slot + SLOT.high) == high:
                add_count(slot, 1)
            else:
                new += probe_and_count(slots, capacity, slot, low, high)
    store_int(table + TABLE.used, load_int(table + TABLE.used) + new)
    return 0


@kernel
def count_block(block):
    """Count the pre-tokens between the special tokens of a block of text (BLOCK).

    Returns DONE, or NO_ROOM if the table needs more room first; the next call continues.
    """
    base, table = load_int(block + BLOCK.base), load_int(block + BLOCK.table)
    starts = load_int(block + BLOCK.starts)
    while load_int(block + BLOCK.is_open) or next_segment(block):
        complete = next_starts(block)
        text_bytes = load32(starts + 4 * complete) - load32(starts)
        if load_int(table + TABLE.arena_used) + text_bytes > load_int(table + TABLE.arena_size):
            return NO_ROOM
        if 4 * (load_int(table + TABLE.used) + complete) > 3 * load_int(table + TABLE.capacity):
            return NO_ROOM
        count_starts(base, starts, complete, table, load_int(block + BLOCK.keys))
        advance(block, complete)
    return DONE


@kernel
def add_slots(table, slots, capacity, arena):
    """Add the counts of another table's slots. `arena` is the other's; 0 if the texts are in the table's own arena."""
    own_slots, own_capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    for slot in range(slots, slots + SLOT.nbytes * capacity, SLOT.nbytes):
        low, high = load64(slot + SLOT.low), load64(slot + SLOT.high)
        if high == ZERO:
            continue
        count = load_int(slot + SLOT.count)
        if high & LONG == ZERO:
            add_inline(table, low, high, count)
        elif arena:
            add_long(table, arena + np.int64(high & ~LONG), load_int(slot + SLOT.size), count)
        else:
            copy_bytes(free_slot(own_slots, own_capacity, low), slot, SLOT.nbytes)
            store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
    return 0


@kernel
def add_words(table, text, lengths, counts, words):
    """Add words with their counts: their bytes joined (PADDING bytes behind), lengths (uint32), counts (int64)."""
    for word in range(words):
        size, count = load32(lengths + 4 * word), load_int(counts + WORD * word)
        if size <= INLINE_BYTES:
            add_inline(table, inline_low(text, size), inline_high(text, size), count)
        else:
            add_long(table, text, size, count)
        text += size
    return 0


@kernel
def list_slots(table, first_keys, second_keys, indices):
    """List the used slots of a table: their indices (int64), and two keys (uint64) that sort as their bytes do.

    Only those of 16 bytes and more that share the first 15 have equal keys. Returns the bytes of all pre-tokens.
    """
    arena = load_int(table + TABLE.arena)
    output = 0
    text_bytes = 0
    for index in range(load_int(table + TABLE.capacity)):
        slot = load_int(table + TABLE.slots) + SLOT.nbytes * index
        low, high = load64(slot + SLOT.low), load64(slot + SLOT.high)
        if high == ZERO:
            continue
        if high & LONG == ZERO:
            size = np.int64(high >> uint64(56))
            # The length comes last: it decides if a longer pre-token continues with zero bytes.
            second = big_endian(high)
        else:
            size = load_int(slot + SLOT.size)
            start = arena + np.int64(high & ~LONG)
            low = load64(start)
            second = big_endian(load64(start + 8)) | uint64(255)
        store64(first_keys + WORD * output, big_endian(low))
        store64(second_keys + WORD * output, second)
        store_int(indices + WORD * output, index)
        output += 1
        text_bytes += size
    return text_bytes


@kernel
def write_words(table, indices, words, text, lengths, counts):
    """Write the pre-tokens of slots, given by their indices (int64), in the form that add_words takes."""
    arena = load_int(table + TABLE.arena)
    for word in range(words):
        slot = load_int(table + TABLE.slots) + SLOT.nbytes * load_int(indices + WORD * word)
        high = load64(slot + SLOT.high)
        if high & LONG == ZERO:
            size = np.int64(high >> uint64(56))
            copy_bytes(text, slot, size)
        else:
            size = load_int(slot + SLOT.size)
            copy_bytes(text, arena + np.int64(high & ~LONG), size)
        text += size
        store32(lengths + 4 * word, size)
        store_int(counts + WORD * word, load_int(slot + SLOT.count))
    return 0


KERNELS = (scan, next_segment, count_block, add_slots, add_words, list_slots, write_words)
