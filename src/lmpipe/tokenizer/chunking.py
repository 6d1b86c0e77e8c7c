"""Cutting texts into blocks that can be pre-tokenized apart, and reading them: so all cores work on one file."""

import os
import re
from collections.abc import Iterator, Sequence

from lmpipe.errors import InputError
from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.kernels.runtime.structs import PADDING

BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 1 << 32  # places in a block are numbers of 32 bits
WINDOW_BYTES = 1 << 12
PUNCTUATION = rb"!-&(-/:-@\[-`{-~"  # of ASCII, but for the apostrophe
# Where a boundary of pre-tokens lies that neither side can see across: between a character that is no white space and a
# space or newline (the bytes before must not end as a character of white space does, whatever they belong to), where
# ASCII's letters, digits and punctuation change, and between Chinese characters and their full stop or comma. What
# follows an apostrophe may belong to it.
SPLIT_POINT = re.compile(
    rb"(?<![\t-\r ])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf])(?<!\xe2\x81\x9f)"
    rb"(?<!\xe3\x80\x80)(?=[ \n])"
    rb"|(?<=[A-Za-z])(?=[0-9'" + PUNCTUATION + rb"])"
    rb"|(?<=[0-9])(?=[A-Za-z'" + PUNCTUATION + rb"])"
    rb"|(?<=[" + PUNCTUATION + rb"])(?=[A-Za-z0-9])"
    rb"|(?<=[\xe5-\xe8][\x80-\xbf][\x80-\xbf])(?=\xe3\x80\x82|\xef\xbc\x8c)"
)
LOOKBEHIND_BYTES = 3  # bytes that SPLIT_POINT looks at


def available_cpus() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_points(data: bytes | bytearray, specials: Sequence[bytes], start: int = 0) -> Iterator[int]:
    """The places from `start` on where bytes of a text can be cut without changing its pre-tokens or special tokens.

    Known are those of which the text goes on for as long as the longest special token.
    """
    for match in SPLIT_POINT.finditer(data, start):
        cut = match.start()
        if not any(
            data.find(special, max(0, cut - len(special) + 1), cut + len(special) - 1) >= 0 for special in specials
        ):
            yield cut


def last_split_point(data: bytes | bytearray, specials: Sequence[bytes]) -> int:
    """The last of the `split_points` of a text that goes on with bytes yet unknown; 0 if there is none."""
    certain = len(data) - max(map(len, specials), default=1)
    window = WINDOW_BYTES
    while True:
        first = max(0, certain - window)
        if found := [cut for cut in split_points(data, specials, first) if cut <= certain]:
            return found[-1]
        if not first:
            return 0
        window *= 4


def next_split_point(file: int, specials: Sequence[bytes], place: int, stop: int) -> int:
    """The first place at or after `place` where a file can be cut without changing its pre-tokens, or `stop`."""
    longest = max(map(len, specials), default=0)
    before = max(LOOKBEHIND_BYTES, longest)
    window = WINDOW_BYTES
    while place < stop:
        first = max(0, place - before)
        data = os.pread(file, min(window + before, stop - first), first)
        is_end = first + len(data) >= stop
        cut = next(split_points(data, specials, place - first), None)
        if cut is not None and (is_end or cut + longest <= len(data)):
            return first + cut
        if is_end:
            return stop
        window *= 4
    return stop


def blocks(file: int, specials: Sequence[bytes], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut the bytes of a file from `start` to `stop` into blocks of about BLOCK_BYTES that have the same pre-tokens."""
    while start < stop:
        end = next_split_point(file, specials, start + BLOCK_BYTES, stop)
        if end - start >= MAX_BLOCK_BYTES:
            raise InputError(
                f"byte {start:,}: expected a space or newline within 4 GiB, found none; break the text into lines"
            )
        yield start, end
        start = end


def read_block(file: int, start: int, stop: int, buffer: Buffer) -> None:
    """Read bytes of a file into a buffer, which is made longer if it must be; PADDING bytes stay behind them."""
    size = stop - start
    if size + PADDING > buffer.size:
        buffer.grow(2 * size + PADDING)
    with buffer.bytes_view() as view:
        done = 0
        while done < size:
            count = os.preadv(file, [view[done:size]], start + done)
            if not count:
                raise InputError(f"byte {start + done:,}: expected more text, found the end; the file became shorter")
            done += count
