"""Encoding with byte-level BPE: pre-tokens are looked up in a cache that threads share, or merged and entered there.

Texts repeat their pre-tokens, so the cache decides the speed (500 to 800 MB/s and core for what it has): a slot is half
a cache line, and up to four ids of 16 bits stand in it. Threads read it without locks; they claim a free slot with one
atomic exchange, fill it and publish it. What is lost or entered twice then is merged or found again.
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.pretoken_table_kernels import (
    HIGH,
    LONG,
    LOW,
    SALT_LOW,
    copy,
    equal_words,
    home,
    long_hash,
    next_segment,
    next_starts,
    pass_starts,
    short_hash,
    short_high,
    short_low,
)
from lmpipe.kernels.bpe.structs import (
    BATCH,
    BLOCK,
    CACHE_SLOT,
    DONE,
    ID_BITS,
    INLINE_BYTES,
    KEY,
    NO_ROOM,
    RANK_BITS,
    SLOT,
    WORK,
)
from lmpipe.kernels.runtime.intrinsics import (
    ID_BYTES,
    ZERO,
    compare_exchange,
    hash128,
    hmin_u32,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    load_acquire,
    load_id,
    load_int,
    prefetch,
    store32,
    store64,
    store_id,
    store_int,
    store_release,
)
from lmpipe.kernels.runtime.structs import WORD

IDS, ID_COUNT = CACHE_SLOT.ids, CACHE_SLOT.id_count
INLINE_IDS = 8 // ID_BYTES
NO_RANK = 0xFFFFFFFF
LANES = 16
# Longer ones are merged again each time. Long ones are rare (0.01 % of web text beyond 128 bytes), but half of the time
# went into merging them before they were kept.
MAX_CACHED_BYTES = 1000
MAX_SHORT_BYTES = 24  # bytes up to which a pre-token is merged without a linked list
SIZE_SHIFT = 48  # of a longer pre-token's size in its slot, above the address of its text
ADDRESS = np.uint64((1 << SIZE_SHIFT) - 1)
BUSY = np.uint64(0xFFFFFFFFFFFFFFFF)  # a slot that is being filled; no size is that large


@inlined
def rule_of(left, right):
    """A pair as a rule without its rank."""
    return uint64(left) << uint64(ID_BITS) | uint64(right)


@inlined
def rule_place(rule, capacity):
    """Where the look-up of a rule starts."""
    return np.int64(hash128(rule ^ SALT_LOW, SALT_LOW) >> uint64(8)) & (capacity - 1)


@inlined
def rank_of(rules, capacity, left, right):
    """The rank of the merge of two ids, NO_RANK if there is none."""
    rule = rule_of(left, right)
    place = rule_place(rule, capacity)
    while True:
        found = load64(rules + WORD * place)
        if found == ZERO:
            return NO_RANK
        if found >> uint64(RANK_BITS) == rule:
            return np.int64(found & uint64((1 << RANK_BITS) - 1)) - 1
        place = (place + 1) & (capacity - 1)


@kernel
def enter_rules(work, merges, count):
    """Enter merges, their left, right and merged ids (int64), the earliest first, into the empty table of rules."""
    rules, capacity = load_int(work + WORK.rules), load_int(work + WORK.rules_capacity)
    for rank in range(count):
        left, right = load_int(merges), load_int(merges + WORD)
        store32(load_int(work + WORK.merged) + 4 * rank, load_int(merges + 2 * WORD))
        merges += 3 * WORD
        if rank_of(rules, capacity, left, right) == NO_RANK:
            rule = rule_of(left, right)
            place = rule_place(rule, capacity)
            while load64(rules + WORD * place) != ZERO:
                place = (place + 1) & (capacity - 1)
            store64(rules + WORD * place, rule << uint64(RANK_BITS) | uint64(rank + 1))
    return 0


@inlined
def set_rank(ranks, smallest, place, rank):
    """Set the rank of a pair, and the smallest of its group of 16."""
    store32(ranks + 4 * place, rank)
    group = place >> 4
    store32(smallest + 4 * group, hmin_u32(ranks + 64 * group))


@inlined
def place_of(values, wanted):
    """The first place of a number among uint32 that hold it."""
    place = 0
    while load32(values + 4 * place) != wanted:
        place += 1
    return place


@kernel
def merge_bytes(work, text, size):
    """Merge bytes, the earliest rule first, the leftmost of equals; returns how many ids (uint32) lie in the scratch.

    The symbols are a linked list. The smallest of the ranks is found among those of groups of 16, so a merge takes the
    same time in a window of 512 bytes as in a word (one after the other: four times as long for 512).
    """
    rules, capacity = load_int(work + WORK.rules), load_int(work + WORK.rules_capacity)
    byte_ids, merged_ids = load_int(work + WORK.byte_ids), load_int(work + WORK.merged)
    room = 4 * load_int(work + WORK.scratch_symbols)
    ids = load_int(work + WORK.scratch)
    ranks, following, before, smallest = ids + room, ids + 2 * room, ids + 3 * room, ids + 4 * room
    groups = (size + LANES - 1) // LANES
    chunks = (groups + LANES - 1) // LANES
    left = load32(byte_ids + 4 * load8(text))
    store32(ids, left)
    for place in range(1, size):
        right = load32(byte_ids + 4 * load8(text + place))
        store32(ids + 4 * place, right)
        store32(ranks + 4 * (place - 1), rank_of(rules, capacity, left, right))
        left = right
    for place in range(size):
        store32(following + 4 * place, place + 1)
        store32(before + 4 * place, place - 1)
    for place in range(size - 1, LANES * groups):
        store32(ranks + 4 * place, NO_RANK)
    for group in range(groups):
        store32(smallest + 4 * group, hmin_u32(ranks + 64 * group))
    for group in range(groups, LANES * chunks):
        store32(smallest + 4 * group, NO_RANK)
    while True:
        best, chunk = NO_RANK, 0
        for number in range(chunks):
            rank = hmin_u32(smallest + 64 * number)
            if rank < best:
                best, chunk = rank, number
        if best == NO_RANK:
            break
        group = LANES * chunk + place_of(smallest + 64 * chunk, best)
        place = LANES * group + place_of(ranks + 64 * group, best)
        token = load32(merged_ids + 4 * best)
        right = load32(following + 4 * place)
        after = load32(following + 4 * right)
        store32(ids + 4 * place, token)
        store32(following + 4 * place, after)
        set_rank(ranks, smallest, right, NO_RANK)
        rank = NO_RANK
        if after < size:
            store32(before + 4 * after, place)
            rank = rank_of(rules, capacity, token, load32(ids + 4 * after))
        set_rank(ranks, smallest, place, rank)
        left = load32(before + 4 * place)
        if left < size:
            set_rank(ranks, smallest, left, rank_of(rules, capacity, load32(ids + 4 * left), token))
    count = 0
    place = 0
    while place < size:
        store32(ids + 4 * count, load32(ids + 4 * place))
        place = load32(following + 4 * place)
        count += 1
    return count


@kernel
def merge_short(work, text, size, output):
    """Merge up to SHORTEST_LIST bytes, as merge_bytes does; returns the address behind the ids.

    Of so few symbols the smallest rank is found faster one after the other, and closing a gap is faster than a list
    (0.65 instead of 0.95 microseconds for a word that is not in the cache).
    """
    rules, capacity = load_int(work + WORK.rules), load_int(work + WORK.rules_capacity)
    byte_ids, merged_ids = load_int(work + WORK.byte_ids), load_int(work + WORK.merged)
    ids = load_int(work + WORK.scratch)
    ranks = ids + 4 * load_int(work + WORK.scratch_symbols)
    left = load32(byte_ids + 4 * load8(text))
    store32(ids, left)
    for place in range(1, size):
        right = load32(byte_ids + 4 * load8(text + place))
        store32(ids + 4 * place, right)
        store32(ranks + 4 * (place - 1), rank_of(rules, capacity, left, right))
        left = right
    while size > 1:
        best, place = NO_RANK, 0
        for number in range(size - 1):
            rank = load32(ranks + 4 * number)
            place = number if rank < best else place
            best = min(best, rank)
        if best == NO_RANK:
            break
        token = load32(merged_ids + 4 * best)
        store32(ids + 4 * place, token)
        size -= 1
        for number in range(place + 1, size):
            store32(ids + 4 * number, load32(ids + 4 * number + 4))
            store32(ranks + 4 * (number - 1), load32(ranks + 4 * number))
        if place > 0:
            store32(ranks + 4 * (place - 1), rank_of(rules, capacity, load32(ids + 4 * (place - 1)), token))
        if place + 1 < size:
            store32(ranks + 4 * place, rank_of(rules, capacity, token, load32(ids + 4 * (place + 1))))
    for number in range(size):
        store_id(output, load32(ids + 4 * number))
        output += ID_BYTES
    return output


@kernel
def stay_apart(work, text, left, right):
    """Whether two tokens whose bytes begin at `text` are what these are merged to; -1 if the scratch is too small."""
    lengths, ids = load_int(work + WORK.lengths), load_int(work + WORK.scratch)
    size = load32(lengths + 4 * left) + load32(lengths + 4 * right)
    if size > load_int(work + WORK.scratch_symbols):
        return -1
    count = merge_bytes(work, text, size)
    return 1 if count == 2 and load32(ids) == left and load32(ids + 4) == right else 0


@kernel
def merge_word(work, text, size, output):
    """Merge a pre-token of any length in linear time; returns the address behind its ids, 0 for too small a scratch.

    Where each two neighbouring tokens would stay apart if they stood alone, no merge ever joins any of them. So the
    tokens of a window and those of the next one are the tokens of both, once the two at the cut stay apart; where they
    do not, some tokens before the cut are merged anew, in a window twice as wide.
    """
    if size <= MAX_SHORT_BYTES:
        return merge_short(work, text, size, output)
    lengths, ids = load_int(work + WORK.lengths), load_int(work + WORK.scratch)
    first = output
    narrowest, wanted_margin = load_int(work + WORK.window), load_int(work + WORK.margin)
    window = narrowest
    place = cut_apart = 0
    while True:
        here = min(window, size - place)
        if here > load_int(work + WORK.scratch_symbols):
            return 0
        count = merge_bytes(work, text + place, here)
        is_last = place + here == size
        if not is_last:
            margin = 0
            while count > 0 and margin < wanted_margin:
                count -= 1
                margin += load32(lengths + 4 * load32(ids + 4 * count))
            if count == 0:
                window *= 2
                continue
        taken = 0
        for number in range(count):
            token = load32(ids + 4 * number)
            store_id(output + ID_BYTES * number, token)
            taken += load32(lengths + 4 * token)
        if output > first:
            last = load_id(output - ID_BYTES)
            apart = stay_apart(work, text + place - load32(lengths + 4 * last), last, load_id(output))
            if apart < 0:
                return 0
            if apart == 0:
                cut_apart = max(cut_apart, place)
                back = 0
                while output > first and back < window:
                    output -= ID_BYTES
                    back += load32(lengths + 4 * load_id(output))
                place -= back
                window *= 2
                continue
        output += ID_BYTES * count
        place += taken
        if is_last:
            return output
        if place > cut_apart:
            window = narrowest


@kernel
def keep(work, slot, low, high, text, size, ids, end):
    """Enter the ids of a pre-token into a free slot, unless there is no room or another thread is faster.

    `text` and `size` are those of a longer pre-token; `size` is 0 for one whose text is in the slot.
    """
    count = (end - ids) // ID_BYTES
    needed = (size + 7) & -8
    if count > INLINE_IDS:
        needed += (end - ids + 7) & -8
    if load_int(work + WORK.free) == 0 or needed > load_int(work + WORK.arena_left):
        return
    if not compare_exchange(slot + HIGH, BUSY):
        return
    arena = load_int(work + WORK.arena)
    if size > 0:
        copy(arena, text, size)
        high = LONG | uint64(size) << uint64(SIZE_SHIFT) | uint64(arena)
        arena += (size + 7) & -8
    if count > INLINE_IDS:
        copy(arena, ids, end - ids)
        store_int(slot + IDS, arena)
    else:
        value = ZERO
        for number in range(count):
            token = uint64(load_id(ids + ID_BYTES * number))
            value |= token << uint64(8 * ID_BYTES * number)
        store64(slot + IDS, value)
    store64(slot + LOW, low)
    store_int(slot + ID_COUNT, count)
    store_release(slot + HIGH, high)
    store_int(work + WORK.free, load_int(work + WORK.free) - 1)
    store_int(work + WORK.arena, load_int(work + WORK.arena) + needed)
    store_int(work + WORK.arena_left, load_int(work + WORK.arena_left) - needed)


@inlined
def write_ids(slot, output):
    """Write the ids of a slot, and perhaps some bytes more; returns the address behind them."""
    count = load_int(slot + ID_COUNT)
    store64(output, load64(slot + IDS))
    if count > INLINE_IDS:
        copy(output, load_int(slot + IDS), ID_BYTES * count)
    return output + ID_BYTES * count


@kernel
def encode_short(work, slot, key, output):
    """Encode a pre-token of up to 15 bytes that does not stand where its look-up starts; `key` is its slot's beginning.

    Returns the address behind the ids, 0 if the scratch is too small.
    """
    low, high = load64(key), load64(key + 8)
    slots, room = load_int(work + WORK.slots), SLOT.nbytes * load_int(work + WORK.capacity)
    found = load_acquire(slot + HIGH)
    while found != ZERO:
        if found == high and load64(slot + LOW) == low:
            return write_ids(slot, output)
        slot = slots + ((slot - slots + SLOT.nbytes) & (room - 1))
        found = load_acquire(slot + HIGH)
    end = merge_word(work, key, np.int64(high >> uint64(56)), output)
    if end:
        keep(work, slot, low, high, 0, 0, output, end)
    return end


@kernel
def encode_long(work, text, size, output):
    """Encode a pre-token of 16 bytes or more; returns the address behind the ids, 0 if the scratch is too small."""
    if size > MAX_CACHED_BYTES:
        return merge_word(work, text, size, output)
    slots, capacity = load_int(work + WORK.slots), load_int(work + WORK.capacity)
    hash_value = long_hash(text, size)
    place = home(hash_value, capacity)
    wanted = LONG >> uint64(SIZE_SHIFT) | uint64(size)
    found = load_acquire(slots + place + HIGH)
    while found != ZERO:
        if (
            found >> uint64(SIZE_SHIFT) == wanted
            and load64(slots + place + LOW) == hash_value
            and equal_words(np.int64(found & ADDRESS), text, size)
        ):
            return write_ids(slots + place, output)
        place = (place + SLOT.nbytes) & (SLOT.nbytes * capacity - 1)
        found = load_acquire(slots + place + HIGH)
    end = merge_word(work, text, size, output)
    if end:
        keep(work, slots + place, hash_value, ZERO, text, size, output, end)
    return end


@kernel
def encode_starts(base, starts, count, work, keys, output):
    """Encode pre-tokens that begin at `starts` (uint32, one more than their count); returns the address behind the ids.

    Some at a time, first their keys and then the cache's slots, which have been asked for meanwhile. Returns 0 if the
    scratch is too small.
    """
    slots, capacity = load_int(work + WORK.slots), load_int(work + WORK.capacity)
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
            else:
                store_int(key, place)
                store64(key + 8, LONG)
                store_int(key + 16, size)
            key += KEY.nbytes
            place = end
        last = key
        key = keys
        while key < last:
            high, slot = load64(key + 8), load_int(key + 16)
            if high == LONG:
                output = encode_long(work, base + load_int(key), slot, output)
            elif load_acquire(slot + HIGH) == high and load64(slot + LOW) == load64(key):
                output = write_ids(slot, output)
            else:
                output = encode_short(work, slot, key, output)
            if output == 0:
                return 0
            key += KEY.nbytes
        first += batch
    return output


@kernel
def encode_block(block):
    """Encode a block of text (BLOCK....); the ids go to the work's output, which moves on behind them.

    Returns DONE, or NO_ROOM where the scratch must first be larger; the next call goes on from there.
    """
    base, work = load_int(block + BLOCK.base), load_int(block + BLOCK.table)
    starts, keys = load_int(block + BLOCK.starts), load_int(block + BLOCK.keys)
    while load_int(block + BLOCK.open) or next_segment(block):
        complete = next_starts(block)
        output = encode_starts(base, starts, complete, work, keys, load_int(work + WORK.output))
        if output == 0:
            return NO_ROOM
        pass_starts(block, complete)
        special = load_int(block + BLOCK.special)
        if load_int(block + BLOCK.open) == 0 and special >= 0:
            store_id(output, load32(load_int(work + WORK.special_ids) + 4 * special))
            output += ID_BYTES
        store_int(work + WORK.output, output)
    return DONE


@kernel
def count_ids(ids, count, counts):
    """Add how often each id occurs to the counts (int64) of the ids."""
    for place in range(count):
        entry = counts + WORD * load_id(ids + ID_BYTES * place)
        store_int(entry, load_int(entry) + 1)
    return 0


@kernel
def copy_slots(old, old_capacity, new, new_capacity):
    """Enter the published slots of a cache into a larger one that nobody uses yet; returns how many."""
    count = 0
    for number in range(old_capacity):
        slot = old + SLOT.nbytes * number
        high = load_acquire(slot + HIGH)
        if high in (ZERO, BUSY):
            continue
        low = load64(slot + LOW)
        hash_value = low if high & LONG != ZERO else short_hash(low, high)
        place = home(hash_value, new_capacity)
        while load64(new + place + HIGH) != ZERO:
            place = (place + SLOT.nbytes) & (SLOT.nbytes * new_capacity - 1)
        copy(new + place, slot, SLOT.nbytes)
        count += 1
    return count


KERNELS = (enter_rules, encode_block, count_ids, copy_slots)
