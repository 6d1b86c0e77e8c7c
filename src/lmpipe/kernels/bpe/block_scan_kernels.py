"""The pass over a block of text that counting and encoding share: segments between special tokens, and pre-tokens."""

from lmpipe.kernels.bpe.pretokenizer_kernels import find_special_tokens, scan, start_scan
from lmpipe.kernels.bpe.structs import BLOCK, MATCH, SCAN
from lmpipe.kernels.runtime.intrinsics import kernel, load32, load_int, store32, store_int


@kernel
def next_segment(block):
    """Open the next segment between special tokens; False at the end of the block.

    BLOCK.special becomes the index of the special token that ends it, -1 for none.
    """
    matches, room = load_int(block + BLOCK.matches), load_int(block + BLOCK.matches_room)
    stop, position = load_int(block + BLOCK.stop), load_int(block + BLOCK.position)
    if position >= stop:
        return False
    index, count = load_int(block + BLOCK.match_next), load_int(block + BLOCK.match_count)
    if index == count and (count == room or position == 0):
        specials = load_int(block + BLOCK.specials)
        count = find_special_tokens(load_int(block + BLOCK.base), position, stop, specials, matches, room)
        index = 0
        store_int(block + BLOCK.match_count, count)
    segment_stop = next_position = stop
    special = -1
    if index < count:
        match = matches + MATCH.nbytes * index
        segment_stop, next_position = load_int(match + MATCH.start), load_int(match + MATCH.stop)
        special = load_int(match + MATCH.index)
    store_int(block + BLOCK.match_next, min(index + 1, count))
    store_int(block + BLOCK.position, next_position)
    store_int(block + BLOCK.segment_stop, segment_stop)
    store_int(block + BLOCK.special, special)
    store_int(block + BLOCK.carried, 0)
    store_int(block + BLOCK.is_open, 1)
    start_scan(block + BLOCK.scan, position)
    return True


@kernel
def next_starts(block):
    """Find some starts of pre-tokens in the open segment, and the end of the last one; returns their number.

    Until `advance` is called, they stay the same.
    """
    stop, scan_state = load_int(block + BLOCK.segment_stop), block + BLOCK.scan
    base, starts = load_int(block + BLOCK.base), load_int(block + BLOCK.starts)
    pending = load_int(block + BLOCK.pending)
    if pending == 0:
        # The last start of the previous scan comes first, because only now its end is known.
        carried = load_int(block + BLOCK.carried)
        room = load_int(block + BLOCK.starts_room) - carried
        pending = carried + scan(base, stop, load_int(block + BLOCK.classes), scan_state, starts + 4 * carried, room)
        store_int(block + BLOCK.pending, pending)
    if load_int(scan_state + SCAN.position) < stop:
        return pending - 1
    store32(starts + 4 * pending, stop)
    return pending


@kernel
def advance(block, complete):
    """Continue behind the `complete` starts that next_starts found; the segment stays open while one is left."""
    starts, pending = load_int(block + BLOCK.starts), load_int(block + BLOCK.pending)
    store32(starts, load32(starts + 4 * complete))
    store_int(block + BLOCK.carried, pending - complete)
    store_int(block + BLOCK.pending, 0)
    store_int(block + BLOCK.is_open, pending - complete)
