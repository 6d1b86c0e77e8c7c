"""Layouts of the structs that kernels share with their callers. Plain numbers: nothing here imports Numba.

Each family of kernels declares its structs (bpe/structs.py, transformer/structs.py).
"""

from collections import namedtuple
from typing import Any

WORD = 8  # bytes of a field, unless its declaration says otherwise

# Vector loads may read this far beyond the end of a text, so every text buffer is longer by it.
PADDING = 128


def struct(fields: str) -> Any:
    """Byte offsets of a struct's fields, as attributes; `nbytes` is its size.

    A field is an integer of 8 bytes, or of as many as follow its name. Kernels take the offsets for constants:
    `load_int(pair + PAIR.count)`.

    >>> struct("count size:4 room:4 symbols:0")
    Struct(count=0, size=8, room=12, symbols=16, nbytes=16)
    """
    names, offsets = [], [0]
    for declaration in fields.split():
        name, _, size = declaration.partition(":")
        names.append(name)
        offsets.append(offsets[-1] + int(size or WORD))
    return namedtuple("Struct", [*names, "nbytes"])(*offsets)


def round_up(count: int, unit: int) -> int:
    """Round up to a multiple of a unit.

    >>> round_up(64, 64), round_up(65, 64)
    (64, 128)
    """
    return -(-count // unit) * unit


# Float32 numbers of a vector (simd_float32.py).
FLOAT_BYTES = 4
LANES = 16
LANES_BYTES = FLOAT_BYTES * LANES
