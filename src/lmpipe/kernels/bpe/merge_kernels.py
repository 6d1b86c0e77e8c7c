"""The merge loop of byte-level BPE over unique words and their counts, exact, at 60 to 180 ns an occurrence.

A word is one record, its count and its symbols together, so that a visit costs one cache line. Each frequent pair has
a list of its words. A merge walks one list and sums up the neighbours of the new token in arrays indexed by symbol, so
that the table of pairs is touched once for each different neighbour.

Table, heap and lists hold only the pairs that occur MERGE.min_count times or more; no other can be next. When no such
pair is left, the caller lowers the limit, and all pairs are counted again.
"""

from numba import uint64

from lmpipe.kernels.bpe.hash_slot_kernels import copy_bytes
from lmpipe.kernels.bpe.pair_kernels import (
    count_pairs,
    enter_pair,
    fill_lists,
    grow_pairs,
    measure_lists,
    pair_key,
    pair_slot,
    pop,
    replace_top,
    select_pairs,
    write_records,
)
from lmpipe.kernels.bpe.structs import (
    EVENT,
    HEAP_ENTRY,
    MERGE,
    MERGE_FINISHED,
    MERGED_PAIR,
    NEIGHBOUR,
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
    inlined,
    kernel,
    load8,
    load32,
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

LANES = 16  # symbols of a vector
PREFETCH_DISTANCE = 16  # records that are prefetched ahead
RIGHT = 0x80000000  # the sign of an event's right neighbour


@kernel
def most_frequent(state):
    """Return the slot of the pair to merge next; 0 if none occurs MERGE.min_count times."""
    while load_int(state + MERGE.heap_used) > 0:
        top = load_int(state + MERGE.heap)
        key = load_int(top + HEAP_ENTRY.key)
        slot = pair_slot(state, key)
        count = load_int(slot + PAIR.count)
        if count < load_int(state + MERGE.min_count):
            pop(state)
        elif count < load_int(top + HEAP_ENTRY.count):
            replace_top(state, count, key)
        else:
            return slot
    return 0


@inlined
def token_size(state, token):
    """Return the bytes of a token."""
    return load_int(load_int(state + MERGE.tokens) + TOKEN.nbytes * token + TOKEN.size)


@kernel
def store_token_bytes(state, left, right, token):
    """Store the bytes of a new token: those of its parts."""
    tokens, text = load_int(state + MERGE.tokens), load_int(state + MERGE.text)
    start = load_int(state + MERGE.text_used)
    end = start
    for parent in (left, right):
        source = tokens + TOKEN.nbytes * parent
        copy_bytes(text + end, text + load_int(source + TOKEN.start), load_int(source + TOKEN.size))
        end += load_int(source + TOKEN.size)
    head = ZERO
    for index in range(min(8, end - start)):
        head |= uint64(load8(text + start + index)) << uint64(56 - 8 * index)
    entry = tokens + TOKEN.nbytes * token
    store64(entry + TOKEN.head, head)
    store_int(entry + TOKEN.start, start)
    store_int(entry + TOKEN.size, end - start)
    store_int(state + MERGE.text_used, end)


# --- replacing the pair in its words ---------------------------------------------------------------------------------


@inlined
def find_pair(symbols, size, left, right):
    """Return the index of a pair's first occurrence among symbols, `size` if there is none."""
    index = 0
    while index + 1 < size:
        matches = equal_pairs(symbols + ID_BYTES * index, left, right)
        rest = size - 1 - index
        if rest < LANES:
            matches &= low_bits(rest)
        if matches != ZERO:
            return index + trailing_zeros(matches)
        index += LANES
    return size


@inlined
def append_event(events, symbol, word):
    """Append an event; returns the address behind it."""
    store32(events + EVENT.symbol, symbol)
    store32(events + EVENT.word, word)
    return events + EVENT.nbytes


@inlined
def add_neighbour(neighbours, symbol, word, count, events, event_symbol, dirty, num_dirty):
    """Count `symbol` as a neighbour of the new token in a word; returns the end of events and the number of symbols.

    `dirty` lists the symbols (uint32) whose NEIGHBOUR is not zero.
    """
    neighbour = neighbours + NEIGHBOUR.nbytes * symbol
    if load_int(neighbour + NEIGHBOUR.count) == 0:
        store32(dirty + 4 * num_dirty, symbol)
        num_dirty += 1
    store_int(neighbour + NEIGHBOUR.count, load_int(neighbour + NEIGHBOUR.count) + count)
    if load32(neighbour + NEIGHBOUR.last_word) != word + 1:
        store32(neighbour + NEIGHBOUR.last_word, word + 1)
        store32(neighbour + NEIGHBOUR.words, load32(neighbour + NEIGHBOUR.words) + 1)
        events = append_event(events, event_symbol, word)
    return events, num_dirty


@inlined
def is_pair(symbols, size, index, left, right):
    """Return whether a pair is at an index of a word's symbols."""
    return (
        index + 1 < size
        and load_id(symbols + ID_BYTES * index) == left
        and load_id(symbols + ID_BYTES * (index + 1)) == right
    )


@kernel
def replace_pair(state, slot, left, right, token):
    """Replace a pair by the new token in all its words, and sum up the neighbours that the token has then."""
    records, first_event = load_int(state + MERGE.records), load_int(state + MERGE.events)
    left_neighbours = load_int(state + MERGE.left_neighbours)
    right_neighbours = load_int(state + MERGE.right_neighbours)
    left_dirty, right_dirty = load_int(state + MERGE.left_dirty), load_int(state + MERGE.right_dirty)
    events = first_event
    num_left = num_right = self_pairs = self_pair_words = 0
    word_list, words = load_int(state + MERGE.pool) + 4 * load_int(slot + PAIR.start), load_int(slot + PAIR.words)
    for entry in range(words):
        if entry + PREFETCH_DISTANCE < words:
            prefetch(records + RECORD_UNIT * load32(word_list + 4 * (entry + PREFETCH_DISTANCE)))
        word = load32(word_list + 4 * entry)
        record = records + RECORD_UNIT * word
        symbols, size = record + RECORD.symbols, load32(record + RECORD.size)
        index = find_pair(symbols, size, left, right)
        if index == size:
            continue
        count = load_int(record + RECORD.count)
        target = index
        has_self_pair = False
        while index < size:
            if not is_pair(symbols, size, index, left, right):
                store_id(symbols + ID_BYTES * target, load_id(symbols + ID_BYTES * index))
                target += 1
                index += 1
                continue
            if target > 0:
                before = load_id(symbols + ID_BYTES * (target - 1))
                if before != token:
                    events, num_left = add_neighbour(
                        left_neighbours, before, word, count, events, before, left_dirty, num_left
                    )
                else:
                    self_pairs += count
                    if not has_self_pair:
                        has_self_pair = True
                        self_pair_words += 1
                        events = append_event(events, token, word)
            index += 2
            store_id(symbols + ID_BYTES * target, token)
            target += 1
            if index < size and not is_pair(symbols, size, index, left, right):
                after = load_id(symbols + ID_BYTES * index)
                events, num_right = add_neighbour(
                    right_neighbours, after, word, count, events, ~after, right_dirty, num_right
                )
        store32(record + RECORD.size, target)
    store_int(state + MERGE.events_used, (events - first_event) // EVENT.nbytes)
    store_int(state + MERGE.num_left, num_left)
    store_int(state + MERGE.num_right, num_right)
    store_int(state + MERGE.self_pairs, self_pairs)
    store_int(state + MERGE.self_pair_words, self_pair_words)


# --- updating the pairs ----------------------------------------------------------------------------------------------


@inlined
def decrement_pair(state, left, right, count):
    """Subtract from the count of a pair, if it is in the table."""
    slot = pair_slot(state, pair_key(left, right))
    if load_int(slot + PAIR.key) != 0:
        store_int(slot + PAIR.count, load_int(slot + PAIR.count) - count)


@kernel
def add_pair(state, left, right, count, words):
    """Enter a new pair if it occurs often enough; returns the start of its list in the pool, or -1."""
    if count < load_int(state + MERGE.min_count):
        return -1
    start = load_int(state + MERGE.pool_used)
    slot = enter_pair(state, pair_key(left, right), count, start)
    store_int(slot + PAIR.words, words)
    store_int(state + MERGE.pool_used, start + words)
    return start


@kernel
def update_pairs(state, neighbours, dirty, num_dirty, left, right, token, is_left):
    """Enter the pairs of the new token and its left or right neighbours; subtract them from those of its parts."""
    for index in range(num_dirty):
        symbol = load32(dirty + 4 * index)
        neighbour = neighbours + NEIGHBOUR.nbytes * symbol
        count, words = load_int(neighbour + NEIGHBOUR.count), load32(neighbour + NEIGHBOUR.words)
        if is_left:
            decrement_pair(state, symbol, left, count)
            start = add_pair(state, symbol, token, count, words)
        else:
            decrement_pair(state, right, symbol, count)
            start = add_pair(state, token, symbol, count, words)
        # Until the lists are filled, the field says where the next word goes.
        store_int(neighbour + NEIGHBOUR.count, start)


@kernel
def fill_new_lists(state, token, self_pair_start):
    """Append words to the lists of the new pairs, in the order in which they were found."""
    pool, event = load_int(state + MERGE.pool), load_int(state + MERGE.events)
    left_neighbours = load_int(state + MERGE.left_neighbours)
    right_neighbours = load_int(state + MERGE.right_neighbours)
    for _ in range(load_int(state + MERGE.events_used)):
        symbol, word = load32(event + EVENT.symbol), load32(event + EVENT.word)
        event += EVENT.nbytes
        if symbol == token:
            if self_pair_start >= 0:
                store32(pool + 4 * self_pair_start, word)
                self_pair_start += 1
            continue
        neighbour = left_neighbours + NEIGHBOUR.nbytes * symbol
        if symbol & RIGHT:
            neighbour = right_neighbours + NEIGHBOUR.nbytes * (symbol ^ 0xFFFFFFFF)
        start = load_int(neighbour + NEIGHBOUR.count)
        if start >= 0:
            store32(pool + 4 * start, word)
            store_int(neighbour + NEIGHBOUR.count, start + 1)


@kernel
def clear_neighbours(neighbours, dirty, num_dirty):
    """Clear the sums of the symbols that a merge has touched."""
    for index in range(num_dirty):
        neighbour = neighbours + NEIGHBOUR.nbytes * load32(dirty + 4 * index)
        store_int(neighbour + NEIGHBOUR.count, 0)
        store_int(neighbour + NEIGHBOUR.words, 0)  # and last_word


@inlined
def full_buffer(state):
    """Return which buffer is too small for the new pairs (PAIRS_FULL, POOL_FULL), MERGE_FINISHED if none."""
    new = load_int(state + MERGE.num_left) + load_int(state + MERGE.num_right) + 1
    if 4 * (load_int(state + MERGE.pairs_used) + new) > 3 * load_int(state + MERGE.pairs_capacity):
        return PAIRS_FULL
    if load_int(state + MERGE.pool_used) + load_int(state + MERGE.events_used) > load_int(state + MERGE.pool_size):
        return POOL_FULL
    return MERGE_FINISHED


@kernel
def update_all_pairs(state, left, right, token):
    """Update table, heap and lists after a pair was replaced in its words."""
    left_neighbours = load_int(state + MERGE.left_neighbours)
    right_neighbours = load_int(state + MERGE.right_neighbours)
    left_dirty, right_dirty = load_int(state + MERGE.left_dirty), load_int(state + MERGE.right_dirty)
    num_left, num_right = load_int(state + MERGE.num_left), load_int(state + MERGE.num_right)
    update_pairs(state, left_neighbours, left_dirty, num_left, left, right, token, True)
    update_pairs(state, right_neighbours, right_dirty, num_right, left, right, token, False)
    self_pairs, start = load_int(state + MERGE.self_pairs), -1
    if self_pairs > 0:
        decrement_pair(state, right, left, self_pairs)
        start = add_pair(state, token, token, self_pairs, load_int(state + MERGE.self_pair_words))
    fill_new_lists(state, token, start)
    clear_neighbours(left_neighbours, left_dirty, num_left)
    clear_neighbours(right_neighbours, right_dirty, num_right)


@kernel
def merge(state):
    """Merge the most frequent pair until MERGE.target merges are done.

    Returns MERGE_FINISHED, or what must be done before the next call continues. A merge whose pair is replaced, but
    whose new pairs found no room, is pending.
    """
    while True:
        pending = load_int(state + MERGE.pending)
        token = load_int(state + MERGE.next_id)
        if pending == 0:
            if load_int(state + MERGE.done) >= load_int(state + MERGE.target):
                return MERGE_FINISHED
            slot = most_frequent(state)
            if slot == 0:
                return PAIRS_ENDED
            pending = load_int(slot + PAIR.key)
            left, right = (pending - 1) >> 32, (pending - 1) & 0xFFFFFFFF
            token_bytes = token_size(state, left) + token_size(state, right)
            if load_int(state + MERGE.text_used) + token_bytes > load_int(state + MERGE.text_size):
                return TEXT_FULL
            pop(state)
            store_token_bytes(state, left, right, token)
            replace_pair(state, slot, left, right, token)
            store_int(slot + PAIR.count, 0)
            store_int(state + MERGE.pending, pending)
        left, right = (pending - 1) >> 32, (pending - 1) & 0xFFFFFFFF
        reason = full_buffer(state)
        if reason != MERGE_FINISHED:
            return reason
        update_all_pairs(state, left, right, token)
        done = load_int(state + MERGE.done)
        merged = load_int(state + MERGE.output) + MERGED_PAIR.nbytes * done
        store_int(merged + MERGED_PAIR.left, left)
        store_int(merged + MERGED_PAIR.right, right)
        store_int(state + MERGE.done, done + 1)
        store_int(state + MERGE.next_id, token + 1)
        store_int(state + MERGE.pending, 0)


KERNELS = (write_records, count_pairs, select_pairs, grow_pairs, measure_lists, fill_lists, merge)
