"""Loading of compiled kernels: object code from the user's cache folder, without importing Numba.

Loading takes 0.05 s and 40 MB; Numba's own cache takes 1 s and 130 MB. A module is compiled once for each source,
machine and Python, under a lock, however many processes start together.
"""

import ctypes
import hashlib
import json
import os
import platform
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import llvmlite.binding as llvm

from lmpipe.errors import InputError
from lmpipe.io.progress import log
from lmpipe.kernels.runtime.disk_cache import cached, log_uncached

KERNELS = Path(__file__).parent.parent
PACKAGE = "lmpipe.kernels."
WIDE = "LMPIPE_WIDE"  # tells the modules of kernels (intrinsics.py) if ids have 32 bits


@cache
def load(module: str, wide: bool = False) -> SimpleNamespace:
    """Return the kernels of a module (`lmpipe.kernels.FAMILY.NAME`) as functions of ints; compile it if necessary.

    Callers name the module in a constant KERNEL_MODULE, which the digests of code follow like an import. `wide` asks
    for ids of 32 bits, for vocabularies of more than 65,536 tokens. A function from object code has an `address`.
    """
    name = module.removeprefix(PACKAGE)
    try:
        code = cached(name, f"{code_key(module)} {wide}", lambda: compile_in_subprocess(module, wide))
        functions = link_objects(json.loads(code))
    except (OSError, subprocess.SubprocessError) as error:
        log_uncached(str(error))
        functions = compile_in_process(module, wide)
    return SimpleNamespace(**functions)


def code_key(module: str) -> str:
    """Return everything that a module's object code depends on: runtime and family sources, versions, processor."""
    digest = hashlib.sha256(module.encode())
    family = module.removeprefix(PACKAGE).split(".")[0]
    for path in (path for package in ("runtime", family) for path in sorted((KERNELS / package).glob("*.py"))):
        digest.update(path.read_bytes())
    packages = [f"{name} {version(name)}" for name in ("numba", "llvmlite")]
    features = llvm.get_host_cpu_features().flatten()
    return " ".join(
        [digest.hexdigest(), *packages, sys.version, platform.machine(), llvm.get_host_cpu_name(), features]
    )


def compile_in_subprocess(module: str, wide: bool) -> bytes:
    """Compile a module in a separate process, which frees Numba's memory when it ends."""
    log(f"lmpipe: compiling kernels for this machine, once: {module.removeprefix(PACKAGE)}, about 5 s")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    path = os.pathsep.join(filter(None, [str(KERNELS.parent.parent), inherited.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "lmpipe.kernels.runtime.compile", module]
    environment = {**inherited, WIDE: str(int(wide)), "PYTHONPATH": path}
    # A process whose standard error is closed has nowhere to send the compiler's.
    stderr = None if sys.stderr else subprocess.DEVNULL
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, check=True).stdout


# Object code and callbacks live as long as the process.
_kept_alive: list[object] = []


def link_objects(entries: list[tuple[str, str, int, str]]) -> dict[str, Callable[..., int]]:
    """Link object code, given as (name, symbol, number of arguments, code in base64), into functions by name."""
    engine = create_engine("")
    for _, _, _, code in entries:
        engine.add_object_file(llvm.ObjectFileRef.from_data(b64decode(code)))
    engine.finalize_object()
    return {
        name: wrap_function(engine.get_function_address(symbol), arguments) for name, symbol, arguments, _ in entries
    }


def link_llvm_ir(text: str, name: str) -> int:
    """Return the address of a function that is given as LLVM IR."""
    engine = create_engine(text)
    engine.finalize_object()
    return engine.get_function_address(name)


def create_engine(text: str) -> llvm.ExecutionEngine:
    """Create a JIT engine for LLVM IR that lives as long as the process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    _kept_alive.append(engine)
    return engine


def wrap_function(address: int, arguments: int) -> Callable[..., int]:
    """Return a function of ints for one that writes its result to an address; it runs without Python's lock."""
    pointers, numbers = [ctypes.c_void_p] * 2, [ctypes.c_int64] * arguments
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *numbers)(address)

    def call(*args: int) -> int:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        function(ctypes.byref(result), ctypes.byref(error), *args)
        return result.value

    call.address = address
    return call


def compile_in_process(module: str, wide: bool) -> dict[str, Callable[..., int]]:
    """Compile a module in this process, by Numba's public API: slower, but it needs no object code.

    Raises InputError for a second width of ids: the modules of kernels read theirs when they are imported.
    """
    from lmpipe.kernels.runtime import compile

    os.environ[WIDE] = str(int(wide))
    from lmpipe.kernels.runtime import intrinsics

    if wide != (intrinsics.ID_BYTES == 4):
        problem = "cannot be compiled for ids of 16 and of 32 bits in one process"
        raise InputError("kernels", problem, "use a process for each, or set LMPIPE_CACHE to a writable folder")
    callbacks = compile.jit_callbacks(module)
    _kept_alive.append(callbacks)
    return {
        name: ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(callback.address)
        for name, (callback, arguments) in callbacks.items()
    }
