"""Loading the compiled kernels: from object code in the user's cache folder, without importing Numba.

That takes 0.05 s and 40 MB, where Numba's own cache takes 1 s and 130 MB. The code is compiled when there is none for
this source, machine and Python yet: once, under a lock, however many processes start together.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import llvmlite.binding as llvm

from lmpipe.io.files import atomic_write
from lmpipe.kernels.runtime import buffers, structs

KERNELS = Path(__file__).parent.parent
SOURCES = (
    "runtime/compile",
    "runtime/structs",
    "runtime/intrinsics",
    "runtime/simd_float32",
    "bpe/pretokenize",
    "bpe/count",
    "bpe/merge",
    "bpe/encode",
    "transformer/structs",
    "transformer/infer",
    "transformer/train",
)
MODEL_MODULES, TRAINING_MODULES = ("transformer.infer",), ("transformer.train",)
CHECKSUM_BYTES = 32


def is_checked() -> bool:
    """Whether the environment asks for kernels that look every address up (LMPIPE_CHECK)."""
    return os.environ.get("LMPIPE_CHECK") == "1"


def kernels(wide: bool = False) -> SimpleNamespace:
    """The kernels in the variant that the environment asks for (LMPIPE_SCALAR, LMPIPE_CHECK), as functions of ints.

    `wide` asks for those of merging and encoding with ids of 32 bits, for more than 65,536 tokens.
    """
    return load(os.environ.get("LMPIPE_SCALAR") == "1", is_checked(), wide)


def model_kernels() -> SimpleNamespace:
    """The kernels that compute a model, as functions of ints; they are compiled apart, since few commands need them."""
    return load(False, is_checked(), modules=MODEL_MODULES)


@cache
def training_kernels() -> SimpleNamespace:
    """The kernels of a model's layers in training; those from object code have an `address`."""
    return load(False, is_checked(), modules=TRAINING_MODULES)


@cache
def load(scalar: bool, checked: bool, wide: bool = False, modules: Sequence[str] = ()) -> SimpleNamespace:
    """The kernels of one variant, the tokenizer's where no modules are named; compiles them where that was not done."""
    from lmpipe.kernels.runtime import compile

    llvm.add_symbol("lmpipe_bounds", buffers.bounds_address())
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    options = {"LMPIPE_SCALAR": scalar, "LMPIPE_CHECK": checked, "LMPIPE_WIDE": wide}
    variant = {name: str(int(value)) for name, value in options.items()}
    modules = modules or (compile.WIDE_MODULES if wide else compile.MODULES)
    try:
        data = cached("kernels", f"{code_key()} {variant} {modules}", lambda: compile_apart(variant, modules))
        functions = linked(compile.unpacked(data))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"lmpipe: the kernels are compiled for this process alone ({error})", file=sys.stderr, flush=True)
        functions = compiled_here(variant, modules)
    if checked:
        functions = {name: with_fault_check(name, function) for name, function in functions.items()}
    return SimpleNamespace(**functions)


def code_key() -> str:
    """All that object code depends on."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((KERNELS / f"{name}.py").read_bytes())
    packages = [f"{name} {version(name)}" for name in ("numba", "llvmlite")]
    features = llvm.get_host_cpu_features().flatten()
    return " ".join(
        [digest.hexdigest(), *packages, sys.version, platform.machine(), llvm.get_host_cpu_name(), features]
    )


def compile_apart(variant: dict[str, str], modules: Sequence[str]) -> bytes:
    """Compile the kernels of each module in a process of its own, side by side; their memory goes with them."""
    print("lmpipe: compiling kernels for this machine, once: about 10 s", file=sys.stderr, flush=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    path = os.pathsep.join(filter(None, [str(KERNELS.parent.parent), kept.get("PYTHONPATH")]))
    environment = {**kept, **variant, "PYTHONPATH": path}

    def compiled(module: str) -> bytes:
        command = [sys.executable, "-P", "-m", "lmpipe.kernels.runtime.compile", module]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout

    with ThreadPoolExecutor(len(modules)) as pool:
        return b"".join(pool.map(compiled, modules))


@contextlib.contextmanager
def environment_with(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Object code and callbacks live as long as the process.
_kept: list[object] = []


def linked(entries: list[tuple[str, str, int, bytes]]) -> dict[str, Callable[..., int]]:
    """The functions of object code: name, symbol, number of arguments and code of each."""
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for _, _, _, code in entries:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _kept.append(engine)
    return {
        name: by_reference(engine.get_function_address(symbol), arguments) for name, symbol, arguments, _ in entries
    }


def linked_text(text: str, name: str) -> int:
    """The address of a function that is given as LLVM's text."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), machine)
    engine.finalize_object()
    _kept.append(engine)
    return engine.get_function_address(name)


def by_reference(address: int, arguments: int) -> Callable[..., int]:
    """A function of ints from one that writes its result to an address; other threads run while it does."""
    pointers, numbers = [ctypes.c_void_p] * 2, [ctypes.c_int64] * arguments
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *numbers)(address)

    def call(*given: int) -> int:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        function(ctypes.byref(result), ctypes.byref(error), *given)
        return result.value

    call.address = address
    return call


def compiled_here(variant: dict[str, str], modules: Sequence[str]) -> dict[str, Callable[..., int]]:
    """The functions compiled in this process."""
    from lmpipe.kernels.runtime import compile

    with environment_with(variant):
        callbacks = compile.callbacks(modules)
    _kept.append(callbacks)
    return {
        name: ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * arguments)(callback.address)
        for name, (callback, arguments) in callbacks.items()
    }


def with_fault_check(name: str, function: Callable[..., int]) -> Callable[..., int]:
    """A checked kernel that raises MemoryError after a call that left its buffers."""

    def call(*given: int) -> int:
        result = function(*given)
        if fault := buffers.take_fault():
            address, size = fault
            raise MemoryError(f"kernel {name}: {size} bytes at {address:#x} belong to no buffer")
        return result

    return call


def class_table() -> bytes:
    """The class (structs.LETTER and so on) of every code point, as the regex package tells it; 0.3 s when it is new."""
    return cached("classes", version("regex"), make_class_table)


def make_class_table() -> bytes:
    """Ask the regex package for the class of every code point; surrogates, which no text has, are punctuation."""
    import regex

    characters = "".join(map(chr, range(sys.maxunicode + 1)))
    table = bytearray(len(characters))
    for kind, pattern in ((structs.LETTER, r"\p{L}+"), (structs.DIGIT, r"\p{N}+"), (structs.WHITE, r"\s+")):
        for run in regex.finditer(pattern, characters):
            table[run.start() : run.end()] = bytes([kind]) * (run.end() - run.start())
    return bytes(table)


def cached(name: str, key: str, make: Callable[[], bytes]) -> bytes:
    """What `make` makes, kept in the cache folder for the next process; made again where the file is damaged."""
    path = cache_folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin"
    if (data := read_cached(path)) is not None:
        return data
    with locked(path.with_suffix(".lock")):
        if (data := read_cached(path)) is None:
            data = make()
            with atomic_write(path, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
    return data


def read_cached(path: Path) -> bytes | None:
    """The content of a cache file; None where there is none or its checksum is wrong."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    checksum, data = data[:CHECKSUM_BYTES], data[CHECKSUM_BYTES:]
    return data if hashlib.sha256(data).digest() == checksum else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs. Where the file system has no locks, the work may be done twice."""
    with open(path, "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_folder() -> Path:
    """Where compiled kernels are kept: LMPIPE_CACHE, XDG_CACHE_HOME/lmpipe, ~/.cache/lmpipe or a temporary folder.

    Code is loaded from there, so only a folder counts that is this user's and that no one else can write to.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    named = os.environ.get("LMPIPE_CACHE")
    temporary = Path(tempfile.gettempdir()) / f"lmpipe-{os.getuid()}"
    for folder in (Path(named or Path(home) / "lmpipe") / "kernels", temporary / "kernels"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if is_private(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix="lmpipe-"))


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, and no one else can write to it."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)
