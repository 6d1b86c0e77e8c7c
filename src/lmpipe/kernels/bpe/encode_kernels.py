"""Encoding of a block of text: pre-tokens are looked up in a cache that threads share, or merged and entered there.

Texts repeat their pre-tokens, so the cache decides the speed: 500 to 800 MB/s per core for cached pre-tokens
(benchmarks/bpe.py --job encode). A slot is half a cache line and holds up to four ids of 16 bits. Threads read it
without locks; they claim a free slot with one atomic exchange, fill it and publish it. A pre-token that two threads
enter at once, or that finds no room, costs another merge or another slot, but changes no ids.
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.apply_merges_kernels import encode_pretoken, enter_merges
from lmpipe.kernels.bpe.hash_slot_kernels import (
    LONG,
    arena_hash,
    copy_bytes,
    equal_words,
    free_slot,
    hash_slot,
    inline_hash,
    next_slot,
    prepare_keys,
)
from lmpipe.kernels.bpe.pretokenizer_kernels import advance, next_segment, next_starts
from lmpipe.kernels.bpe.structs import BATCH, BLOCK, CACHE_SLOT, DONE, KEY, NO_ROOM, SLOT, WORK
from lmpipe.kernels.runtime.intrinsics import (
    ID_BYTES,
    ZERO,
    compare_exchange,
    inlined,
    kernel,
    load32,
    load64,
    load_acquire,
    load_id,
    load_int,
    store64,
    store_id,
    store_int,
    store_release,
)
from lmpipe.kernels.runtime.structs import WORD

INLINE_IDS = 8 // ID_BYTES
# Longer pre-tokens are merged again each time. Long ones are rare (0.01 % of web text is longer than 128 bytes), but
# half of the time went into merging them before they were cached.
MAX_CACHED_BYTES = 1000
SIZE_SHIFT = 48  # of a longer pre-token's size in its slot, above the address of its text
ADDRESS = np.uint64((1 << SIZE_SHIFT) - 1)
BUSY = np.uint64(0xFFFFFFFFFFFFFFFF)  # a slot that is being filled; no size is that large


@kernel
def enter_pretoken(work, slot, low, high, text, size, ids, end):
    """Enter the ids of a pre-token into a free slot, unless there is no room or another thread is faster.

    `text` and `size` are those of a longer pre-token; `size` is 0 for one whose text is in the slot.
    """
    count = (end - ids) // ID_BYTES
    needed = (size + 7) & -8
    if count > INLINE_IDS:
        needed += (end - ids + 7) & -8
    if load_int(work + WORK.free) == 0 or needed > load_int(work + WORK.arena_left):
        return
    if not compare_exchange(slot + CACHE_SLOT.high, BUSY):
        return
    arena = load_int(work + WORK.arena)
    if size > 0:
        copy_bytes(arena, text, size)
        high = LONG | uint64(size) << uint64(SIZE_SHIFT) | uint64(arena)
        arena += (size + 7) & -8
    if count > INLINE_IDS:
        copy_bytes(arena, ids, end - ids)
        store_int(slot + CACHE_SLOT.ids, arena)
    else:
        value = ZERO
        for index in range(count):
            token = uint64(load_id(ids + ID_BYTES * index))
            value |= token << uint64(8 * ID_BYTES * index)
        store64(slot + CACHE_SLOT.ids, value)
    store64(slot + CACHE_SLOT.low, low)
    store_int(slot + CACHE_SLOT.id_count, count)
    store_release(slot + CACHE_SLOT.high, high)
    store_int(work + WORK.free, load_int(work + WORK.free) - 1)
    store_int(work + WORK.arena, load_int(work + WORK.arena) + needed)
    store_int(work + WORK.arena_left, load_int(work + WORK.arena_left) - needed)


@inlined
def write_cached_ids(slot, output):
    """Write the ids of a slot, and perhaps some bytes more; returns the address behind the ids."""
    count = load_int(slot + CACHE_SLOT.id_count)
    store64(output, load64(slot + CACHE_SLOT.ids))
    if count > INLINE_IDS:
        copy_bytes(output, load_int(slot + CACHE_SLOT.ids), ID_BYTES * count)
    return output + ID_BYTES * count


@kernel
def encode_inline(work, slot, key, output):
    """Encode a pre-token of up to 15 bytes that is not in the slot where its look-up starts.

    `key` starts with its text. Returns the address behind the ids, 0 if scratch is too small.
    """
    low, high = load64(key + KEY.low), load64(key + KEY.high)
    slots, capacity = load_int(work + WORK.slots), load_int(work + WORK.capacity)
    other = load_acquire(slot + CACHE_SLOT.high)
    while other != ZERO:
        if other == high and load64(slot + CACHE_SLOT.low) == low:
            return write_cached_ids(slot, output)
        slot = slots + next_slot(slot - slots, capacity)
        other = load_acquire(slot + CACHE_SLOT.high)
    end = encode_pretoken(work, key, np.int64(high >> uint64(56)), output)
    if end:
        enter_pretoken(work, slot, low, high, 0, 0, output, end)
    return end


@kernel
def encode_long(work, text, size, output):
    """Encode a pre-token of 16 bytes or more; returns the address behind the ids, 0 if scratch is too small."""
    if size > MAX_CACHED_BYTES:
        return encode_pretoken(work, text, size, output)
    slots, capacity = load_int(work + WORK.slots), load_int(work + WORK.capacity)
    hash_value = arena_hash(text, size)
    slot = slots + hash_slot(hash_value, capacity)
    marked_size = LONG >> uint64(SIZE_SHIFT) | uint64(size)
    high = load_acquire(slot + CACHE_SLOT.high)
    while high != ZERO:
        if (
            high >> uint64(SIZE_SHIFT) == marked_size
            and load64(slot + CACHE_SLOT.low) == hash_value
            and equal_words(np.int64(high & ADDRESS), text, size)
        ):
            return write_cached_ids(slot, output)
        slot = slots + next_slot(slot - slots, capacity)
        high = load_acquire(slot + CACHE_SLOT.high)
    end = encode_pretoken(work, text, size, output)
    if end:
        enter_pretoken(work, slot, hash_value, ZERO, text, size, output, end)
    return end


@kernel
def encode_starts(base, starts, count, work, keys, output):
    """Encode pre-tokens, given as in prepare_keys; returns the address behind the ids, 0 if scratch is too small."""
    slots, capacity = load_int(work + WORK.slots), load_int(work + WORK.capacity)
    for first in range(0, count, BATCH):
        keys_end = prepare_keys(base, starts + 4 * first, count - first, slots, capacity, keys)
        for key in range(keys, keys_end, KEY.nbytes):
            high, slot = load64(key + KEY.high), load_int(key + KEY.slot)
            if high == LONG:
                output = encode_long(work, base + load_int(key + KEY.low), slot, output)
            elif load_acquire(slot + CACHE_SLOT.high) == high and load64(slot + CACHE_SLOT.low) == load64(
                key + KEY.low
            ):
                output = write_cached_ids(slot, output)
            else:
                output = encode_inline(work, slot, key, output)
            if output == 0:
                return 0
    return output


@kernel
def encode_block(block):
    """Encode a block of text (BLOCK, whose table is WORK); the ids go to WORK.output, which moves on behind them.

    Returns DONE, or NO_ROOM if scratch must be larger first (WORK.scratch_needed); the next call continues.
    """
    base, work = load_int(block + BLOCK.base), load_int(block + BLOCK.table)
    starts, keys = load_int(block + BLOCK.starts), load_int(block + BLOCK.keys)
    while load_int(block + BLOCK.is_open) or next_segment(block):
        complete = next_starts(block)
        output = encode_starts(base, starts, complete, work, keys, load_int(work + WORK.output))
        if output == 0:
            return NO_ROOM
        advance(block, complete)
        special = load_int(block + BLOCK.special)
        if load_int(block + BLOCK.is_open) == 0 and special >= 0:
            store_id(output, load32(load_int(work + WORK.special_ids) + 4 * special))
            output += ID_BYTES
        store_int(work + WORK.output, output)
    return DONE


@kernel
def count_ids(ids, count, counts):
    """Add the number of occurrences of each id to the counts (int64) of the ids."""
    for index in range(count):
        entry = counts + WORD * load_id(ids + ID_BYTES * index)
        store_int(entry, load_int(entry) + 1)
    return 0


@kernel
def copy_slots(slots, capacity, new_slots, new_capacity):
    """Copy the published slots of a cache into a larger one that nobody uses yet; returns how many."""
    count = 0
    for slot in range(slots, slots + SLOT.nbytes * capacity, SLOT.nbytes):
        high = load_acquire(slot + CACHE_SLOT.high)
        if high in (ZERO, BUSY):
            continue
        low = load64(slot + CACHE_SLOT.low)
        hash_value = low if high & LONG != ZERO else inline_hash(low, high)
        copy_bytes(free_slot(new_slots, new_capacity, hash_value), slot, SLOT.nbytes)
        count += 1
    return count


KERNELS = (enter_merges, encode_block, count_ids, copy_slots)
