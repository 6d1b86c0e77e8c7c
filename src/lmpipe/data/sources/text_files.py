"""Text files of the user as a corpus: concatenated, and cut into train and validation at the end of a document.

Files are read in blocks with pread; mapping them would count every page that a long search touches as memory.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from lmpipe.data.sources.first_bytes import BYTE_ORDER_MARK
from lmpipe.errors import InputError
from lmpipe.io.files import CHUNK_BYTES, open_text
from lmpipe.tokenizer.chunking import find_forward
from lmpipe.tokenizer.pretokenizer import END_OF_TEXT

DELIMITER = END_OF_TEXT.encode()


def split_texts(texts: Sequence[str], valid: Sequence[str], valid_fraction: float | None) -> dict[str, Iterator[bytes]]:
    """Return the text of both splits, in blocks: from separate files, or `texts` cut at a document end.

    Either `valid`, paths of validation files, or `valid_fraction`, a share of the bytes, must be given.
    """
    if valid_fraction is None:
        return {"train": concat_ranges(whole(texts)), "valid": concat_ranges(whole(valid))}
    index, offset = split_position(texts, 1 - valid_fraction)
    return {
        "train": concat_ranges([*whole(texts[:index]), (texts[index], 0, offset)]),
        "valid": concat_ranges([(texts[index], offset, None), *whole(texts[index + 1 :])]),
    }


def whole(texts: Sequence[str]) -> list[tuple[str, int, int | None]]:
    """Return the ranges of whole files."""
    return [(text, 0, None) for text in texts]


def concat_ranges(ranges: Iterable[tuple[str, int, int | None]]) -> Iterator[bytes]:
    """Yield byte ranges (path, start, stop) of files, in blocks; a range without a final delimiter gets one."""
    for path, start, stop in ranges:
        block = last = b""
        for block in read_range(path, start, stop):
            yield block
            last = (last + block).rstrip()[-len(DELIMITER) :]
        if last and last != DELIMITER:
            yield (b"" if block.endswith(b"\n") else b"\n") + DELIMITER + b"\n"


def read_range(path: str, start: int, stop: int | None) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `stop`, or to its end, in blocks, without a byte-order mark."""
    with open_text(path) as file:
        if start == 0 and read_at(file, 0, len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            start = len(BYTE_ORDER_MARK)
        left = (os.fstat(file.fileno()).st_size if stop is None else stop) - start
        file.seek(start)
        while left > 0 and (block := file.read(min(CHUNK_BYTES, left))):
            yield block
            left -= len(block)


def split_position(texts: Sequence[str], train_share: float) -> tuple[int, int]:
    """Return the start of validation: the index of a file and the offset in it.

    It is the document end nearest to `train_share` of all bytes. A single file without document ends is cut at a line,
    else at a space, into one document on either side. Raises InputError if there is no such position.
    """
    sizes = [Path(text).stat().st_size for text in texts]
    target = int(sum(sizes) * train_share)
    index = 0
    while index < len(texts) - 1 and target >= sizes[index]:
        target -= sizes[index]
        index += 1
    if sizes[index] == 0:
        raise InputError(texts[index], "is empty", "take it off the list")
    with open_text(texts[index]) as text:
        for mark in (DELIMITER, b"\n", b" "):
            if ends := nearest_boundaries(text, mark, target):
                return index, min(ends, key=lambda end: abs(end - target))
            if mark == DELIMITER and len(texts) > 1:
                return max(index, 1), 0
    problem = "has no document end, line end or space with text on both sides, to cut off a part for validation"
    raise InputError(texts[index], problem, "give more text, or files under valid")


def nearest_boundaries(text: BinaryIO, mark: bytes, target: int) -> list[int]:
    """Return the nearest ends of a mark on either side of `target` that have text before and after them."""
    nearest = []
    for starts in (find_backward(text, mark, target), find_forward(text.fileno(), mark, target)):
        ends = (skip_line_end(text, start + len(mark)) for start in starts)
        nearest += islice((end for end in ends if has_text_around(text, end)), 1)
    return nearest


def find_backward(text: BinaryIO, mark: bytes, offset: int) -> Iterator[int]:
    """Yield the starts of marks before `offset`, last first; the first one may extend beyond it."""
    while offset > 0:
        start = max(0, offset - CHUNK_BYTES)
        block = read_at(text, start, offset + len(mark) - 1)
        index = block.rfind(mark)
        while index >= 0:
            yield start + index
            index = block.rfind(mark, 0, index + len(mark) - 1)
        offset = start


def has_text_around(text: BinaryIO, offset: int) -> bool:
    """Return True if more than white space and delimiters is near `offset` on both sides."""
    sides = (read_at(text, max(0, offset - CHUNK_BYTES), offset), read_at(text, offset, offset + CHUNK_BYTES))
    return all(side.replace(DELIMITER, b"").strip() for side in sides)


def skip_line_end(text: BinaryIO, offset: int) -> int:
    """Return the offset after a line end that starts at `offset`, else `offset`."""
    for line_end in (b"\r\n", b"\n"):
        if read_at(text, offset, offset + len(line_end)) == line_end:
            return offset + len(line_end)
    return offset


def read_at(text: BinaryIO, start: int, stop: int) -> bytes:
    """Return the bytes of a file from `start` to `stop`, or to its end."""
    return os.pread(text.fileno(), stop - start, start)
