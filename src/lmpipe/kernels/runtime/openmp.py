"""Kernels in the threads of torch's OpenMP library.

torch computes in the threads of an OpenMP library (libgomp, libomp or libiomp5). Between two parallel regions these
spin for a while, so threads of any other pool would compete with them for the cores. `parallel_for` therefore runs
kernels in the same threads, through GOMP_parallel, the entry point that compilers call for `#pragma omp parallel` and
that all three libraries have. OpenMP calls `void f(void *)` in each thread; the trampoline below, compiled from LLVM
IR, asks for the thread's number and calls the kernel with that thread's share of the units. With two threads a wide
model trains 1.6 times as fast as the fastest peer (python -m benchmarks.training --shape wide). Without such a library
one thread computes all units; results are the same.
"""

import ctypes
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lmpipe.kernels.runtime.loader import link_llvm_ir

# File names of GNU's, LLVM's and Intel's OpenMP libraries.
OPENMP_LIBRARY = re.compile(r"lib(gomp|omp|iomp5)\b.*\.so.*")
TORCH_FOLDERS = ("/torch/lib", "/torch.libs")
# Calls a kernel for one thread's share of the units. `work` holds the addresses of the kernel and of two functions of
# OpenMP, the number of units, and the address of the kernel's arguments.
TRAMPOLINE = """
%work_type = type { i32 (i64*, i8**, i64, i64, i64, i64)*, i32 ()*, i32 ()*, i64, i64 }
define void @trampoline(%work_type* %address) {
  %work = load %work_type, %work_type* %address
  %kernel = extractvalue %work_type %work, 0
  %get_thread = extractvalue %work_type %work, 1
  %get_count = extractvalue %work_type %work, 2
  %units = extractvalue %work_type %work, 3
  %arguments = extractvalue %work_type %work, 4
  %thread32 = call i32 %get_thread()
  %count32 = call i32 %get_count()
  %thread = sext i32 %thread32 to i64
  %count = sext i32 %count32 to i64
  %next = add i64 %thread, 1
  %first_part = mul i64 %units, %thread
  %last_part = mul i64 %units, %next
  %first = sdiv i64 %first_part, %count
  %last = sdiv i64 %last_part, %count
  %result = alloca i64
  %error = alloca i8*
  call i32 %kernel(i64* %result, i8** %error, i64 %arguments, i64 %first, i64 %last, i64 %thread)
  ret void
}
"""


class OpenMP(NamedTuple):
    """Entry points of an OpenMP library.

    `parallel(function, argument, threads, 0)` calls function(argument) in each thread; `get_thread_num` and
    `get_num_threads` are addresses of functions.
    """

    parallel: Callable[[int, ctypes.Array, int, int], None]
    get_thread_num: int
    get_num_threads: int


@cache
def openmp() -> OpenMP | None:
    """Return the OpenMP library that torch has loaded into this process; None if there is none."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    files = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/" in line}
    libraries = [file for file in files if OPENMP_LIBRARY.fullmatch(Path(file).name)]
    # Other packages may have loaded their own library; torch's comes first.
    for file in sorted(libraries, key=lambda file: (not str(Path(file).parent).endswith(TORCH_FOLDERS), file)):
        try:
            library = ctypes.CDLL(file)
            parallel = library.GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        functions = (library.omp_get_thread_num, library.omp_get_num_threads)
        return OpenMP(parallel, *(ctypes.cast(function, ctypes.c_void_p).value for function in functions))
    return None


@cache
def trampoline() -> int:
    """Return the address of the compiled trampoline."""
    return link_llvm_ir(TRAMPOLINE, "trampoline")


def parallel_for(kernel: Callable[..., int], units: int, threads: int, *arguments: int) -> None:
    """Run a kernel over units of work in at most `threads` threads.

    The kernel takes the address of the arguments, the first unit, the one after the last, and the number of the thread.
    """
    values = (ctypes.c_int64 * len(arguments))(*arguments)
    library, address = openmp() if min(threads, units) > 1 else None, getattr(kernel, "address", None)
    if library is None or address is None:
        kernel(ctypes.addressof(values), 0, units, 0)
    else:
        work = (address, library.get_thread_num, library.get_num_threads, units, ctypes.addressof(values))
        library.parallel(trampoline(), (ctypes.c_int64 * len(work))(*work), min(threads, units), 0)
