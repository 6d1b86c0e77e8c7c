"""Words and pairs of the merge loop: records of words, counts of pairs, the words of each frequent pair, and a heap.

The heap has the most frequent pair first, and of equals the lexicographically greater one. The counts of a pair only
ever fall, so the heap is lazy: an entry that is too large is corrected when it is on top (merge_kernels.most_frequent).
"""

import numpy as np
from numba import uint64

from lmpipe.kernels.bpe.hash_slot_kernels import copy_bytes
from lmpipe.kernels.bpe.structs import COUNTER, HEAP_ENTRY, MERGE, PAIR, RECORD, RECORD_UNIT, TOKEN
from lmpipe.kernels.runtime.intrinsics import (
    HASH_SEED_A,
    HASH_SEED_B,
    ID_BYTES,
    hash128,
    inlined,
    kernel,
    load8,
    load32,
    load64,
    load_id,
    load_int,
    store32,
    store_id,
    store_int,
)
from lmpipe.kernels.runtime.structs import WORD


@inlined
def record_bytes(room):
    """Return the bytes of a record with room for some symbols."""
    return (RECORD.symbols + ID_BYTES * room + RECORD_UNIT - 1) & -RECORD_UNIT


@kernel
def write_records(state, text, lengths, counts, words):
    """Write records of words of two bytes or more, given as in pretoken_table_kernels.add_words."""
    record = load_int(state + MERGE.records)
    for word in range(words):
        size = load32(lengths + 4 * word)
        if size > 1:
            store_int(record + RECORD.count, load_int(counts + WORD * word))
            store32(record + RECORD.size, size)
            store32(record + RECORD.room, size)
            for index in range(size):
                store_id(record + RECORD.symbols + ID_BYTES * index, load8(text + index))
            record += record_bytes(size)
        text += size
    store_int(state + MERGE.records_used, record - load_int(state + MERGE.records))
    return 0


@inlined
def pair_key(left, right):
    """Return the key of a pair: a number that is never 0."""
    return (left << 32 | right) + 1


@inlined
def key_slot(slots, capacity, slot_bytes, key):
    """Return the slot of a key in a table whose slots start with their keys: its own, or the free one for it."""
    index = np.int64(hash128(uint64(key) ^ HASH_SEED_B, HASH_SEED_A) >> uint64(8)) & (capacity - 1)
    other = load_int(slots + slot_bytes * index)
    while other != key and other != 0:
        index = (index + 1) & (capacity - 1)
        other = load_int(slots + slot_bytes * index)
    return slots + slot_bytes * index


@inlined
def pair_slot(state, key):
    """Return the slot of a pair in the table of pairs."""
    return key_slot(load_int(state + MERGE.pairs), load_int(state + MERGE.pairs_capacity), PAIR.nbytes, key)


@kernel
def count_pairs(state):
    """Count all pairs of neighbours in the table of counters; returns 1 if it becomes too full, else 0."""
    counters, capacity = load_int(state + MERGE.counters), load_int(state + MERGE.counters_capacity)
    record = load_int(state + MERGE.records)
    end = record + load_int(state + MERGE.records_used)
    used = 0
    while record < end:
        count, size = load_int(record + RECORD.count), load32(record + RECORD.size)
        symbol = record + RECORD.symbols
        left = load_id(symbol)
        for _ in range(size - 1):
            symbol += ID_BYTES
            right = load_id(symbol)
            key = pair_key(left, right)
            slot = key_slot(counters, capacity, COUNTER.nbytes, key)
            if load_int(slot + COUNTER.key) == 0:
                store_int(slot + COUNTER.key, key)
                used += 1
                if 4 * used > 3 * capacity:
                    return 1
            store_int(slot + COUNTER.count, load_int(slot + COUNTER.count) + count)
            left = right
        record += record_bytes(load32(record + RECORD.room))
    store_int(state + MERGE.counters_used, used)
    return 0


@kernel
def select_pairs(state):
    """Enter the counted pairs that occur often enough into the empty table of pairs and the empty heap."""
    counters, min_count = load_int(state + MERGE.counters), load_int(state + MERGE.min_count)
    for index in range(load_int(state + MERGE.counters_capacity)):
        counter = counters + COUNTER.nbytes * index
        key, count = load_int(counter + COUNTER.key), load_int(counter + COUNTER.count)
        if key != 0 and count >= min_count:
            enter_pair(state, key, count, 0)
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


@kernel
def grow_pairs(state, old_pairs, old_capacity):
    """Enter the pairs of a smaller table into the empty table of pairs."""
    for index in range(old_capacity):
        pair = old_pairs + PAIR.nbytes * index
        key = load_int(pair + PAIR.key)
        if key != 0:
            copy_bytes(pair_slot(state, key), pair, PAIR.nbytes)
    return 0


@kernel
def measure_lists(state):
    """Reserve room in the pool for each pair's words, one for each occurrence; returns the sum."""
    walk_pairs(state, False)
    pairs = load_int(state + MERGE.pairs)
    total = 0
    for index in range(load_int(state + MERGE.pairs_capacity)):
        pair = pairs + PAIR.nbytes * index
        words = load_int(pair + PAIR.words)
        store_int(pair + PAIR.start, total)
        store_int(pair + PAIR.words, 0)
        total += words
    store_int(state + MERGE.pool_used, total)
    return total


@kernel
def fill_lists(state):
    """Append each word to the lists of its pairs."""
    walk_pairs(state, True)
    return 0


@kernel
def walk_pairs(state, fill):
    """For each occurrence of a pair of the table, count it, or append its word to the list unless it is the last."""
    records, pool = load_int(state + MERGE.records), load_int(state + MERGE.pool)
    record = records
    end = record + load_int(state + MERGE.records_used)
    while record < end:
        word = (record - records) // RECORD_UNIT
        symbol = record + RECORD.symbols
        left = load_id(symbol)
        for _ in range(load32(record + RECORD.size) - 1):
            symbol += ID_BYTES
            right = load_id(symbol)
            slot = pair_slot(state, pair_key(left, right))
            left = right
            if load_int(slot + PAIR.key) == 0:
                continue
            words = load_int(slot + PAIR.words)
            if fill:
                entry = pool + 4 * (load_int(slot + PAIR.start) + words)
                if words > 0 and load32(entry - 4) == word:
                    continue
                store32(entry, word)
            store_int(slot + PAIR.words, words + 1)
        record += record_bytes(load32(record + RECORD.room))


# --- the heap of pairs ------------------------------------------------------------------------------------------------


@kernel
def compare_tokens(state, left, right):
    """Return a number above 0 if the left token's bytes are greater than the right one's, below 0 if less, else 0."""
    if left == right:
        return 0
    tokens = load_int(state + MERGE.tokens)
    left_token, right_token = tokens + TOKEN.nbytes * left, tokens + TOKEN.nbytes * right
    left_head, right_head = load64(left_token + TOKEN.head), load64(right_token + TOKEN.head)
    if left_head != right_head:
        return 1 if left_head > right_head else -1
    text = load_int(state + MERGE.text)
    left_text, right_text = text + load_int(left_token + TOKEN.start), text + load_int(right_token + TOKEN.start)
    left_size, right_size = load_int(left_token + TOKEN.size), load_int(right_token + TOKEN.size)
    for index in range(min(left_size, right_size)):
        difference = load8(left_text + index) - load8(right_text + index)
        if difference != 0:
            return difference
    return left_size - right_size


@kernel
def precedes(state, count, key, other_count, other_key):
    """Return whether a pair is merged before another: it occurs more often, or as often and its bytes are greater."""
    if count != other_count:
        return count > other_count
    order = compare_tokens(state, (key - 1) >> 32, (other_key - 1) >> 32)
    if order == 0:
        order = compare_tokens(state, (key - 1) & 0xFFFFFFFF, (other_key - 1) & 0xFFFFFFFF)
    return order > 0


@inlined
def store_entry(heap, index, count, key):
    """Store an entry of the heap."""
    store_int(heap + HEAP_ENTRY.nbytes * index + HEAP_ENTRY.count, count)
    store_int(heap + HEAP_ENTRY.nbytes * index + HEAP_ENTRY.key, key)


@kernel
def push(state, count, key):
    """Add a pair to the heap."""
    heap, index = load_int(state + MERGE.heap), load_int(state + MERGE.heap_used)
    store_int(state + MERGE.heap_used, index + 1)
    while index > 0:
        parent = heap + HEAP_ENTRY.nbytes * ((index - 1) >> 1)
        parent_count, parent_key = load_int(parent + HEAP_ENTRY.count), load_int(parent + HEAP_ENTRY.key)
        if not precedes(state, count, key, parent_count, parent_key):
            break
        store_entry(heap, index, parent_count, parent_key)
        index = (index - 1) >> 1
    store_entry(heap, index, count, key)


@kernel
def replace_top(state, count, key):
    """Replace the first pair of the heap by another."""
    heap, used = load_int(state + MERGE.heap), load_int(state + MERGE.heap_used)
    index = 0
    while 2 * index + 1 < used:
        child = 2 * index + 1
        entry = heap + HEAP_ENTRY.nbytes * child
        child_count, child_key = load_int(entry + HEAP_ENTRY.count), load_int(entry + HEAP_ENTRY.key)
        if child + 1 < used:
            entry += HEAP_ENTRY.nbytes
            other_count, other_key = load_int(entry + HEAP_ENTRY.count), load_int(entry + HEAP_ENTRY.key)
            if precedes(state, other_count, other_key, child_count, child_key):
                child, child_count, child_key = child + 1, other_count, other_key
        if not precedes(state, child_count, child_key, count, key):
            break
        store_entry(heap, index, child_count, child_key)
        index = child
    store_entry(heap, index, count, key)


@kernel
def pop(state):
    """Remove the first pair of the heap."""
    used = load_int(state + MERGE.heap_used) - 1
    store_int(state + MERGE.heap_used, used)
    if used > 0:
        last = load_int(state + MERGE.heap) + HEAP_ENTRY.nbytes * used
        replace_top(state, load_int(last + HEAP_ENTRY.count), load_int(last + HEAP_ENTRY.key))
