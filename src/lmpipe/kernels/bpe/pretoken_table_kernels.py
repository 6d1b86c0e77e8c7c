"""Counting unique pre-tokens in an open hash table, at 400 to 800 MB of text a second and core.

Pre-tokens of up to 15 bytes, 99 % of a text's, stand in their slot, two 64-bit words with the length in the highest
byte: a look-up compares two words and touches one cache line. Longer ones have a hash in their slot (with the highest
bit of the second word set) and their text in an arena.
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.pretokenizer_kernels import find_specials, scan, start_scan
from lmpipe.kernels.bpe.structs import BATCH, BLOCK, DONE, INLINE_BYTES, KEY, MATCH, NO_ROOM, SCAN, SLOT, TABLE
from lmpipe.kernels.runtime.intrinsics import (
    ZERO,
    big_endian,
    hash128,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    load_int,
    low_bits,
    prefetch,
    store8,
    store32,
    store64,
    store_int,
)
from lmpipe.kernels.runtime.structs import WORD

ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
LONG = np.uint64(1 << 63)
SALT_LOW = np.uint64(0x9E3779B97F4A7C15)
SALT_HIGH = np.uint64(0xC2B2AE3D27D4EB4F)
LOW, HIGH, COUNT, SIZE = (WORD * field for field in range(4))


@inlined
def short_low(address, size):
    """The first eight bytes of a pre-token of up to 15 bytes, as a number."""
    return load64(address) & (ALL >> uint64(64 - 8 * min(size, 8)))


@inlined
def short_high(address, size):
    """Its other bytes, and its length in the highest byte."""
    return load64(address + 8) & low_bits(8 * max(size - 8, 0)) | uint64(size) << uint64(56)


@inlined
def short_hash(low, high):
    """The hash of a pre-token of up to 15 bytes."""
    return hash128(low ^ SALT_LOW, high ^ SALT_HIGH)


@kernel
def long_hash(address, size):
    """The hash of 16 bytes or more."""
    value = uint64(size) ^ SALT_LOW
    place = 0
    while place + 16 <= size:
        value = hash128(load64(address + place) ^ value, load64(address + place + 8) ^ SALT_HIGH)
        place += 16
    return hash128(load64(address + size - 16) ^ value, load64(address + size - 8) ^ SALT_HIGH)


@inlined
def equal_words(left, right, size):
    """Whether eight bytes or more at two addresses are the same."""
    place = 0
    while place + 8 < size and load64(left + place) == load64(right + place):
        place += 8
    return place + 8 >= size and load64(left + size - 8) == load64(right + size - 8)


@inlined
def copy(target, source, size):
    """Copy bytes."""
    for place in range(size):
        store8(target + place, load8(source + place))


@inlined
def home(hash_value, capacity):
    """Where the look-up of a hash starts, in bytes from the first slot."""
    return SLOT.nbytes * (np.int64(hash_value >> uint64(8)) & (capacity - 1))


@inlined
def short_slot(slots, capacity, place, low, high):
    """The slot of a pre-token, looking from a place on: its own, or the free one where it belongs."""
    while True:
        found = load64(slots + place + HIGH)
        if found == ZERO or (found == high and load64(slots + place + LOW) == low):
            return slots + place
        place = (place + SLOT.nbytes) & (SLOT.nbytes * capacity - 1)


@kernel
def long_slot(slots, capacity, arena, address, size, hash_value):
    """The slot of a pre-token of 16 bytes or more at an address: its own, or the free one where it belongs."""
    place = home(hash_value, capacity)
    while True:
        slot = slots + place
        found = load64(slot + HIGH)
        if found == ZERO:
            return slot
        if (
            found & LONG != ZERO
            and load64(slot + LOW) == hash_value
            and load_int(slot + SIZE) == size
            and equal_words(arena + np.int64(found & ~LONG), address, size)
        ):
            return slot
        place = (place + SLOT.nbytes) & (SLOT.nbytes * capacity - 1)


@kernel
def add_long(table, address, size, count):
    """Add `count` to a pre-token of 16 bytes or more, which is copied into the arena if it is new."""
    hash_value = long_hash(address, size)
    arena = load_int(table + TABLE.arena)
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    slot = long_slot(slots, capacity, arena, address, size, hash_value)
    if load64(slot + HIGH) == ZERO:
        start = load_int(table + TABLE.arena_used)
        copy(arena + start, address, size)
        store_int(table + TABLE.arena_used, start + size)
        store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
        store64(slot + LOW, hash_value)
        store64(slot + HIGH, LONG | uint64(start))
        store_int(slot + SIZE, size)
    store_int(slot + COUNT, load_int(slot + COUNT) + count)
    return 0


@kernel
def add_short(table, low, high, count):
    """Add `count` to a pre-token of up to 15 bytes."""
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    slot = short_slot(slots, capacity, home(short_hash(low, high), capacity), low, high)
    if load64(slot + HIGH) == ZERO:
        store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
        store64(slot + LOW, low)
        store64(slot + HIGH, high)
    store_int(slot + COUNT, load_int(slot + COUNT) + count)
    return 0


@kernel
def count_elsewhere(slots, capacity, slot, low, high):
    """Count a pre-token that does not stand where its look-up starts; returns 1 if it is new, else 0."""
    slot = short_slot(slots, capacity, slot - slots, low, high)
    store_int(slot + COUNT, load_int(slot + COUNT) + 1)
    if load64(slot + HIGH) != ZERO:
        return 0
    store64(slot + LOW, low)
    store64(slot + HIGH, high)
    return 1


@kernel
def count_starts(base, starts, count, table, keys):
    """Count pre-tokens; number k reaches from start k to start k + 1. The table has room for all of them.

    They are looked up in batches: first all keys are made and their slots asked for, then they are compared. So the
    slots of a table that is larger than the caches arrive while other keys are made.
    """
    slots, capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    new = 0
    first = 0
    while first < count:
        batch = min(BATCH, count - first)
        key = keys
        place = load32(starts + 4 * first)
        for index in range(first + 1, first + batch + 1):
            end = load32(starts + 4 * index)
            size = end - place
            if size <= INLINE_BYTES:
                low, high = short_low(base + place, size), short_high(base + place, size)
                slot = slots + home(short_hash(low, high), capacity)
                prefetch(slot)
                store64(key, low)
                store64(key + 8, high)
                store_int(key + 16, slot)
                key += KEY.nbytes
            else:
                add_long(table, base + place, size, 1)
            place = end
        last = key
        key = keys
        while key < last:
            low, high, slot = load64(key), load64(key + 8), load_int(key + 16)
            if load64(slot + LOW) == low and load64(slot + HIGH) == high:
                store_int(slot + COUNT, load_int(slot + COUNT) + 1)
            else:
                new += count_elsewhere(slots, capacity, slot, low, high)
            key += KEY.nbytes
        first += batch
    store_int(table + TABLE.used, load_int(table + TABLE.used) + new)
    return 0


@inlined
def has_room(table, words, text_bytes):
    """Whether a table has room for so many new pre-tokens and bytes: it is at most three quarters full."""
    slots = 4 * (load_int(table + TABLE.used) + words) <= 3 * load_int(table + TABLE.capacity)
    return slots and load_int(table + TABLE.arena_used) + text_bytes <= load_int(table + TABLE.arena_size)


@kernel
def count_block(block):
    """Count the pre-tokens between the special tokens of a block of text (BLOCK....).

    Returns DONE, or NO_ROOM where the table first needs more room; the next call goes on from there.
    """
    base, table = load_int(block + BLOCK.base), load_int(block + BLOCK.table)
    starts = load_int(block + BLOCK.starts)
    while load_int(block + BLOCK.open) or next_segment(block):
        complete = next_starts(block)
        text_bytes = load32(starts + 4 * complete) - load32(starts)
        if not has_room(table, complete, text_bytes):
            return NO_ROOM
        count_starts(base, starts, complete, table, load_int(block + BLOCK.keys))
        pass_starts(block, complete)
    return DONE


@kernel
def next_starts(block):
    """Find some starts of pre-tokens in the open segment, and where the last one ends; returns how many."""
    stop, scanner = load_int(block + BLOCK.segment_stop), block + BLOCK.scan
    base, starts = load_int(block + BLOCK.base), load_int(block + BLOCK.starts)
    waiting = load_int(block + BLOCK.waiting)
    if waiting == 0:
        # The last start of the scan before stands first, because only now its end is known.
        carried = load_int(block + BLOCK.carried)
        room = load_int(block + BLOCK.starts_room) - carried
        waiting = carried + scan(base, stop, load_int(block + BLOCK.classes), scanner, starts + 4 * carried, room)
        store_int(block + BLOCK.waiting, waiting)
    if load_int(scanner + SCAN.position) < stop:
        return waiting - 1
    store32(starts + 4 * waiting, stop)
    return waiting


@kernel
def pass_starts(block, complete):
    """Go on behind the starts that next_starts found; the segment stays open while one of them is left."""
    starts, waiting = load_int(block + BLOCK.starts), load_int(block + BLOCK.waiting)
    store32(starts, load32(starts + 4 * complete))
    store_int(block + BLOCK.carried, waiting - complete)
    store_int(block + BLOCK.waiting, 0)
    store_int(block + BLOCK.open, waiting - complete)


@kernel
def next_segment(block):
    """Open the next text between special tokens, and note which one ends it (-1: none); False if there is none."""
    found, room = load_int(block + BLOCK.matches), load_int(block + BLOCK.matches_room)
    stop, place = load_int(block + BLOCK.stop), load_int(block + BLOCK.position)
    if place >= stop:
        return False
    number, count = load_int(block + BLOCK.match_next), load_int(block + BLOCK.match_count)
    if number == count and (count == room or place == 0):
        specials = load_int(block + BLOCK.specials)
        count = find_specials(load_int(block + BLOCK.base), place, stop, specials, found, room)
        number = 0
        store_int(block + BLOCK.match_count, count)
    end = following = stop
    special = -1
    if number < count:
        entry = found + MATCH.nbytes * number
        end, following = load_int(entry + MATCH.start), load_int(entry + MATCH.stop)
        special = load_int(entry + MATCH.index)
    store_int(block + BLOCK.match_next, min(number + 1, count))
    store_int(block + BLOCK.position, following)
    store_int(block + BLOCK.segment_stop, end)
    store_int(block + BLOCK.special, special)
    store_int(block + BLOCK.carried, 0)
    store_int(block + BLOCK.open, 1)
    start_scan(block + BLOCK.scan, place)
    return True


@kernel
def add_slots(table, slots, capacity, arena):
    """Add the counts of another table's slots. `arena` is the other's; 0 says that it is the table's own arena."""
    own_slots, own_capacity = load_int(table + TABLE.slots), load_int(table + TABLE.capacity)
    for number in range(capacity):
        slot = slots + SLOT.nbytes * number
        low, high = load64(slot + LOW), load64(slot + HIGH)
        if high == ZERO:
            continue
        if high & LONG == ZERO:
            add_short(table, low, high, load_int(slot + COUNT))
        elif arena:
            add_long(table, arena + np.int64(high & ~LONG), load_int(slot + SIZE), load_int(slot + COUNT))
        else:
            place = home(low, own_capacity)
            while load64(own_slots + place + HIGH) != ZERO:
                place = (place + SLOT.nbytes) & (SLOT.nbytes * own_capacity - 1)
            copy(own_slots + place, slot, SLOT.nbytes)
            store_int(table + TABLE.used, load_int(table + TABLE.used) + 1)
    return 0


@kernel
def add_words(table, text, lengths, counts, words):
    """Add words with their counts: their bytes joined (PADDING bytes behind), lengths (uint32), counts (int64)."""
    for word in range(words):
        size, count = load32(lengths + 4 * word), load_int(counts + WORD * word)
        if size <= INLINE_BYTES:
            add_short(table, short_low(text, size), short_high(text, size), count)
        else:
            add_long(table, text, size, count)
        text += size
    return 0


@kernel
def list_slots(table, first_keys, second_keys, numbers):
    """List the used slots of a table: their numbers (int64), and two keys (uint64) that sort as their bytes do.

    Only those of 16 bytes and more that share the first 15 have equal keys. Returns the bytes of all pre-tokens.
    """
    arena = load_int(table + TABLE.arena)
    output = 0
    text_bytes = 0
    for number in range(load_int(table + TABLE.capacity)):
        slot = load_int(table + TABLE.slots) + SLOT.nbytes * number
        low, high = load64(slot + LOW), load64(slot + HIGH)
        if high == ZERO:
            continue
        if high & LONG == ZERO:
            size = np.int64(high >> uint64(56))
            # The length comes last: it decides where a longer pre-token goes on with bytes of zero.
            second = big_endian(high)
        else:
            size = load_int(slot + SIZE)
            start = arena + np.int64(high & ~LONG)
            low = load64(start)
            second = big_endian(load64(start + 8)) | uint64(255)
        store64(first_keys + WORD * output, big_endian(low))
        store64(second_keys + WORD * output, second)
        store_int(numbers + WORD * output, number)
        output += 1
        text_bytes += size
    return text_bytes


@kernel
def write_words(table, numbers, words, text, lengths, counts):
    """Write the pre-tokens of slots, given by their numbers (int64), as add_words takes them."""
    arena = load_int(table + TABLE.arena)
    for word in range(words):
        slot = load_int(table + TABLE.slots) + SLOT.nbytes * load_int(numbers + WORD * word)
        high = load64(slot + HIGH)
        if high & LONG == ZERO:
            size = np.int64(high >> uint64(56))
            copy(text, slot, size)
        else:
            size = load_int(slot + SIZE)
            copy(text, arena + np.int64(high & ~LONG), size)
        text += size
        store32(lengths + 4 * word, size)
        store_int(counts + WORD * word, load_int(slot + COUNT))
    return 0


# Those of scan.py are compiled with these, which call them.
KERNELS = (scan, find_specials, count_block, add_slots, add_words, list_slots, write_words)
