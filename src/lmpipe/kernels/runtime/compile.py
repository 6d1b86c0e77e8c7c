"""Compilation of kernels with Numba; loader.py runs it in a separate process, so that no other needs Numba."""

import inspect
import json
import os
import sys
from base64 import b64encode
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm


def kernels(module: str) -> Iterator[tuple[str, Any, int]]:
    """Yield name, Numba function and number of arguments of a module's kernels; arguments and results are int64."""
    for kernel in import_module(module).KERNELS:
        yield kernel.py_func.__name__, kernel, len(inspect.signature(kernel.py_func).parameters)


def object_code(kernel: Any, arguments: int) -> tuple[str, bytes]:
    """Return a kernel's symbol and object code, which calls nothing outside itself.

    The symbol is a C function (int64 *result, void **error, int64...) that returns 0. Raises AttributeError if this
    version of Numba keeps the code elsewhere, ValueError if it cannot be loaded alone.
    """
    from numba import types

    signature = (types.int64,) * arguments
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    module = compiled.library._final_module
    declared = [function.name for function in module.functions if function.is_declaration]
    if external := [name for name in declared if not name.startswith("llvm.") and name not in ("memcpy", "memset")]:
        raise ValueError(f"kernel {kernel.py_func.__name__} calls functions outside itself: {external}")
    return compiled.fndesc.llvm_func_name, compiled.library._codegen._tm.emit_object(module)


def serialize(module: str) -> bytes:
    """Compile a module; return JSON: for each kernel its name, symbol, number of arguments and code in base64."""
    entries = []
    for name, kernel, arguments in kernels(module):
        symbol, code = object_code(kernel, arguments)
        entries.append([name, symbol, arguments, b64encode(code).decode()])
    return json.dumps(entries).encode()


def jit_callbacks(module: str) -> dict[str, tuple[Any, int]]:
    """Compile a module's kernels as Numba `cfunc`s in this process; each comes with its number of arguments."""
    from numba import cfunc, types

    return {
        name: (cfunc(types.int64(*[types.int64] * arguments), error_model="numpy")(kernel.py_func), arguments)
        for name, kernel, arguments in kernels(module)
    }


def prefer_512bit_vectors() -> None:
    """Let LLVM use 512-bit vectors; it prefers 256 bits by default, to keep some processors from down-clocking.

    Kernels that only compute are faster all the same. Call it before Numba is imported.
    """
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        os.environ["NUMBA_CPU_FEATURES"] = f"{features.flatten()},-prefer-256-bit"


if __name__ == "__main__":
    if sys.argv[1].startswith("lmpipe.kernels.transformer."):
        prefer_512bit_vectors()
    # Standard output gets nothing but the code.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        output.write(serialize(sys.argv[1]))
