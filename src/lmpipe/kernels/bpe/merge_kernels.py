"""The merge loop of byte-level BPE over unique words and their counts, exact, at 60 to 180 ns an occurrence.

A word is one record, its count and its symbols together, so that a visit costs one cache line. Each frequent pair has
the list of its words. A merge goes through one list; what it finds beside the new token is summed up in arrays that the
neighbouring symbol indexes, so the table of pairs is touched once for each different neighbour. The counts of a pair
only ever fall: a heap entry that is too large is corrected when it comes to the top.

Only pairs that occur MERGE_LEAST times or more are in the table, the heap and the lists; the others cannot be next.
When no such pair is left, the caller lowers the limit, and all pairs are counted again.
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.pretoken_table_kernels import copy
from lmpipe.kernels.bpe.structs import (
    COUNTER,
    EVENT,
    HEAP_ENTRY,
    HEAP_FULL,
    MERGE,
    MERGE_FINISHED,
    NEAR,
    PAIR,
    PAIRS_ENDED,
    PAIRS_FULL,
    POOL_FULL,
    RECORD,
    RECORD_UNIT,
    TEXT_FULL,
    TOKEN,
)
from lmpipe.kernels.runtime.intrinsics import (
    ID_BYTES,
    ZERO,
    equal_pairs,
    hash128,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    load_id,
    load_int,
    low_bits,
    prefetch,
    store32,
    store64,
    store_id,
    store_int,
    trailing_zeros,
)
from lmpipe.kernels.runtime.structs import WORD

SALT = np.uint64(0x9E3779B97F4A7C15)
PEPPER = np.uint64(0xC2B2AE3D27D4EB4F)
LANES = 16
AHEAD = 16  # records that are asked for before their turn comes
SYMBOLS = RECORD.symbols


@inlined
def record_bytes(room):
    """The bytes of a record with room for so many symbols."""
    return (SYMBOLS + ID_BYTES * room + RECORD_UNIT - 1) & -RECORD_UNIT


@kernel
def write_records(state, text, lengths, counts, words):
    """Make records of words of two bytes or more, given as in count.py."""
    record = load_int(state + MERGE.records)
    for word in range(words):
        size = load32(lengths + 4 * word)
        if size > 1:
            store_int(record + RECORD.count, load_int(counts + WORD * word))
            store32(record + RECORD.size, size)
            store32(record + RECORD.room, size)
            for place in range(size):
                store_id(record + SYMBOLS + ID_BYTES * place, load8(text + place))
            record += record_bytes(size)
        text += size
    store_int(state + MERGE.records_used, record - load_int(state + MERGE.records))
    return 0


@kernel
def pack_records(state):
    """Move the records together, now that they are shorter, and drop the words that are one symbol."""
    source = target = load_int(state + MERGE.records)
    end = source + load_int(state + MERGE.records_used)
    while source < end:
        size, room = load32(source + RECORD.size), load32(source + RECORD.room)
        if size > 1:
            for offset in range(0, record_bytes(size), RECORD_UNIT):
                store32(target + offset, load32(source + offset))
            store32(target + RECORD.room, size)
            target += record_bytes(size)
        source += record_bytes(room)
    store_int(state + MERGE.records_used, target - load_int(state + MERGE.records))
    return 0


@inlined
def key_of(left, right):
    """The key of a pair: a number that is never 0."""
    return (left << 32 | right) + 1


@inlined
def key_hash(key):
    """The hash of a key."""
    return np.int64(hash128(uint64(key) ^ PEPPER, SALT) >> uint64(8))


@inlined
def key_slot(slots, capacity, slot_bytes, key):
    """The slot of a key in a table whose slots start with their keys: its own, or the free one where it belongs."""
    place = key_hash(key) & (capacity - 1)
    found = load_int(slots + slot_bytes * place)
    while found != key and found != 0:
        place = (place + 1) & (capacity - 1)
        found = load_int(slots + slot_bytes * place)
    return slots + slot_bytes * place


@kernel
def count_pairs(state):
    """Count all pairs of neighbours in the table of counters; returns 1 if it becomes too full, else 0."""
    counter, capacity = load_int(state + MERGE.counter), load_int(state + MERGE.counter_capacity)
    record = load_int(state + MERGE.records)
    end = record + load_int(state + MERGE.records_used)
    used = 0
    while record < end:
        count, size = load_int(record + RECORD.count), load32(record + RECORD.size)
        symbol = record + SYMBOLS
        left = load_id(symbol)
        for _ in range(size - 1):
            symbol += ID_BYTES
            right = load_id(symbol)
            key = key_of(left, right)
            slot = key_slot(counter, capacity, COUNTER.nbytes, key)
            if load_int(slot) == 0:
                store_int(slot, key)
                used += 1
                if 4 * used > 3 * capacity:
                    return 1
            store_int(slot + WORD, load_int(slot + WORD) + count)
            left = right
        record += record_bytes(load32(record + RECORD.room))
    store_int(state + MERGE.counter_used, used)
    return 0


@kernel
def select_pairs(state):
    """Enter the counted pairs that occur often enough into the empty table of pairs and onto the empty heap."""
    counter, least = load_int(state + MERGE.counter), load_int(state + MERGE.least)
    for place in range(load_int(state + MERGE.counter_capacity)):
        slot = counter + COUNTER.nbytes * place
        if load_int(slot) != 0 and load_int(slot + WORD) >= least:
            enter_pair(state, load_int(slot), load_int(slot + WORD), 0)
    return 0


@kernel
def enter_pair(state, key, count, start):
    """Enter a new pair, with an empty list at `start` of the pool, into table and heap; returns its slot."""
    slot = pair_slot(state, key)
    store_int(slot + PAIR.key, key)
    store_int(slot + PAIR.count, count)
    store_int(slot + PAIR.start, start)
    store_int(slot + PAIR.words, 0)
    store_int(state + MERGE.pairs_used, load_int(state + MERGE.pairs_used) + 1)
    push(state, count, key)
    return slot


@inlined
def pair_slot(state, key):
    """The slot of a pair in the table of pairs."""
    slots, capacity = load_int(state + MERGE.pairs), load_int(state + MERGE.pairs_capacity)
    return key_slot(slots, capacity, PAIR.nbytes, key)


@kernel
def grow_pairs(state, old, old_capacity):
    """Enter the pairs of a smaller table into the empty table of pairs."""
    for place in range(old_capacity):
        source = old + PAIR.nbytes * place
        if load_int(source) != 0:
            copy(pair_slot(state, load_int(source)), source, PAIR.nbytes)
    return 0


@kernel
def measure_lists(state):
    """Give each pair room in the pool for as many words as it has occurrences; returns the numbers of all together."""
    walk_pairs(state, False)
    slots = load_int(state + MERGE.pairs)
    total = 0
    for place in range(load_int(state + MERGE.pairs_capacity)):
        slot = slots + PAIR.nbytes * place
        words = load_int(slot + PAIR.words)
        store_int(slot + PAIR.start, total)
        store_int(slot + PAIR.words, 0)
        total += words
    store_int(state + MERGE.pool_used, total)
    return total


@kernel
def fill_lists(state):
    """Put each word onto the lists of its pairs."""
    walk_pairs(state, True)
    return 0


@kernel
def walk_pairs(state, fill):
    """For each occurrence of a pair of the table: count it, or put its word onto the list if it is not there yet."""
    records, pool = load_int(state + MERGE.records), load_int(state + MERGE.pool)
    record = records
    end = record + load_int(state + MERGE.records_used)
    while record < end:
        word = (record - records) // RECORD_UNIT
        symbol = record + SYMBOLS
        left = load_id(symbol)
        for _ in range(load32(record + RECORD.size) - 1):
            symbol += ID_BYTES
            right = load_id(symbol)
            slot = pair_slot(state, key_of(left, right))
            left = right
            if load_int(slot) == 0:
                continue
            words = load_int(slot + PAIR.words)
            if fill:
                entry = pool + 4 * (load_int(slot + PAIR.start) + words)
                if words > 0 and load32(entry - 4) == word:
                    continue
                store32(entry, word)
            store_int(slot + PAIR.words, words + 1)
        record += record_bytes(load32(record + RECORD.room))


@kernel
def compare_tokens(state, left, right):
    """1 if the bytes of the left token are greater than those of the right one, -1 if less, 0 if both are the same."""
    if left == right:
        return 0
    tokens = load_int(state + MERGE.tokens)
    left_token, right_token = tokens + TOKEN.nbytes * left, tokens + TOKEN.nbytes * right
    first, second = load64(left_token), load64(right_token)
    if first != second:
        return 1 if first > second else -1
    text = load_int(state + MERGE.text)
    left_size, right_size = load_int(left_token + 16), load_int(right_token + 16)
    for place in range(min(left_size, right_size)):
        difference = load8(text + load_int(left_token + 8) + place) - load8(text + load_int(right_token + 8) + place)
        if difference != 0:
            return difference
    return left_size - right_size


@kernel
def precedes(state, count, key, other_count, other_key):
    """Whether a pair is merged before another: it occurs more often, or as often and its bytes are greater."""
    if count != other_count:
        return count > other_count
    order = compare_tokens(state, (key - 1) >> 32, (other_key - 1) >> 32)
    if order == 0:
        order = compare_tokens(state, (key - 1) & 0xFFFFFFFF, (other_key - 1) & 0xFFFFFFFF)
    return order > 0


@kernel
def push(state, count, key):
    """Put a pair onto the heap."""
    heap, place = load_int(state + MERGE.heap), load_int(state + MERGE.heap_used)
    store_int(state + MERGE.heap_used, place + 1)
    while place > 0:
        parent = heap + HEAP_ENTRY.nbytes * ((place - 1) >> 1)
        parent_count, parent_key = load_int(parent), load_int(parent + WORD)
        if not precedes(state, count, key, parent_count, parent_key):
            break
        store_int(heap + HEAP_ENTRY.nbytes * place, parent_count)
        store_int(heap + HEAP_ENTRY.nbytes * place + WORD, parent_key)
        place = (place - 1) >> 1
    store_int(heap + HEAP_ENTRY.nbytes * place, count)
    store_int(heap + HEAP_ENTRY.nbytes * place + WORD, key)


@kernel
def replace_top(state, count, key):
    """Put a pair in the place of the heap's first one."""
    heap, used = load_int(state + MERGE.heap), load_int(state + MERGE.heap_used)
    place = 0
    while 2 * place + 1 < used:
        child = 2 * place + 1
        entry = heap + HEAP_ENTRY.nbytes * child
        child_count, child_key = load_int(entry), load_int(entry + WORD)
        if child + 1 < used:
            other_count, other_key = load_int(entry + 2 * WORD), load_int(entry + 3 * WORD)
            if precedes(state, other_count, other_key, child_count, child_key):
                child, child_count, child_key = child + 1, other_count, other_key
        if not precedes(state, child_count, child_key, count, key):
            break
        store_int(heap + HEAP_ENTRY.nbytes * place, child_count)
        store_int(heap + HEAP_ENTRY.nbytes * place + WORD, child_key)
        place = child
    store_int(heap + HEAP_ENTRY.nbytes * place, count)
    store_int(heap + HEAP_ENTRY.nbytes * place + WORD, key)


@kernel
def pop(state):
    """Remove the heap's first pair."""
    used = load_int(state + MERGE.heap_used) - 1
    store_int(state + MERGE.heap_used, used)
    if used > 0:
        last = load_int(state + MERGE.heap) + HEAP_ENTRY.nbytes * used
        replace_top(state, load_int(last), load_int(last + WORD))


@kernel
def most_frequent(state):
    """The slot of the pair to merge next; 0 when none occurs MERGE_LEAST times."""
    while load_int(state + MERGE.heap_used) > 0:
        heap = load_int(state + MERGE.heap)
        key = load_int(heap + WORD)
        slot = pair_slot(state, key)
        count = load_int(slot + PAIR.count)
        if count < load_int(state + MERGE.least):
            pop(state)
        elif count < load_int(heap):
            replace_top(state, count, key)
        else:
            return slot
    return 0


@kernel
def name_token(state, left, right, token):
    """Note the bytes of a new token."""
    tokens, text = load_int(state + MERGE.tokens), load_int(state + MERGE.text)
    start = load_int(state + MERGE.text_used)
    end = start
    for part in (left, right):
        source = tokens + TOKEN.nbytes * part
        copy(text + end, text + load_int(source + 8), load_int(source + 16))
        end += load_int(source + 16)
    entry = tokens + TOKEN.nbytes * token
    beginning = ZERO
    for place in range(min(8, end - start)):
        beginning |= uint64(load8(text + start + place)) << uint64(56 - 8 * place)
    store64(entry, beginning)
    store_int(entry + 8, start)
    store_int(entry + 16, end - start)
    store_int(state + MERGE.text_used, end)


@inlined
def first_pair(symbols, size, left, right):
    """The place of a pair's first occurrence among symbols, `size` if there is none."""
    place = 0
    while place + 1 < size:
        found = equal_pairs(symbols + ID_BYTES * place, left, right)
        rest = size - 1 - place
        if rest < LANES:
            found &= low_bits(rest)
        if found != ZERO:
            return place + trailing_zeros(found)
        place += LANES
    return size


@inlined
def note_neighbour(near, symbol, word, count, events, event, touched, number):
    """Sum up that `symbol` is a neighbour of the new token in a word; returns the numbers of events and of symbols."""
    entry = near + NEAR.nbytes * symbol
    if load_int(entry) == 0:
        store32(touched + 4 * number, symbol)
        number += 1
    store_int(entry, load_int(entry) + count)
    if load32(entry + 12) != word + 1:
        store32(entry + 12, word + 1)
        store32(entry + 8, load32(entry + 8) + 1)
        store32(events, event)
        store32(events + 4, word)
        events += EVENT.nbytes
    return events, number


@kernel
def replace_pair(state, slot, left, right, token):
    """Replace a pair by the new token in all its words, and sum up the neighbours that the token has then."""
    records = load_int(state + MERGE.records)
    near_left, near_right = load_int(state + MERGE.near_left), load_int(state + MERGE.near_right)
    touched_left, touched_right = load_int(state + MERGE.left), load_int(state + MERGE.right)
    first_event = load_int(state + MERGE.events)
    events = first_event
    lefts = rights = twins = twin_words = 0
    word_list = load_int(state + MERGE.pool) + 4 * load_int(slot + PAIR.start)
    words = load_int(slot + PAIR.words)
    for index in range(words):
        if index + AHEAD < words:
            prefetch(records + RECORD_UNIT * load32(word_list + 4 * (index + AHEAD)))
        word = load32(word_list + 4 * index)
        record = records + RECORD_UNIT * word
        symbols, size = record + SYMBOLS, load32(record + RECORD.size)
        place = first_pair(symbols, size, left, right)
        if place == size:
            continue
        count = load_int(record + RECORD.count)
        target = place
        last_twin = -1
        while place < size:
            symbol = load_id(symbols + ID_BYTES * place)
            following = load_id(symbols + ID_BYTES * (place + 1)) if place + 1 < size else -1
            if symbol != left or following != right:
                store_id(symbols + ID_BYTES * target, symbol)
                target += 1
                place += 1
                continue
            if target > 0:
                before = load_id(symbols + ID_BYTES * (target - 1))
                if before != token:
                    events, lefts = note_neighbour(near_left, before, word, count, events, before, touched_left, lefts)
                else:
                    twins += count
                    if last_twin != word:
                        last_twin = word
                        twin_words += 1
                        store32(events, token)
                        store32(events + 4, word)
                        events += EVENT.nbytes
            place += 2
            store_id(symbols + ID_BYTES * target, token)
            target += 1
            if place < size:
                after = load_id(symbols + ID_BYTES * place)
                again = load_id(symbols + ID_BYTES * (place + 1)) if place + 1 < size else -1
                if after != left or again != right:
                    events, rights = note_neighbour(
                        near_right, after, word, count, events, ~after, touched_right, rights
                    )
        store32(record + RECORD.size, target)
    store_int(state + MERGE.events_used, (events - first_event) // EVENT.nbytes)
    store_int(state + MERGE.lefts, lefts)
    store_int(state + MERGE.rights, rights)
    store_int(state + MERGE.twins, twins)
    store_int(state + MERGE.twin_words, twin_words)


@inlined
def lose(state, left, right, count):
    """Note that a pair occurs so much less often."""
    slot = pair_slot(state, key_of(left, right))
    if load_int(slot) != 0:
        entry = slot + PAIR.count
        store_int(entry, load_int(entry) - count)


@kernel
def gain(state, left, right, count, words):
    """Enter a new pair if it occurs often enough; returns where its list starts in the pool, or -1."""
    if count < load_int(state + MERGE.least):
        return -1
    start = load_int(state + MERGE.pool_used)
    slot = enter_pair(state, key_of(left, right), count, start)
    store_int(slot + PAIR.words, words)
    store_int(state + MERGE.pool_used, start + words)
    return start


@kernel
def enter_neighbours(state, near, touched, number, left, right, token, before):
    """Enter the pairs that the new token is part of, and take their occurrences from those of its parts."""
    for index in range(number):
        symbol = load32(touched + 4 * index)
        entry = near + NEAR.nbytes * symbol
        count, words = load_int(entry), load32(entry + 8)
        if before:
            lose(state, symbol, left, count)
            start = gain(state, symbol, token, count, words)
        else:
            lose(state, right, symbol, count)
            start = gain(state, token, symbol, count, words)
        # Until the lists are filled, the sum's place says where the next word goes.
        store_int(entry, start)


@kernel
def fill_new_lists(state, token, twins_start):
    """Put words onto the lists of the new pairs, in the order in which they were found."""
    pool, event = load_int(state + MERGE.pool), load_int(state + MERGE.events)
    near_left, near_right = load_int(state + MERGE.near_left), load_int(state + MERGE.near_right)
    for _ in range(load_int(state + MERGE.events_used)):
        symbol, word = load32(event), load32(event + 4)
        event += EVENT.nbytes
        if symbol == token:
            if twins_start >= 0:
                store32(pool + 4 * twins_start, word)
                twins_start += 1
            continue
        entry = near_left + NEAR.nbytes * symbol
        if symbol & 0x80000000:
            entry = near_right + NEAR.nbytes * (symbol ^ 0xFFFFFFFF)
        start = load_int(entry)
        if start >= 0:
            store32(pool + 4 * start, word)
            store_int(entry, start + 1)


@kernel
def forget_neighbours(near, touched, number):
    """Clear the sums of the symbols that a merge touched."""
    for index in range(number):
        entry = near + NEAR.nbytes * load32(touched + 4 * index)
        store_int(entry, 0)
        store_int(entry + WORD, 0)


@kernel
def merge(state):
    """Merge the most frequent pair again and again; returns MERGE_FINISHED, or what must be done before it goes on."""
    while True:
        pending = load_int(state + MERGE.pending)
        if pending == 0:
            if load_int(state + MERGE.done) >= load_int(state + MERGE.wanted):
                return MERGE_FINISHED
            slot = most_frequent(state)
            if slot == 0:
                return PAIRS_ENDED
            key = load_int(slot) - 1
            left, right = key >> 32, key & 0xFFFFFFFF
            token = load_int(state + MERGE.next)
            tokens = load_int(state + MERGE.tokens)
            token_bytes = load_int(tokens + TOKEN.nbytes * left + 16)
            token_bytes += load_int(tokens + TOKEN.nbytes * right + 16)
            if load_int(state + MERGE.text_used) + token_bytes > load_int(state + MERGE.text_size):
                return TEXT_FULL
            pop(state)
            name_token(state, left, right, token)
            replace_pair(state, slot, left, right, token)
            store_int(slot + PAIR.count, 0)
            pending = key + 1
            store_int(state + MERGE.pending, pending)
        left, right = (pending - 1) >> 32, (pending - 1) & 0xFFFFFFFF
        token = load_int(state + MERGE.next)
        lefts, rights = load_int(state + MERGE.lefts), load_int(state + MERGE.rights)
        new = lefts + rights + 1
        if 4 * (load_int(state + MERGE.pairs_used) + new) > 3 * load_int(state + MERGE.pairs_capacity):
            return PAIRS_FULL
        if load_int(state + MERGE.heap_used) + new > load_int(state + MERGE.heap_size):
            return HEAP_FULL
        if load_int(state + MERGE.pool_used) + load_int(state + MERGE.events_used) > load_int(state + MERGE.pool_size):
            return POOL_FULL
        near_left, near_right = load_int(state + MERGE.near_left), load_int(state + MERGE.near_right)
        touched_left, touched_right = load_int(state + MERGE.left), load_int(state + MERGE.right)
        enter_neighbours(state, near_left, touched_left, lefts, left, right, token, True)
        enter_neighbours(state, near_right, touched_right, rights, left, right, token, False)
        twins, twins_start = load_int(state + MERGE.twins), -1
        if twins > 0:
            lose(state, right, left, twins)
            twins_start = gain(state, token, token, twins, load_int(state + MERGE.twin_words))
        fill_new_lists(state, token, twins_start)
        forget_neighbours(near_left, touched_left, lefts)
        forget_neighbours(near_right, touched_right, rights)
        done = load_int(state + MERGE.done)
        store_int(load_int(state + MERGE.output) + 2 * WORD * done, left)
        store_int(load_int(state + MERGE.output) + 2 * WORD * done + WORD, right)
        store_int(state + MERGE.done, done + 1)
        store_int(state + MERGE.next, token + 1)
        store_int(state + MERGE.pending, 0)


KERNELS = (
    write_records,
    pack_records,
    count_pairs,
    select_pairs,
    grow_pairs,
    measure_lists,
    fill_lists,
    merge,
)
