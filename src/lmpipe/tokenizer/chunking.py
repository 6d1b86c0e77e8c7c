"""Splitting of texts into blocks with the same pre-tokens, so that all CPUs can work on one file, and reading them."""

import os
import re
from collections.abc import Iterator, Sequence

from lmpipe.errors import InputError
from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.kernels.runtime.structs import PADDING
from lmpipe.tokenizer.pretokenizer import BLOCK_BYTES

MAX_BLOCK_BYTES = 1 << 32  # the kernels' offsets have 32 bits
WINDOW_BYTES = 1 << 12
PUNCTUATION = rb"!-&(-/:-@\[-`{-~"  # of ASCII, without the apostrophe
# Boundaries of pre-tokens that do not depend on what is further left or right: between a character that is not white
# space and a space or newline (the bytes before must not look like the end of a white space character, whatever they
# belong to), between ASCII letters, digits and punctuation, and between a Chinese character and a full stop or comma.
# After an apostrophe there is none: the characters may be a contraction.
SPLIT_POINT = re.compile(
    rb"(?<![\t-\r ])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf])(?<!\xe2\x81\x9f)"
    rb"(?<!\xe3\x80\x80)(?=[ \n])"
    rb"|(?<=[A-Za-z])(?=[0-9'" + PUNCTUATION + rb"])"
    rb"|(?<=[0-9])(?=[A-Za-z'" + PUNCTUATION + rb"])"
    rb"|(?<=[" + PUNCTUATION + rb"])(?=[A-Za-z0-9])"
    rb"|(?<=[\xe5-\xe8][\x80-\xbf][\x80-\xbf])(?=\xe3\x80\x82|\xef\xbc\x8c)"
)
LOOKBEHIND_BYTES = 3  # bytes before a boundary that SPLIT_POINT examines


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_points(data: bytes | bytearray, specials: Sequence[bytes], start: int = 0) -> Iterator[int]:
    """Yield the offsets from `start` on at which a text can be split without changing pre-tokens or special tokens.

    An offset is certain only if at least the length of the longest special token follows it.
    """
    for match in SPLIT_POINT.finditer(data, start):
        offset = match.start()
        if not any(
            data.find(special, max(0, offset - len(special) + 1), offset + len(special) - 1) >= 0
            for special in specials
        ):
            yield offset


def last_split_point(data: bytes | bytearray, specials: Sequence[bytes]) -> int:
    """Return the last certain split point of a text that continues with unknown bytes; 0 if there is none."""
    certain = len(data) - max(map(len, specials), default=1)
    window = WINDOW_BYTES
    while True:
        first = max(0, certain - window)
        if offsets := [offset for offset in split_points(data, specials, first) if offset <= certain]:
            return offsets[-1]
        if not first:
            return 0
        window *= 4


def next_split_point(file: int, specials: Sequence[bytes], offset: int, stop: int) -> int:
    """Return the first split point of a file (a descriptor) at or after `offset`, or `stop`."""
    longest = max(map(len, specials), default=0)
    before = max(LOOKBEHIND_BYTES, longest)
    window = WINDOW_BYTES
    while offset < stop:
        first = max(0, offset - before)
        data = os.pread(file, min(window + before, stop - first), first)
        is_end = first + len(data) >= stop
        split_point = next(split_points(data, specials, offset - first), None)
        if split_point is not None and (is_end or split_point + longest <= len(data)):
            return first + split_point
        if is_end:
            return stop
        window *= 4
    return stop


def find_end(file: int, mark: bytes, offset: int) -> int | None:
    """Return the end of the first mark in a file (a descriptor) that starts at or after `offset`; None without one."""
    while block := os.pread(file, BLOCK_BYTES + len(mark) - 1, offset):
        if (index := block.find(mark)) >= 0:
            return offset + index + len(mark)
        offset += BLOCK_BYTES
    return None


def blocks(file: int, specials: Sequence[bytes], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Split the bytes of a file (a descriptor) from `start` to `stop` into blocks of about BLOCK_BYTES.

    Raises InputError for a stretch of 4 GiB without a split point.
    """
    while start < stop:
        end = next_split_point(file, specials, start + BLOCK_BYTES, stop)
        if end - start >= MAX_BLOCK_BYTES:
            problem = "is followed by 4 GiB without a space or newline"
            raise InputError(f"byte {start:,}", problem, "break the text into lines")
        yield start, end
        start = end


def read_block(file: int, start: int, stop: int, buffer: Buffer) -> None:
    """Read bytes of a file (a descriptor) into a buffer, which grows if needed and keeps PADDING bytes after them."""
    size = stop - start
    if size + PADDING > buffer.size:
        buffer.grow(2 * size + PADDING)
    with buffer.bytes_view() as view:
        done = 0
        while done < size:
            count = os.preadv(file, [view[done:size]], start + done)
            if not count:
                raise InputError(f"byte {start + done:,}", "is the end of a file that was longer", "start again")
            done += count
