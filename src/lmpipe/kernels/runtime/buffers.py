"""Memory that kernels work on: addresses that stay valid, and the table of buffers that checked kernels look into."""

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from lmpipe.kernels.runtime import structs

GUARD = mmap.PAGESIZE
HUGE_PAGE = 1 << 21
PLACES = 1 << 12

# One table for the process: the loader gives it to the kernels as lmpipe_bounds. Spare is where faulty accesses go.
_bounds = (ctypes.c_int64 * PLACES)()
_spare = (ctypes.c_int64 * 64)()
_bounds[structs.BOUNDS_SPARE] = ctypes.addressof(_spare)
_bounds[structs.BOUNDS_USED] = structs.BOUNDS_FIRST
_lock = threading.Lock()


def bounds_address() -> int:
    """The address of the table of registered buffers."""
    return ctypes.addressof(_bounds)


def take_fault() -> tuple[int, int] | None:
    """The address and size of the first access outside of every buffer since the last call; None if there was none."""
    if not _bounds[structs.BOUNDS_FAILURES]:
        return None
    _bounds[structs.BOUNDS_FAILURES] = 0
    return _bounds[structs.BOUNDS_ADDRESS], _bounds[structs.BOUNDS_SIZE]


def register(start: int, stop: int) -> int:
    """Enter a buffer into the table; returns its place there."""
    with _lock:
        used = _bounds[structs.BOUNDS_USED]
        free = (place for place in range(structs.BOUNDS_FIRST, used, 2) if not _bounds[place + 1])
        place = next(free, used)
        if place + 2 > PLACES:
            raise MemoryError(f"expected at most {PLACES // 2} buffers of kernels at once")
        _bounds[place] = start
        _bounds[place + 1] = stop
        _bounds[structs.BOUNDS_USED] = max(used, place + 2)
        return place


def unregister(place: int) -> None:
    """Remove a buffer from the table; its place is used again."""
    with _lock:
        _bounds[place + 1] = _bounds[place] = 0


class Buffer:
    """Zeroed memory of `size` bytes at `address`, which the system provides page by page when it is first touched.

    Behind it lies a page that belongs to no buffer, so that no two of them are neighbours. `huge` asks for pages of
    2 MiB, where the system has them: for tables that are read at random (5 to 10 % faster counting).
    """

    def __init__(self, size: int, huge: bool = False):
        self.size = size
        self._place: int | None = None
        self._memory = mmap.mmap(-1, size + GUARD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if huge and size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._locate()

    def _locate(self) -> None:
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._place = register(self.address, self.address + self.size)

    def grow(self, size: int) -> None:
        """Make it longer; what it holds stays, but its address may change.

        Linux moves pages instead of bytes, so that no moment needs both the old and the new memory.
        """
        unregister(self._place)
        try:
            self._memory.resize(size + GUARD)
        except SystemError:  # no mremap on this system
            old = self._memory
            self._memory = mmap.mmap(-1, size + GUARD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._memory[: self.size] = old[: self.size]
            old.close()
        self.size = size
        self._locate()

    def array(self, dtype: str, count: int, offset: int = 0) -> np.ndarray:
        """The memory as an array; it must be gone before the buffer grows or closes."""
        return np.frombuffer(self._memory, dtype, count, offset)

    def bytes_view(self) -> memoryview:
        """The memory as writable bytes; it must be released before the buffer grows or closes."""
        return memoryview(self._memory)[: self.size]

    def close(self) -> None:
        """Give the memory back to the system, at once or when no array looks at it any more."""
        if self._place is not None:
            unregister(self._place)
            self._place = None
        with contextlib.suppress(BufferError):
            self._memory.close()

    __del__ = close

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def lent(*arrays: np.ndarray) -> Iterator[list[int]]:
    """The addresses of contiguous arrays, which kernels may use while the block runs."""
    addresses = [array.ctypes.data for array in arrays]
    with lent_memory((start, array.nbytes) for start, array in zip(addresses, arrays, strict=True)):
        yield addresses


@contextlib.contextmanager
def lent_memory(parts: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Let kernels use memory, given as addresses and sizes in bytes, while the block runs."""
    places = [register(start, start + size) for start, size in parts]
    try:
        yield
    finally:
        for place in places:
            unregister(place)


def buffer_of(data: bytes) -> Buffer:
    """A buffer that holds some bytes and PADDING zeros behind them."""
    buffer = Buffer(len(data) + structs.PADDING)
    buffer._memory[: len(data)] = data
    return buffer
