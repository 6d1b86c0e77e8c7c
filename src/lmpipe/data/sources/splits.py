"""Split of a text into training and validation by documents.

The text is joined in an unnamed temporary file. Memory holds the offset at which each document ends, and their order:
about 60 bytes a document.
"""

import os
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from lmpipe.data.sources.readers import DELIMITER, end_document
from lmpipe.errors import InputError
from lmpipe.io.files import CHUNK_BYTES, write_all

DOCUMENT_END = re.compile(re.escape(DELIMITER) + rb"\r?\n?")
MAX_END_BYTES = len(DELIMITER) + 2
# A document is cut no farther from the fraction than this share of all bytes, or this number of them.
MAX_DEVIATION, MIN_DEVIATION_BYTES = 0.01, 100


class JoinedText:
    """Documents of a text in a temporary file in `folder`, in order; a blank one is part of the one before it."""

    def __init__(self, blocks: Iterable[bytes], folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self.ends = array("Q")
        offset, rest = 0, b""  # of the bytes in `rest`, in which ends are still to be found
        is_blank = False  # no text since the last end
        for block in chain(join_blocks(blocks, CHUNK_BYTES), [None]):
            write_all(self.file, block or b"", folder / "text to split")
            rest += block or b""
            start = 0
            for match in DOCUMENT_END.finditer(rest):
                if match.end() == len(rest) and block is not None:
                    break  # a line end may follow in the next block
                if is_blank and not rest[start : match.start()].strip():
                    self.ends.pop()
                start, is_blank = match.end(), True
                self.ends.append(offset + start)
            searched = max(start, len(rest) - MAX_END_BYTES)
            is_blank = is_blank and not rest[start:searched].strip()
            offset, rest = offset + searched, rest[searched:]

    def split(self, valid_fraction: float, seed: int | None) -> dict[str, Iterator[bytes]]:
        """Return the text of both splits, in blocks; with a seed the documents are shuffled first.

        The validation split is the last part, rounded to whole documents. If that leaves a split empty, one document is
        cut at the end of a line, or at a space. Raises InputError if there is no such place near the fraction.
        """
        if not self.ends:
            raise InputError("the text", "has no documents", "give the corpus more text")
        ends = np.array(self.ends, np.int64)
        ranges = np.stack((np.concatenate(([0], ends[:-1])), ends), axis=1)  # (documents, 2)
        if seed is not None:
            # RandomState gives the same order for a seed in all versions of NumPy.
            ranges = ranges[np.random.RandomState(seed).permutation(len(ranges))]
        boundaries = np.concatenate(([0], np.cumsum(ranges[:, 1] - ranges[:, 0])))
        target = int(boundaries[-1] * (1 - valid_fraction))
        tolerance = max(MIN_DEVIATION_BYTES, int(boundaries[-1] * MAX_DEVIATION))
        deviations = np.abs(boundaries - target)
        nearest = int(deviations.argmin())
        if not 0 < nearest < len(ranges) and deviations[1:-1].min(initial=tolerance + 1) <= tolerance:
            nearest = 1 if nearest == 0 else len(ranges) - 1
        if 0 < nearest < len(ranges):
            train, valid = ranges[:nearest], ranges[nearest:]
        else:
            index = min(nearest, len(ranges) - 1)
            start, stop = ranges[index]
            cut = self.find_cut(start, stop, int(start + target - boundaries[index]), tolerance)
            train = np.concatenate((ranges[:index], [[start, cut]]))
            valid = np.concatenate(([[cut, stop]], ranges[index + 1 :]))
        return {"train": end_document(self.read(train)), "valid": self.read(valid)}

    def find_cut(self, start: int, stop: int, target: int, tolerance: int) -> int:
        """Return the end of a line, or else of a word, nearest to `target` with text before and after it in a document.

        Of a large text, CHUNK_BYTES before and after `target` are searched.
        """
        first = max(start, target - CHUNK_BYTES)
        text = os.pread(self.file.fileno(), min(stop, target + CHUNK_BYTES) - first, first)
        text = text.replace(DELIMITER, b" " * len(DELIMITER))
        text_start, text_stop = first + len(text) - len(text.lstrip()), first + len(text.rstrip())
        for mark in (b"\n", b" "):
            cuts = [first + match.end() for match in re.finditer(mark, text)]
            cuts = [cut for cut in cuts if text_start < cut < text_stop and abs(cut - target) <= tolerance]
            if cuts:
                return min(cuts, key=lambda cut: abs(cut - target))
        problem = "has no end of a document, line or word near valid_fraction of its bytes"
        raise InputError("the text", problem, "give more text or another fraction, or files under valid")

    def read(self, ranges: np.ndarray) -> Iterator[bytes]:
        """Yield the bytes of ranges (ranges, 2) in order, in blocks; adjacent ranges are read as one."""
        is_first = np.concatenate(([True], ranges[1:, 0] != ranges[:-1, 1]))
        is_last = np.concatenate((is_first[1:], [True]))
        for start, stop in zip(ranges[is_first, 0], ranges[is_last, 1], strict=True):
            for offset in range(start, stop, CHUNK_BYTES):
                yield os.pread(self.file.fileno(), min(CHUNK_BYTES, stop - offset), offset)


def join_blocks(blocks: Iterable[bytes], min_bytes: int) -> Iterator[bytes]:
    """Yield the same bytes in blocks of `min_bytes` or more, since a record is a small one."""
    parts: list[bytes] = []
    size = 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size >= min_bytes:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
