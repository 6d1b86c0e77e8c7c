"""Memory that kernels work on: buffers at stable addresses, and the table of buffers that checked kernels consult."""

import contextlib
import ctypes
import mmap
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lmpipe.kernels.runtime.structs import BOUNDS, PADDING, RANGE, WORD

GUARD_BYTES = mmap.PAGESIZE
HUGE_PAGE_BYTES = 1 << 21
MAX_RANGES = 1 << 11

# One table for the process, an array of int64; the loader passes its address to the kernels as lmpipe_bounds. Faulty
# accesses are redirected to the spare memory.
_bounds = (ctypes.c_int64 * ((BOUNDS.nbytes + MAX_RANGES * RANGE.nbytes) // WORD))()
_spare = (ctypes.c_int64 * 64)()
_bounds[BOUNDS.spare // WORD] = ctypes.addressof(_spare)
_bounds[BOUNDS.used // WORD] = BOUNDS.nbytes
_lock = threading.Lock()


def bounds_address() -> int:
    """Return the address of the table of registered buffers."""
    return ctypes.addressof(_bounds)


def pop_fault() -> tuple[int, int] | None:
    """Return address and size of the first access outside every buffer since the last call; None if there was none."""
    if not _bounds[BOUNDS.failures // WORD]:
        return None
    _bounds[BOUNDS.failures // WORD] = 0
    return _bounds[BOUNDS.address // WORD], _bounds[BOUNDS.size // WORD]


def register(start: int, stop: int) -> int:
    """Enter a buffer into the table; returns the offset of its entry."""
    with _lock:
        used = _bounds[BOUNDS.used // WORD]
        entries = range(BOUNDS.nbytes, used, RANGE.nbytes)
        entry = next((entry for entry in entries if not _bounds[(entry + RANGE.stop) // WORD]), used)
        if entry + RANGE.nbytes > ctypes.sizeof(_bounds):
            raise MemoryError(f"more than {MAX_RANGES} kernel buffers at once")
        _bounds[(entry + RANGE.start) // WORD] = start
        _bounds[(entry + RANGE.stop) // WORD] = stop
        _bounds[BOUNDS.used // WORD] = max(used, entry + RANGE.nbytes)
        return entry


def unregister(entry: int) -> None:
    """Remove a buffer from the table, given the offset of its entry."""
    with _lock:
        _bounds[(entry + RANGE.start) // WORD] = _bounds[(entry + RANGE.stop) // WORD] = 0


class Buffer:
    """Zeroed memory of `size` bytes at `address`; the system provides each page when it is first touched.

    A guard page follows, so that no two buffers are neighbours. `huge` asks for pages of 2 MiB, where the system has
    them: for tables that are read at random (counting pre-tokens is 5 to 10 % faster; benchmarks/bpe.py --job train).
    Raises OSError or MemoryError if there is no memory; a failed `grow` leaves the buffer as it was.
    """

    def __init__(self, size: int, huge: bool = False):
        self.size = size
        self._entry: int | None = None
        self._memory = mmap.mmap(-1, size + GUARD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge and size >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._register()

    def _register(self) -> None:
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._entry = register(self.address, self.address + self.size)

    def grow(self, size: int) -> None:
        """Make the buffer longer; its content stays, its address may change.

        Linux moves pages instead of bytes, so that old and new memory never exist together.
        """
        try:
            self._memory.resize(size + GUARD_BYTES)
        except SystemError:  # no mremap on this system
            old = self._memory
            self._memory = mmap.mmap(-1, size + GUARD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._memory[: self.size] = old[: self.size]
            old.close()
        unregister(self._entry)
        self.size = size
        self._register()

    def array(self, dtype: str, count: int, offset: int = 0) -> np.ndarray:
        """Return the memory as an array; drop it before the buffer grows or closes."""
        return np.frombuffer(self._memory, dtype, count, offset)

    def bytes_view(self) -> memoryview:
        """Return the memory as writable bytes; release the view before the buffer grows or closes."""
        return memoryview(self._memory)[: self.size]

    def close(self) -> None:
        """Free the memory, at once or when the last array that uses it is gone."""
        if self._entry is not None:
            unregister(self._entry)
            self._entry = None
        with contextlib.suppress(BufferError):
            self._memory.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the process names of this module are gone, and the memory goes anyway.
        if not is_finalizing() and hasattr(self, "_memory"):
            self.close()

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


@contextlib.contextmanager
def borrowed(*arrays: np.ndarray) -> Iterator[list[int]]:
    """Return the addresses of contiguous arrays, which kernels may use while the block runs."""
    addresses = [array.ctypes.data for array in arrays]
    with borrowed_ranges((start, array.nbytes) for start, array in zip(addresses, arrays, strict=True)):
        yield addresses


@contextlib.contextmanager
def borrowed_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Let kernels use memory, given as addresses and sizes in bytes, while the block runs."""
    entries = [register(start, start + size) for start, size in ranges]
    try:
        yield
    finally:
        for entry in entries:
            unregister(entry)
