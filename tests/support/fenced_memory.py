"""Memory between pages that no one may touch: a compiled kernel that leaves it ends the process (as Electric Fence)."""

import ctypes
import mmap

from torch import Tensor

from lmpipe.kernels.runtime.buffers import Buffer
from lmpipe.kernels.runtime.loader import load
from lmpipe.kernels.runtime.openmp import parallel_for
from lmpipe.kernels.runtime.structs import round_up
from lmpipe.model.functional import KERNEL_MODULE

PAGE, PROT_NONE = mmap.PAGESIZE, 0
mprotect = ctypes.CDLL(None, use_errno=True).mprotect
mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class FencedBuffer(Buffer):
    """A buffer whose last byte is followed by the fence, or with `at_end` false its first one preceded by it."""

    at_end = True

    def __init__(self, size: int, huge: bool = False):
        pages = round_up(size, PAGE)
        super().__init__(pages + PAGE)  # and a page more, which follows
        self.size = size
        for fence in (self.address, self.address + PAGE + pages):
            assert mprotect(fence, PAGE, PROT_NONE) == 0
        self.offset = PAGE + (pages - size if self.at_end else 0)
        self.address += self.offset

    def array(self, dtype, count, offset=0):
        """Return the memory between the fences as an array."""
        return super().array(dtype, count, self.offset + offset)


class FencedAtStart(FencedBuffer):
    """A buffer whose first byte is preceded by the fence."""

    at_end = False


def run_fenced(buffer: type[FencedBuffer]):
    """Return lmpipe.model.functional.run_kernel, but for kernels that work on copies of the tensors between fences."""

    def run_kernel(name: str, units: int, unit_elements: int, *args: Tensor | int | None) -> None:
        copies = [(arg, buffer(arg.nbytes)) for arg in args if isinstance(arg, Tensor)]
        for tensor, copy in copies:
            ctypes.memmove(copy.address, tensor.data_ptr(), copy.size)
        addresses = iter([copy.address for _, copy in copies])
        numbers = [next(addresses) if isinstance(arg, Tensor) else arg or 0 for arg in args]
        parallel_for(getattr(load(KERNEL_MODULE), name), units, 1, *numbers)
        for tensor, copy in copies:
            ctypes.memmove(tensor.data_ptr(), copy.address, copy.size)

    return run_kernel
