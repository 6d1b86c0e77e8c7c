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
from lmpipe.io.files import CHUNK_BYTES, disk_error
from lmpipe.tokenizer.chunking import find_forward

DOCUMENT_END = re.compile(re.escape(DELIMITER) + rb"\r?\n?")
LINE_END_BYTES = 2
# A document is cut no farther from the fraction than this share of all bytes, or this number of them.
MAX_DEVIATION, MIN_DEVIATION_BYTES = 0.01, 100


class JoinedText:
    """Documents of a text in a temporary file in `folder`, in order; a blank one is part of the one before it."""

    def __init__(self, blocks: Iterable[bytes], folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self.ends = array("Q")
        offset, has_text, rest = 0, False, b""  # of the bytes in `rest`, in which ends are still to be found
        for block in chain(join_blocks(blocks), [None]):
            self._append(block or b"", folder)
            rest += block or b""
            start = 0
            for match in DOCUMENT_END.finditer(rest):
                if match.end() == len(rest) and block is not None:
                    break  # a line end may follow in the next block
                has_text = has_text or bool(rest[start : match.start()].strip())
                start = match.end()
                if has_text or not self.ends:
                    self.ends.append(offset + start)
                else:
                    self.ends[-1] = offset + start
                has_text = False
            searched = max(start, len(rest) - len(DELIMITER) - LINE_END_BYTES)
            has_text = has_text or bool(rest[start:searched].strip())
            offset, rest = offset + searched, rest[searched:]

    def _append(self, block: bytes, folder: Path) -> None:
        left = memoryview(block)
        while left:
            try:
                left = left[self.file.write(left) :]
            except OSError as error:
                raise disk_error(error, folder / "text to split", self.file.tell(), None) from None

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
        """Return the end of a line, or else of a word, near `target` with text before and after it in a document."""
        file = self.file.fileno()
        for mark in (b"\n", b" "):
            cuts = []
            for marks in (find_backward(file, mark, target), find_forward(file, mark, target)):
                for cut in (mark_start + len(mark) for mark_start in marks):
                    if not start < cut < stop or abs(cut - target) > tolerance:
                        break
                    before, after = max(start, cut - CHUNK_BYTES), min(stop, cut + CHUNK_BYTES)
                    sides = os.pread(file, cut - before, before), os.pread(file, after - cut, cut)
                    if all(side.replace(DELIMITER, b"").strip() for side in sides):
                        cuts.append(cut)
                        break
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


def join_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in blocks of CHUNK_BYTES or more, since a record is a small one."""
    parts: list[bytes] = []
    size = 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size >= CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def find_backward(file: int, mark: bytes, offset: int) -> Iterator[int]:
    """Yield the starts of marks in a file (a descriptor) before `offset`, last first; the first may end after it."""
    while offset > 0:
        start = max(0, offset - CHUNK_BYTES)
        block = os.pread(file, offset + len(mark) - 1 - start, start)
        index = block.rfind(mark)
        while index >= 0:
            yield start + index
            index = block.rfind(mark, 0, index + len(mark) - 1)
        offset = start
