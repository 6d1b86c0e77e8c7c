"""The heap of pairs of the merge loop: most frequent first, the lexicographically greater one of equals.

The counts of a pair only ever fall, so the heap is lazy: an entry that is too large is corrected when it is on top
(merge_kernels.most_frequent).
"""

from lmpipe.kernels.bpe.structs import HEAP_ENTRY, MERGE, TOKEN
from lmpipe.kernels.runtime.intrinsics import inlined, kernel, load8, load64, load_int, store_int


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
