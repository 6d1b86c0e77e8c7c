"""The pass over a block of text that counting and encoding share: special tokens, and GPT-2's pre-tokens in between.

About 60 bytes are decided at a time: each class of characters is a mask of 64 bits, and shifted masks stand for the
neighbours. That is 8 times faster than one character after the other (2,950 against 376 MB/s), and 200 times faster
than the regex package.

The pattern is lmpipe.tokenizer.pretokenizer.PATTERN. A byte that is not part of well-formed UTF-8 is one character of
the class of punctuation.
"""

from numba import uint64

from lmpipe.kernels.bpe.structs import BLOCK, DIGIT, LETTER, OTHER, SCAN, SCAN_SLACK, SPECIAL, SPECIALS, WHITE
from lmpipe.kernels.runtime.intrinsics import (
    ONE,
    ZERO,
    classify,
    count_ones,
    equal_bytes,
    inlined,
    kernel,
    load8,
    load32,
    load_int,
    low_bits,
    store32,
    store_int,
    trailing_zeros,
)
from lmpipe.kernels.runtime.structs import WORD

STEP = 60  # of the 64 bytes in the masks: up to 3 belong to the last character, and one is the byte that follows
S, D, M, T, L, V, R, E = (ord(letter) for letter in "sdmtlvre")


@inlined
def is_continuation(address):
    """Return whether a byte is a continuation byte of UTF-8."""
    return (load8(address) & 0xC0) == 0x80


@kernel
def decode_character(address, end, classes):
    """Return length and class of the character that starts with a byte from 0x80 upwards; malformed: (1, OTHER)."""
    lead = load8(address)
    room = end - address
    if lead < 0xC2 or lead > 0xF4 or room < 2 or not is_continuation(address + 1):
        return 1, OTHER
    code = load8(address + 1) & 0x3F
    if lead < 0xE0:
        return 2, load8(classes + ((lead & 0x1F) << 6 | code))
    if room < 3 or not is_continuation(address + 2):
        return 1, OTHER
    code = code << 6 | load8(address + 2) & 0x3F
    if lead < 0xF0:
        code |= (lead & 0xF) << 12
        if code < 0x800 or 0xD800 <= code < 0xE000:
            return 1, OTHER
        return 3, load8(classes + code)
    if room < 4 or not is_continuation(address + 3):
        return 1, OTHER
    code = (lead & 7) << 18 | code << 6 | load8(address + 3) & 0x3F
    if code < 0x10000 or code > 0x10FFFF:
        return 1, OTHER
    return 4, load8(classes + code)


@kernel
def whole_characters(address):
    """Return how many of the next bytes to decide without cutting a character: STEP, or up to 3 fewer."""
    for size in range(STEP, STEP - 4, -1):
        if not is_continuation(address + size):
            return size
    return STEP


@inlined
def add_multibyte(address, end, classes, high, letters, digits, white):
    """Add the characters that start in `high` to the masks of their classes.

    Returns letters, digits, white, and the bytes of white-space characters after their first.
    """
    white_tails = ZERO
    while high != ZERO:
        index = trailing_zeros(high)
        length, kind = decode_character(address + index, end, classes)
        character = low_bits(length) << uint64(index)
        high &= ~character
        if kind == LETTER:
            letters |= character
        elif kind == DIGIT:
            digits |= character
        elif kind == WHITE:
            white |= character
            white_tails |= character & (character << ONE)
    return letters, digits, white, white_tails


@inlined
def character_starts(ends, tails):
    """Move bits from the last bytes of characters to their first; `tails` are the bytes after the first."""
    moving = ends & tails
    while moving != ZERO:
        index = trailing_zeros(moving)
        moving &= moving - ONE
        ends &= ~(ONE << uint64(index))
        while index > 0 and tails >> uint64(index) & ONE:
            index -= 1
        ends |= ONE << uint64(index)
    return ends


@kernel
def contraction(address, room):
    """Return the length of the contraction that starts with the apostrophe at an address, or 0."""
    if room < 2:
        return 0
    first = load8(address + 1)
    if first in (S, D, M, T):
        return 2
    if room < 3:
        return 0
    second = load8(address + 2)
    return 3 if (first == L and second == L) or (first in (V, R) and second == E) else 0


@inlined
def add_contractions(address, left, quotes, force_mask, forbid_mask):
    """Force a start behind each contraction that begins with one of `quotes`, and forbid one inside it."""
    while quotes != ZERO:
        index = trailing_zeros(quotes)
        quotes &= quotes - ONE
        length = contraction(address + index, left - index)
        if length:
            forbid_mask |= ONE << uint64(index + 1)
            force_mask |= ONE << uint64(index + length)
    return force_mask, forbid_mask


@kernel
def scan(base, stop, classes, state, starts, room):
    """Find the next starts of pre-tokens of a text that ends at `stop`; returns their number, at most `room`.

    They are written to `starts` (uint32, relative to `base`, as all positions). The scan ends at the end of the text or
    when `starts` is full; the next call continues from `state` (SCAN). PADDING bytes from `stop` on must be readable;
    they may hold anything.
    """
    position = load_int(state + SCAN.position)
    letter_before, digit_before = uint64(load_int(state + SCAN.letter)), uint64(load_int(state + SCAN.digit))
    other_before, space_before = uint64(load_int(state + SCAN.other)), uint64(load_int(state + SCAN.space))
    white_before = uint64(load_int(state + SCAN.white))
    force_mask, forbid_mask = uint64(load_int(state + SCAN.force)), uint64(load_int(state + SCAN.forbid))
    output, last_output = starts, starts + 4 * (room - SCAN_SLACK)
    while position < stop and output <= last_output:
        address, left, size = base + position, stop - position, STEP
        letters, digits, spaces, white, apostrophes, high = classify(address)
        if left <= STEP:
            # The bytes behind the end count as white space, so that a run before it has no last character.
            size, valid = left, low_bits(left)
            letters, digits, spaces, apostrophes = letters & valid, digits & valid, spaces & valid, apostrophes & valid
            white, high = (white & valid) | ~valid, high & valid
        white_tails = ZERO
        if high != ZERO:
            if left > STEP:
                size = whole_characters(address)
            high &= low_bits(size + 1)
            letters, digits, white, white_tails = add_multibyte(
                address, base + stop, classes, high, letters, digits, white
            )
        others = ~(letters | digits | white)
        same = letters & (letters << ONE | letter_before)
        same |= digits & (digits << ONE | digit_before)
        same |= others & (others << ONE | other_before)
        # A new class starts a pre-token, unless a space is before it, which belongs to it.
        starts_mask = ~white & ~same & ~(spaces << ONE | space_before)
        # A run of white space starts one, and so does its last character if something follows.
        last_white = character_starts(white & ~(white >> ONE), white_tails)
        starts_mask |= (white & ~white_tails & ~(white << ONE | white_before)) | last_white
        decided = low_bits(size)
        force_mask, forbid_mask = add_contractions(
            address, left, apostrophes & starts_mask & decided, force_mask, forbid_mask
        )
        output = write_positions((starts_mask & ~forbid_mask | force_mask) & decided, position, output)
        force_mask >>= uint64(size)
        forbid_mask >>= uint64(size)
        last = uint64(size - 1)
        letter_before, digit_before, other_before = letters >> last & ONE, digits >> last & ONE, others >> last & ONE
        space_before, white_before = spaces >> last & ONE, white >> last & ONE
        position += size
    store_scan(state, position, letter_before, digit_before, other_before, space_before, white_before)
    store_int(state + SCAN.force, force_mask)
    store_int(state + SCAN.forbid, forbid_mask)
    return (output - starts) >> 2


@inlined
def store_scan(state, position, letter, digit, other, space, white):
    """Store the position of a scan and the class of the byte before it."""
    store_int(state + SCAN.position, position)
    store_int(state + SCAN.letter, letter)
    store_int(state + SCAN.digit, digit)
    store_int(state + SCAN.other, other)
    store_int(state + SCAN.space, space)
    store_int(state + SCAN.white, white)


@inlined
def write_positions(mask, first, output):
    """Write the positions of the bits of a mask, counted from `first`, as uint32; returns the address behind them.

    Eight at a time, even if fewer are left: fewer mispredicted branches (Langdale and Lemire 2019).
    """
    end = output + 4 * count_ones(mask)
    while mask != ZERO:
        for _ in range(8):
            store32(output, first + trailing_zeros(mask))
            output += 4
            mask &= mask - ONE
    return end


@inlined
def starts_with(text, prefix, size):
    """Return whether `size` bytes at two addresses are equal."""
    index = 0
    while index < size and load8(text + index) == load8(prefix + index):
        index += 1
    return index == size


@kernel
def find_special_token(base, start, stop, specials):
    """Return start, end and index of the first special token, the longest of those there; (stop, stop, -1) for none.

    `specials` is SPECIALS, followed by the different first bytes (int64) and a SPECIAL for each token, longest first.
    """
    first_bytes = specials + SPECIALS.nbytes
    tokens = first_bytes + WORD * load_int(specials + SPECIALS.first_bytes)
    tokens_end = tokens + SPECIAL.nbytes * load_int(specials + SPECIALS.tokens)
    for position in range(start, stop, 64):
        candidates = ZERO
        for first_byte in range(first_bytes, tokens, WORD):
            candidates |= equal_bytes(base + position, load_int(first_byte))
        while candidates != ZERO:
            index = position + trailing_zeros(candidates)
            candidates &= candidates - ONE
            for token in range(tokens, tokens_end, SPECIAL.nbytes):
                size = load_int(token + SPECIAL.size)
                if index + size <= stop and starts_with(base + index, load_int(token + SPECIAL.address), size):
                    return index, index + size, load_int(token + SPECIAL.index)
    return stop, stop, -1


# --- the pass over a block -------------------------------------------------------------------------------------------


@kernel
def next_segment(block):
    """Open the next segment between special tokens, and return 1; 0 at the end of the block.

    BLOCK.special becomes the index of the special token that ends it, -1 for none.
    """
    position, stop = load_int(block + BLOCK.position), load_int(block + BLOCK.stop)
    if position >= stop:
        return 0
    segment_stop, next_position, special = find_special_token(
        load_int(block + BLOCK.base), position, stop, load_int(block + BLOCK.specials)
    )
    store_int(block + BLOCK.position, next_position)
    store_int(block + BLOCK.segment_stop, segment_stop)
    store_int(block + BLOCK.special, special)
    store_int(block + BLOCK.carried, 0)
    store_int(block + BLOCK.is_open, 1)
    scan_state = block + BLOCK.scan
    store_scan(scan_state, position, 0, 0, 0, 0, 0)
    store_int(scan_state + SCAN.force, 0)
    store_int(scan_state + SCAN.forbid, 0)
    return 1


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
