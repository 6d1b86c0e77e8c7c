"""Compiling the kernels with Numba; load.py runs this in a process of its own, so that no other needs Numba."""

import inspect
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm

from lmpipe.kernels.runtime.buffers import bounds_address

MODULES = ("bpe.count", "bpe.merge", "bpe.encode")
WIDE_MODULES = ("bpe.merge", "bpe.encode")  # those in which the width of an id counts
FLOAT_MODULES = ("transformer.infer", "transformer.train")


def kernels(modules: Iterable[str]) -> Iterator[tuple[str, Any, int]]:
    """Name, Numba function and number of arguments of every kernel; all arguments and results are int64."""
    llvm.add_symbol("lmpipe_bounds", bounds_address())
    for module in modules:
        for kernel in import_module(f"lmpipe.kernels.{module}").KERNELS:
            yield kernel.py_func.__name__, kernel, len(inspect.signature(kernel.py_func).parameters)


def object_code(kernel: Any, arguments: int) -> tuple[str, bytes]:
    """A kernel's symbol and object code, which calls nothing outside itself.

    The symbol is a C function (int64 *result, void **error, int64...) that returns 0. Raises AttributeError where this
    version of Numba keeps the code elsewhere, ValueError where it would not load alone.
    """
    from numba import types

    signature = (types.int64,) * arguments
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    module = compiled.library._final_module
    outside = [function.name for function in module.functions if function.is_declaration]
    if missing := [name for name in outside if not name.startswith("llvm.") and name not in ("memcpy", "memset")]:
        raise ValueError(f"kernel {kernel.py_func.__name__}: expected code that calls nothing, found {missing}")
    return compiled.fndesc.llvm_func_name, compiled.library._codegen._tm.emit_object(module)


def packed(module: str) -> bytes:
    """A module's kernels: the length of a JSON list of [name, symbol, arguments, size], the list, the object codes."""
    entries, codes = [], []
    for name, kernel, arguments in kernels([module]):
        symbol, code = object_code(kernel, arguments)
        entries.append([name, symbol, arguments, len(code)])
        codes.append(code)
    header = json.dumps(entries).encode()
    return struct.pack("<I", len(header)) + header + b"".join(codes)


def unpacked(data: bytes) -> list[tuple[str, str, int, bytes]]:
    """What `packed` packed, of several modules together: name, symbol, number of arguments and code of every kernel."""
    entries, place = [], 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        header, place = data[place + 4 : place + 4 + size], place + 4 + size
        for name, symbol, arguments, length in json.loads(header):
            entries.append((name, symbol, arguments, data[place : place + length]))
            place += length
    return entries


def callbacks(modules: Iterable[str]) -> dict[str, tuple[Any, int]]:
    """Every kernel compiled in this process by Numba's public means: a `cfunc` and its number of arguments, by name."""
    from numba import cfunc, types

    return {
        name: (cfunc(types.int64(*[types.int64] * arguments), error_model="numpy")(kernel.py_func), arguments)
        for name, kernel, arguments in kernels(modules)
    }


def compute_with_whole_vectors() -> None:
    """Let LLVM use AVX-512's vectors whole: by itself it halves them, lest the processor lower its frequency.

    Kernels that do nothing but compute are faster all the same. To be called before Numba is imported.
    """
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        os.environ["NUMBA_CPU_FEATURES"] = f"{features.flatten()},-prefer-256-bit"


if __name__ == "__main__":
    if sys.argv[1] in FLOAT_MODULES:
        compute_with_whole_vectors()
    # Only the code goes to the standard output, whatever else is printed.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        output.write(packed(sys.argv[1]))
