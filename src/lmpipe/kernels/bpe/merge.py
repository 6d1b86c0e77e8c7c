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

from lmpipe.kernels.bpe.count import copy
from lmpipe.kernels.runtime import structs
from lmpipe.kernels.runtime.intrinsics import (
    NONE,
    SYMBOL_BYTES,
    equal_pairs,
    field,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    load_int,
    load_symbol,
    low_bits,
    mix,
    prefetch,
    set_field,
    store32,
    store64,
    store_int,
    store_symbol,
    trailing_zeros,
)

WORD = structs.WORD
SALT = np.uint64(0x9E3779B97F4A7C15)
PEPPER = np.uint64(0xC2B2AE3D27D4EB4F)
LANES = 16
AHEAD = 16  # records that are asked for before their turn comes
SYMBOLS = structs.RECORD_SYMBOLS


@inlined
def record_bytes(room):
    """The bytes of a record with room for so many symbols."""
    return (SYMBOLS + SYMBOL_BYTES * room + structs.RECORD_UNIT - 1) & -structs.RECORD_UNIT


@kernel
def write_records(state, text, lengths, counts, words):
    """Make records of words of two bytes or more, given as in count.py."""
    record = field(state, structs.MERGE_RECORDS)
    for word in range(words):
        size = load32(lengths + 4 * word)
        if size > 1:
            store_int(record + structs.RECORD_COUNT, load_int(counts + WORD * word))
            store32(record + structs.RECORD_SIZE, size)
            store32(record + structs.RECORD_ROOM, size)
            for place in range(size):
                store_symbol(record + SYMBOLS + SYMBOL_BYTES * place, load8(text + place))
            record += record_bytes(size)
        text += size
    set_field(state, structs.MERGE_RECORDS_USED, record - field(state, structs.MERGE_RECORDS))
    return 0


@kernel
def pack_records(state):
    """Move the records together, now that they are shorter, and drop the words that are one symbol."""
    source = target = field(state, structs.MERGE_RECORDS)
    end = source + field(state, structs.MERGE_RECORDS_USED)
    while source < end:
        size, room = load32(source + structs.RECORD_SIZE), load32(source + structs.RECORD_ROOM)
        if size > 1:
            for offset in range(0, record_bytes(size), structs.RECORD_UNIT):
                store32(target + offset, load32(source + offset))
            store32(target + structs.RECORD_ROOM, size)
            target += record_bytes(size)
        source += record_bytes(room)
    set_field(state, structs.MERGE_RECORDS_USED, target - field(state, structs.MERGE_RECORDS))
    return 0


@inlined
def key_of(left, right):
    """The key of a pair: a number that is never 0."""
    return (left << 32 | right) + 1


@inlined
def key_hash(key):
    """The hash of a key."""
    return np.int64(mix(uint64(key) ^ PEPPER, SALT) >> uint64(8))


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
    counter, capacity = field(state, structs.MERGE_COUNTER), field(state, structs.MERGE_COUNTER_CAPACITY)
    record = field(state, structs.MERGE_RECORDS)
    end = record + field(state, structs.MERGE_RECORDS_USED)
    used = 0
    while record < end:
        count, size = load_int(record + structs.RECORD_COUNT), load32(record + structs.RECORD_SIZE)
        symbol = record + SYMBOLS
        left = load_symbol(symbol)
        for _ in range(size - 1):
            symbol += SYMBOL_BYTES
            right = load_symbol(symbol)
            key = key_of(left, right)
            slot = key_slot(counter, capacity, structs.COUNTER_BYTES, key)
            if load_int(slot) == 0:
                store_int(slot, key)
                used += 1
                if 4 * used > 3 * capacity:
                    return 1
            store_int(slot + WORD, load_int(slot + WORD) + count)
            left = right
        record += record_bytes(load32(record + structs.RECORD_ROOM))
    set_field(state, structs.MERGE_COUNTER_USED, used)
    return 0


@kernel
def select_pairs(state):
    """Enter the counted pairs that occur often enough into the empty table of pairs and onto the empty heap."""
    counter, least = field(state, structs.MERGE_COUNTER), field(state, structs.MERGE_LEAST)
    for place in range(field(state, structs.MERGE_COUNTER_CAPACITY)):
        slot = counter + structs.COUNTER_BYTES * place
        if load_int(slot) != 0 and load_int(slot + WORD) >= least:
            enter_pair(state, load_int(slot), load_int(slot + WORD), 0)
    return 0


@kernel
def enter_pair(state, key, count, start):
    """Enter a new pair, with an empty list at `start` of the pool, into table and heap; returns its slot."""
    slot = pair_slot(state, key)
    store_int(slot + WORD * structs.PAIR_KEY, key)
    store_int(slot + WORD * structs.PAIR_COUNT, count)
    store_int(slot + WORD * structs.PAIR_START, start)
    store_int(slot + WORD * structs.PAIR_WORDS, 0)
    set_field(state, structs.MERGE_PAIRS_USED, field(state, structs.MERGE_PAIRS_USED) + 1)
    push(state, count, key)
    return slot


@inlined
def pair_slot(state, key):
    """The slot of a pair in the table of pairs."""
    slots, capacity = field(state, structs.MERGE_PAIRS), field(state, structs.MERGE_PAIRS_CAPACITY)
    return key_slot(slots, capacity, structs.PAIR_BYTES, key)


@kernel
def grow_pairs(state, old, old_capacity):
    """Enter the pairs of a smaller table into the empty table of pairs."""
    for place in range(old_capacity):
        source = old + structs.PAIR_BYTES * place
        if load_int(source) != 0:
            copy(pair_slot(state, load_int(source)), source, structs.PAIR_BYTES)
    return 0


@kernel
def measure_lists(state):
    """Give each pair room in the pool for as many words as it has occurrences; returns the numbers of all together."""
    walk_pairs(state, False)
    slots = field(state, structs.MERGE_PAIRS)
    total = 0
    for place in range(field(state, structs.MERGE_PAIRS_CAPACITY)):
        slot = slots + structs.PAIR_BYTES * place
        words = load_int(slot + WORD * structs.PAIR_WORDS)
        store_int(slot + WORD * structs.PAIR_START, total)
        store_int(slot + WORD * structs.PAIR_WORDS, 0)
        total += words
    set_field(state, structs.MERGE_POOL_USED, total)
    return total


@kernel
def fill_lists(state):
    """Put each word onto the lists of its pairs."""
    walk_pairs(state, True)
    return 0


@kernel
def walk_pairs(state, fill):
    """For each occurrence of a pair of the table: count it, or put its word onto the list if it is not there yet."""
    records, pool = field(state, structs.MERGE_RECORDS), field(state, structs.MERGE_POOL)
    record = records
    end = record + field(state, structs.MERGE_RECORDS_USED)
    while record < end:
        word = (record - records) // structs.RECORD_UNIT
        symbol = record + SYMBOLS
        left = load_symbol(symbol)
        for _ in range(load32(record + structs.RECORD_SIZE) - 1):
            symbol += SYMBOL_BYTES
            right = load_symbol(symbol)
            slot = pair_slot(state, key_of(left, right))
            left = right
            if load_int(slot) == 0:
                continue
            words = load_int(slot + WORD * structs.PAIR_WORDS)
            if fill:
                entry = pool + 4 * (load_int(slot + WORD * structs.PAIR_START) + words)
                if words > 0 and load32(entry - 4) == word:
                    continue
                store32(entry, word)
            store_int(slot + WORD * structs.PAIR_WORDS, words + 1)
        record += record_bytes(load32(record + structs.RECORD_ROOM))


@kernel
def compare_tokens(state, left, right):
    """1 if the bytes of the left token are greater than those of the right one, -1 if less, 0 if both are the same."""
    if left == right:
        return 0
    tokens = field(state, structs.MERGE_TOKENS)
    left_token, right_token = tokens + structs.TOKEN_BYTES * left, tokens + structs.TOKEN_BYTES * right
    first, second = load64(left_token), load64(right_token)
    if first != second:
        return 1 if first > second else -1
    text = field(state, structs.MERGE_TEXT)
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
    heap, place = field(state, structs.MERGE_HEAP), field(state, structs.MERGE_HEAP_USED)
    set_field(state, structs.MERGE_HEAP_USED, place + 1)
    while place > 0:
        parent = heap + structs.HEAP_BYTES * ((place - 1) >> 1)
        parent_count, parent_key = load_int(parent), load_int(parent + WORD)
        if not precedes(state, count, key, parent_count, parent_key):
            break
        store_int(heap + structs.HEAP_BYTES * place, parent_count)
        store_int(heap + structs.HEAP_BYTES * place + WORD, parent_key)
        place = (place - 1) >> 1
    store_int(heap + structs.HEAP_BYTES * place, count)
    store_int(heap + structs.HEAP_BYTES * place + WORD, key)


@kernel
def replace_top(state, count, key):
    """Put a pair in the place of the heap's first one."""
    heap, used = field(state, structs.MERGE_HEAP), field(state, structs.MERGE_HEAP_USED)
    place = 0
    while 2 * place + 1 < used:
        child = 2 * place + 1
        entry = heap + structs.HEAP_BYTES * child
        child_count, child_key = load_int(entry), load_int(entry + WORD)
        if child + 1 < used:
            other_count, other_key = load_int(entry + 2 * WORD), load_int(entry + 3 * WORD)
            if precedes(state, other_count, other_key, child_count, child_key):
                child, child_count, child_key = child + 1, other_count, other_key
        if not precedes(state, child_count, child_key, count, key):
            break
        store_int(heap + structs.HEAP_BYTES * place, child_count)
        store_int(heap + structs.HEAP_BYTES * place + WORD, child_key)
        place = child
    store_int(heap + structs.HEAP_BYTES * place, count)
    store_int(heap + structs.HEAP_BYTES * place + WORD, key)


@kernel
def pop(state):
    """Remove the heap's first pair."""
    used = field(state, structs.MERGE_HEAP_USED) - 1
    set_field(state, structs.MERGE_HEAP_USED, used)
    if used > 0:
        last = field(state, structs.MERGE_HEAP) + structs.HEAP_BYTES * used
        replace_top(state, load_int(last), load_int(last + WORD))


@kernel
def most_frequent(state):
    """The slot of the pair to merge next; 0 when none occurs MERGE_LEAST times."""
    while field(state, structs.MERGE_HEAP_USED) > 0:
        heap = field(state, structs.MERGE_HEAP)
        key = load_int(heap + WORD)
        slot = pair_slot(state, key)
        count = load_int(slot + WORD * structs.PAIR_COUNT)
        if count < field(state, structs.MERGE_LEAST):
            pop(state)
        elif count < load_int(heap):
            replace_top(state, count, key)
        else:
            return slot
    return 0


@kernel
def name_token(state, left, right, token):
    """Note the bytes of a new token."""
    tokens, text = field(state, structs.MERGE_TOKENS), field(state, structs.MERGE_TEXT)
    start = field(state, structs.MERGE_TEXT_USED)
    end = start
    for part in (left, right):
        source = tokens + structs.TOKEN_BYTES * part
        copy(text + end, text + load_int(source + 8), load_int(source + 16))
        end += load_int(source + 16)
    entry = tokens + structs.TOKEN_BYTES * token
    beginning = NONE
    for place in range(min(8, end - start)):
        beginning |= uint64(load8(text + start + place)) << uint64(56 - 8 * place)
    store64(entry, beginning)
    store_int(entry + 8, start)
    store_int(entry + 16, end - start)
    set_field(state, structs.MERGE_TEXT_USED, end)


@inlined
def first_pair(symbols, size, left, right):
    """The place of a pair's first occurrence among symbols, `size` if there is none."""
    place = 0
    while place + 1 < size:
        found = equal_pairs(symbols + SYMBOL_BYTES * place, left, right)
        rest = size - 1 - place
        if rest < LANES:
            found &= low_bits(rest)
        if found != NONE:
            return place + trailing_zeros(found)
        place += LANES
    return size


@inlined
def note_neighbour(near, symbol, word, count, events, event, touched, number):
    """Sum up that `symbol` is a neighbour of the new token in a word; returns the numbers of events and of symbols."""
    entry = near + structs.NEAR_BYTES * symbol
    if load_int(entry) == 0:
        store32(touched + 4 * number, symbol)
        number += 1
    store_int(entry, load_int(entry) + count)
    if load32(entry + 12) != word + 1:
        store32(entry + 12, word + 1)
        store32(entry + 8, load32(entry + 8) + 1)
        store32(events, event)
        store32(events + 4, word)
        events += structs.EVENT_BYTES
    return events, number


@kernel
def replace_pair(state, slot, left, right, token):
    """Replace a pair by the new token in all its words, and sum up the neighbours that the token has then."""
    records = field(state, structs.MERGE_RECORDS)
    near_left, near_right = field(state, structs.MERGE_NEAR_LEFT), field(state, structs.MERGE_NEAR_RIGHT)
    touched_left, touched_right = field(state, structs.MERGE_LEFT), field(state, structs.MERGE_RIGHT)
    first_event = field(state, structs.MERGE_EVENTS)
    events = first_event
    lefts = rights = twins = twin_words = 0
    word_list = field(state, structs.MERGE_POOL) + 4 * load_int(slot + WORD * structs.PAIR_START)
    words = load_int(slot + WORD * structs.PAIR_WORDS)
    for index in range(words):
        if index + AHEAD < words:
            prefetch(records + structs.RECORD_UNIT * load32(word_list + 4 * (index + AHEAD)))
        word = load32(word_list + 4 * index)
        record = records + structs.RECORD_UNIT * word
        symbols, size = record + SYMBOLS, load32(record + structs.RECORD_SIZE)
        place = first_pair(symbols, size, left, right)
        if place == size:
            continue
        count = load_int(record + structs.RECORD_COUNT)
        target = place
        last_twin = -1
        while place < size:
            symbol = load_symbol(symbols + SYMBOL_BYTES * place)
            following = load_symbol(symbols + SYMBOL_BYTES * (place + 1)) if place + 1 < size else -1
            if symbol != left or following != right:
                store_symbol(symbols + SYMBOL_BYTES * target, symbol)
                target += 1
                place += 1
                continue
            if target > 0:
                before = load_symbol(symbols + SYMBOL_BYTES * (target - 1))
                if before != token:
                    events, lefts = note_neighbour(near_left, before, word, count, events, before, touched_left, lefts)
                else:
                    twins += count
                    if last_twin != word:
                        last_twin = word
                        twin_words += 1
                        store32(events, token)
                        store32(events + 4, word)
                        events += structs.EVENT_BYTES
            place += 2
            store_symbol(symbols + SYMBOL_BYTES * target, token)
            target += 1
            if place < size:
                after = load_symbol(symbols + SYMBOL_BYTES * place)
                again = load_symbol(symbols + SYMBOL_BYTES * (place + 1)) if place + 1 < size else -1
                if after != left or again != right:
                    events, rights = note_neighbour(
                        near_right, after, word, count, events, ~after, touched_right, rights
                    )
        store32(record + structs.RECORD_SIZE, target)
    set_field(state, structs.MERGE_EVENTS_USED, (events - first_event) // structs.EVENT_BYTES)
    set_field(state, structs.MERGE_LEFTS, lefts)
    set_field(state, structs.MERGE_RIGHTS, rights)
    set_field(state, structs.MERGE_TWINS, twins)
    set_field(state, structs.MERGE_TWIN_WORDS, twin_words)


@inlined
def lose(state, left, right, count):
    """Note that a pair occurs so much less often."""
    slot = pair_slot(state, key_of(left, right))
    if load_int(slot) != 0:
        entry = slot + WORD * structs.PAIR_COUNT
        store_int(entry, load_int(entry) - count)


@kernel
def gain(state, left, right, count, words):
    """Enter a new pair if it occurs often enough; returns where its list starts in the pool, or -1."""
    if count < field(state, structs.MERGE_LEAST):
        return -1
    start = field(state, structs.MERGE_POOL_USED)
    slot = enter_pair(state, key_of(left, right), count, start)
    store_int(slot + WORD * structs.PAIR_WORDS, words)
    set_field(state, structs.MERGE_POOL_USED, start + words)
    return start


@kernel
def enter_neighbours(state, near, touched, number, left, right, token, before):
    """Enter the pairs that the new token is part of, and take their occurrences from those of its parts."""
    for index in range(number):
        symbol = load32(touched + 4 * index)
        entry = near + structs.NEAR_BYTES * symbol
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
    pool, event = field(state, structs.MERGE_POOL), field(state, structs.MERGE_EVENTS)
    near_left, near_right = field(state, structs.MERGE_NEAR_LEFT), field(state, structs.MERGE_NEAR_RIGHT)
    for _ in range(field(state, structs.MERGE_EVENTS_USED)):
        symbol, word = load32(event), load32(event + 4)
        event += structs.EVENT_BYTES
        if symbol == token:
            if twins_start >= 0:
                store32(pool + 4 * twins_start, word)
                twins_start += 1
            continue
        entry = near_left + structs.NEAR_BYTES * symbol
        if symbol & 0x80000000:
            entry = near_right + structs.NEAR_BYTES * (symbol ^ 0xFFFFFFFF)
        start = load_int(entry)
        if start >= 0:
            store32(pool + 4 * start, word)
            store_int(entry, start + 1)


@kernel
def forget_neighbours(near, touched, number):
    """Clear the sums of the symbols that a merge touched."""
    for index in range(number):
        entry = near + structs.NEAR_BYTES * load32(touched + 4 * index)
        store_int(entry, 0)
        store_int(entry + WORD, 0)


@kernel
def merge(state):
    """Merge the most frequent pair again and again; returns MERGE_FINISHED, or what must be done before it goes on."""
    while True:
        pending = field(state, structs.MERGE_PENDING)
        if pending == 0:
            if field(state, structs.MERGE_DONE) >= field(state, structs.MERGE_WANTED):
                return structs.MERGE_FINISHED
            slot = most_frequent(state)
            if slot == 0:
                return structs.PAIRS_ENDED
            key = load_int(slot) - 1
            left, right = key >> 32, key & 0xFFFFFFFF
            token = field(state, structs.MERGE_NEXT)
            tokens = field(state, structs.MERGE_TOKENS)
            token_bytes = load_int(tokens + structs.TOKEN_BYTES * left + 16)
            token_bytes += load_int(tokens + structs.TOKEN_BYTES * right + 16)
            if field(state, structs.MERGE_TEXT_USED) + token_bytes > field(state, structs.MERGE_TEXT_SIZE):
                return structs.TEXT_FULL
            pop(state)
            name_token(state, left, right, token)
            replace_pair(state, slot, left, right, token)
            store_int(slot + WORD * structs.PAIR_COUNT, 0)
            pending = key + 1
            set_field(state, structs.MERGE_PENDING, pending)
        left, right = (pending - 1) >> 32, (pending - 1) & 0xFFFFFFFF
        token = field(state, structs.MERGE_NEXT)
        lefts, rights = field(state, structs.MERGE_LEFTS), field(state, structs.MERGE_RIGHTS)
        new = lefts + rights + 1
        if 4 * (field(state, structs.MERGE_PAIRS_USED) + new) > 3 * field(state, structs.MERGE_PAIRS_CAPACITY):
            return structs.PAIRS_FULL
        if field(state, structs.MERGE_HEAP_USED) + new > field(state, structs.MERGE_HEAP_SIZE):
            return structs.HEAP_FULL
        if field(state, structs.MERGE_POOL_USED) + field(state, structs.MERGE_EVENTS_USED) > field(
            state, structs.MERGE_POOL_SIZE
        ):
            return structs.POOL_FULL
        near_left, near_right = field(state, structs.MERGE_NEAR_LEFT), field(state, structs.MERGE_NEAR_RIGHT)
        touched_left, touched_right = field(state, structs.MERGE_LEFT), field(state, structs.MERGE_RIGHT)
        enter_neighbours(state, near_left, touched_left, lefts, left, right, token, True)
        enter_neighbours(state, near_right, touched_right, rights, left, right, token, False)
        twins, twins_start = field(state, structs.MERGE_TWINS), -1
        if twins > 0:
            lose(state, right, left, twins)
            twins_start = gain(state, token, token, twins, field(state, structs.MERGE_TWIN_WORDS))
        fill_new_lists(state, token, twins_start)
        forget_neighbours(near_left, touched_left, lefts)
        forget_neighbours(near_right, touched_right, rights)
        done = field(state, structs.MERGE_DONE)
        store_int(field(state, structs.MERGE_OUTPUT) + 2 * WORD * done, left)
        store_int(field(state, structs.MERGE_OUTPUT) + 2 * WORD * done + WORD, right)
        set_field(state, structs.MERGE_DONE, done + 1)
        set_field(state, structs.MERGE_NEXT, token + 1)
        set_field(state, structs.MERGE_PENDING, 0)


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
