"""Slots of the two hash tables of pre-tokens: the table of counts and the encoder's cache.

A pre-token of up to 15 bytes, as 99 % of a text's are, is inline: two 64-bit words of the slot hold its bytes, with its
length in the highest byte, so that a look-up compares two words and touches one cache line. A longer one has its hash
in the slot (and the highest bit of the second word set) and its text in an arena.
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.structs import BATCH, INLINE_BYTES, KEY, SLOT
from lmpipe.kernels.runtime.intrinsics import (
    HASH_SEED_A,
    HASH_SEED_B,
    ZERO,
    hash128,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    low_bits,
    prefetch,
    store8,
    store64,
    store_int,
)

ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
LONG = np.uint64(1 << 63)  # marks a slot or key of a pre-token in an arena


@inlined
def inline_low(address, size):
    """Return the first eight bytes of a pre-token of up to 15 bytes, as a number."""
    return load64(address) & (ALL >> uint64(64 - 8 * min(size, 8)))


@inlined
def inline_high(address, size):
    """Return its other bytes, with its length in the highest byte."""
    return load64(address + 8) & low_bits(8 * max(size - 8, 0)) | uint64(size) << uint64(56)


@inlined
def inline_hash(low, high):
    """Return the hash of a pre-token of up to 15 bytes."""
    return hash128(low ^ HASH_SEED_A, high ^ HASH_SEED_B)


@kernel
def arena_hash(address, size):
    """Return the hash of 16 bytes or more."""
    value = uint64(size) ^ HASH_SEED_A
    offset = 0
    while offset + 16 <= size:
        value = hash128(load64(address + offset) ^ value, load64(address + offset + 8) ^ HASH_SEED_B)
        offset += 16
    return hash128(load64(address + size - 16) ^ value, load64(address + size - 8) ^ HASH_SEED_B)


@inlined
def equal_words(left, right, size):
    """Return whether eight bytes or more at two addresses are equal."""
    offset = 0
    while offset + 8 < size and load64(left + offset) == load64(right + offset):
        offset += 8
    return offset + 8 >= size and load64(left + size - 8) == load64(right + size - 8)


@inlined
def copy_bytes(target, source, size):
    """Copy bytes."""
    for offset in range(size):
        store8(target + offset, load8(source + offset))


@inlined
def hash_slot(hash_value, capacity):
    """Return the offset of the slot where the look-up of a hash starts; `capacity` is a power of two."""
    return SLOT.nbytes * (np.int64(hash_value >> uint64(8)) & (capacity - 1))


@inlined
def next_slot(offset, capacity):
    """Return the offset of the next slot, after the last one that of the first."""
    return (offset + SLOT.nbytes) & (SLOT.nbytes * capacity - 1)


@inlined
def free_slot(slots, capacity, hash_value):
    """Return the address of the free slot where a hash belongs that is not in the table."""
    offset = hash_slot(hash_value, capacity)
    while load64(slots + offset + SLOT.high) != ZERO:
        offset = next_slot(offset, capacity)
    return slots + offset


@inlined
def prepare_keys(base, starts, count, slots, capacity, keys):
    """Write the KEYs of up to BATCH pre-tokens and prefetch their slots; returns the address behind the last key.

    Pre-token k reaches from start k to start k + 1 (uint32, relative to `base`). When the keys are complete, the first
    slots have arrived in the caches, though a table may be much larger.
    """
    key = keys
    start = load32(starts)
    for index in range(1, min(BATCH, count) + 1):
        stop = load32(starts + 4 * index)
        size = stop - start
        if size <= INLINE_BYTES:
            low, high = inline_low(base + start, size), inline_high(base + start, size)
            slot = slots + hash_slot(inline_hash(low, high), capacity)
            prefetch(slot)
            store64(key + KEY.low, low)
            store64(key + KEY.high, high)
            store_int(key + KEY.slot, slot)
        else:
            store_int(key + KEY.low, start)
            store64(key + KEY.high, LONG)
            store_int(key + KEY.slot, size)
        key += KEY.nbytes
        start = stop
    return key
