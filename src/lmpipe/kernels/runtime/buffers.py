"""Memory that kernels work on, at stable addresses."""

import contextlib
import ctypes
import mmap

import numpy as np

from lmpipe.kernels.runtime.structs import PADDING, WORD

GUARD_BYTES = mmap.PAGESIZE
HUGE_PAGE_BYTES = 1 << 21


class Buffer:
    """Zeroed memory of `size` bytes at `address`; the system provides each page when it is first touched.

    A guard page follows, so that no two buffers are neighbours. `huge` asks for pages of 2 MiB, where the system has
    them: for tables that are read at random (counting pre-tokens is 5 to 10 % faster; benchmarks/bpe.py --job train).
    Raises OSError or MemoryError if there is no memory; a failed `grow` leaves the buffer as it was.
    """

    def __init__(self, size: int, huge: bool = False):
        self._use(mmap.mmap(-1, size + GUARD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), size)
        if huge and size >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)

    def _use(self, memory: mmap.mmap, size: int) -> None:
        self._memory, self.size = memory, size
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def grow(self, size: int) -> None:
        """Make the buffer longer; its content stays, its address may change.

        Linux moves pages instead of bytes, so that old and new memory never exist together.
        """
        memory = self._memory
        try:
            memory.resize(size + GUARD_BYTES)
        except SystemError:  # no mremap on this system
            memory = mmap.mmap(-1, size + GUARD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory[: self.size] = self._memory[: self.size]
            self._memory.close()
        self._use(memory, size)

    def array(self, dtype: str, count: int, offset: int = 0) -> np.ndarray:
        """Return the memory as an array; drop it before the buffer grows or closes."""
        return np.frombuffer(self._memory, dtype, count, offset)

    def bytes_view(self) -> memoryview:
        """Return the memory as writable bytes; release the view before the buffer grows or closes."""
        return memoryview(self._memory)[: self.size]

    def close(self) -> None:
        """Free the memory, at once or when the last array that uses it is gone."""
        with contextlib.suppress(BufferError):
            self._memory.close()

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class StructBuffer(Buffer):
    """Fields of 8 bytes shared with kernels, all zero at first; indexed by byte offset (structs.py)."""

    def __init__(self, nbytes: int):
        super().__init__(nbytes)
        self._words = (ctypes.c_int64 * (nbytes // WORD)).from_address(self.address)

    def __getitem__(self, offset: int) -> int:
        return self._words[offset // WORD]

    def __setitem__(self, offset: int, value: int) -> None:
        self._words[offset // WORD] = value


def buffer_of(data: bytes) -> Buffer:
    """Return a buffer that holds some bytes, followed by PADDING zeros."""
    buffer = Buffer(len(data) + PADDING)
    buffer._memory[: len(data)] = data
    return buffer


def addresses_of(*arrays: np.ndarray) -> list[int]:
    """Return the addresses of contiguous arrays for kernels; the arrays must outlive their use."""
    return [array.ctypes.data for array in arrays]
