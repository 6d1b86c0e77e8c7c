"""BlockScan: the pass over a block of text, with the classes of characters and the special tokens that it reads."""

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version

import numpy as np

from lmpipe.kernels.bpe.structs import BATCH, BLOCK, DIGIT, KEY, LETTER, SPECIAL, SPECIALS, WHITE
from lmpipe.kernels.runtime.buffers import Buffer, StructBuffer, buffer_of
from lmpipe.kernels.runtime.disk_cache import cached
from lmpipe.kernels.runtime.structs import WORD


@cache
def class_table() -> bytes:
    """Return the class of every code point (LETTER, DIGIT, WHITE or OTHER, a byte each); computing it takes 0.3 s."""
    return cached("classes", version("regex"), make_class_table)


def make_class_table() -> bytes:
    """Ask the regex package for the class of every code point; surrogates, which no text contains, are punctuation."""
    import regex

    characters = np.arange(sys.maxunicode + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = bytearray(len(characters))
    for kind, pattern in ((LETTER, r"\p{L}+"), (DIGIT, r"\p{N}+"), (WHITE, r"\s+")):
        for run in regex.finditer(pattern, characters):
            table[run.start() : run.end()] = bytes([kind]) * (run.end() - run.start())
    return bytes(table)


class SpecialTokenTable:
    """The special tokens in the form that find_special_token reads: SPECIALS at `address`, and the texts."""

    def __init__(self, specials: Sequence[bytes]):
        self.texts = buffer_of(b"".join(specials))
        first_bytes = sorted({special[0] for special in specials})
        addresses = np.cumsum([self.texts.address, *map(len, specials)]).tolist()
        longest_first = sorted(range(len(specials)), key=lambda index: -len(specials[index]))
        size = SPECIALS.nbytes + WORD * len(first_bytes) + SPECIAL.nbytes * len(specials)
        self.table = StructBuffer(size)
        self.table[SPECIALS.first_bytes], self.table[SPECIALS.tokens] = len(first_bytes), len(specials)
        for offset, first_byte in enumerate(first_bytes):
            self.table[SPECIALS.nbytes + WORD * offset] = first_byte
        entry = SPECIALS.nbytes + WORD * len(first_bytes)
        for index in longest_first:
            self.table[entry + SPECIAL.address] = addresses[index]
            self.table[entry + SPECIAL.size] = len(specials[index])
            self.table[entry + SPECIAL.index] = index
            entry += SPECIAL.nbytes
        self.address = self.table.address


class BlockScan:
    """State and memory of a pass over a block of text: starts of pre-tokens, keys."""

    STARTS = 1 << 12

    def __init__(self, classes: Buffer, specials: SpecialTokenTable):
        self.state = StructBuffer(BLOCK.nbytes)
        self.starts = Buffer(4 * (self.STARTS + 1))
        self.keys = Buffer(KEY.nbytes * BATCH)
        self.classes, self.specials = classes, specials

    def start(self, address: int, size: int, table: int) -> None:
        """Start with a text of `size` bytes at an address, followed by PADDING readable bytes.

        `table` is the address of a TABLE, if the block is counted, or a WORK, if it is encoded.
        """
        state = self.state
        ctypes.memset(state.address, 0, state.size)
        state[BLOCK.base], state[BLOCK.stop], state[BLOCK.table] = address, size, table
        state[BLOCK.classes], state[BLOCK.specials] = self.classes.address, self.specials.address
        state[BLOCK.starts], state[BLOCK.starts_room] = self.starts.address, self.STARTS
        state[BLOCK.keys] = self.keys.address
