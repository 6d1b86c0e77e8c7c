"""Running the kernels of training in the threads that torch computes in.

torch's threads are those of an OpenMP library, which waits busily between two calls of it: threads of our own beside
them would have to share the cores. So kernels run in the same ones, by the library's own entry for compilers. Where
there is no such library, one thread does all the work; results are the same.
"""

import ctypes
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmpipe.kernels.runtime.buffers import lent_memory
from lmpipe.kernels.runtime.loader import is_checked, linked_text, training_kernels

if TYPE_CHECKING:  # loaded by name: so that it counts as code that this module runs (provenance.code_digest)
    from lmpipe.kernels.transformer import train  # noqa: F401

# What GNU's, LLVM's and Intel's OpenMP libraries are called. All have GNU's entries.
OPENMP = re.compile(r"lib(gomp|omp|iomp5)\b.*\.so.*")
TORCH_FOLDERS = ("/torch/lib", "/torch.libs")  # where torch's package has its libraries
# Calls a kernel for one thread's share of the units. `work` holds its address and those of OpenMP's functions.
SHARE = """
define i64 @field(i64* %work, i64 %number) alwaysinline {
  %place = getelementptr i64, i64* %work, i64 %number
  %value = load i64, i64* %place
  ret i64 %value
}
define void @share(i64* %work) {
  %kernel_place = call i64 @field(i64* %work, i64 0)
  %number_place = call i64 @field(i64* %work, i64 1)
  %count_place = call i64 @field(i64* %work, i64 2)
  %units = call i64 @field(i64* %work, i64 3)
  %arguments = call i64 @field(i64* %work, i64 4)
  %kernel = inttoptr i64 %kernel_place to i32 (i64*, i8**, i64, i64, i64, i64)*
  %get_number = inttoptr i64 %number_place to i32 ()*
  %get_count = inttoptr i64 %count_place to i32 ()*
  %number32 = call i32 %get_number()
  %count32 = call i32 %get_count()
  %number = sext i32 %number32 to i64
  %count = sext i32 %count32 to i64
  %next = add i64 %number, 1
  %first_part = mul i64 %units, %number
  %last_part = mul i64 %units, %next
  %first = sdiv i64 %first_part, %count
  %last = sdiv i64 %last_part, %count
  %result = alloca i64
  %error = alloca i8*
  call i32 %kernel(i64* %result, i8** %error, i64 %arguments, i64 %first, i64 %last, i64 %number)
  ret void
}
"""


class OpenMP(NamedTuple):
    """The entries of torch's OpenMP library: what runs a function in several threads, and the addresses of two others.

    `parallel(function, argument, threads, 0)` calls function(argument) in each thread.
    """

    parallel: Callable[[int, ctypes.Array, int, int], None]
    thread_number: int
    thread_count: int


@cache
def openmp() -> OpenMP | None:
    """The library that torch has loaded into this process, None where none is found."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    files = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/" in line}
    found = [file for file in files if OPENMP.fullmatch(Path(file).name)]
    # Other packages may have brought one of their own; torch's is the one that its threads wait in.
    for file in sorted(found, key=lambda file: (not str(Path(file).parent).endswith(TORCH_FOLDERS), file)):
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
def share() -> int:
    """The address of the compiled function that calls a kernel for one thread's share."""
    return linked_text(SHARE, "share")


def run(name: str, units: int, threads: int, *arguments: int | tuple[int, int]) -> None:
    """Let a kernel do so many units of work in at most so many threads.

    Its arguments are numbers, and memory: address and size in bytes.
    """
    kernel = getattr(training_kernels(), name)
    addresses = [one if isinstance(one, int) else one[0] for one in arguments]
    given = (ctypes.c_int64 * len(arguments))(*addresses)
    if is_checked():
        used = [one for one in arguments if not isinstance(one, int)]
        with lent_memory([(ctypes.addressof(given), ctypes.sizeof(given)), *used]):
            kernel(ctypes.addressof(given), 0, units, 0)
        return
    library, address = openmp() if min(threads, units) > 1 else None, getattr(kernel, "address", None)
    if library is None or address is None:
        kernel(ctypes.addressof(given), 0, units, 0)
    else:
        work = (address, library.thread_number, library.thread_count, units, ctypes.addressof(given))
        library.parallel(share(), (ctypes.c_int64 * len(work))(*work), min(threads, units), 0)
