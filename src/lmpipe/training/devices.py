"""Devices: names, memory, deterministic settings, and locks that give each run a GPU that no other run uses.

A study never names a device. A run holds its GPU by file locks (flock), so the GPU is free again however the process
ends. The lock files are named by the GPU's UUID, so processes that number the GPUs differently (CUDA_VISIBLE_DEVICES, a
cluster that hands out GPUs) still mean the same one.
"""

import contextlib
import ctypes
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import torch

from lmpipe.errors import InputError
from lmpipe.io.files import file_lock
from lmpipe.io.progress import log
from lmpipe.provenance.environment import peak_memory_bytes as process_peak_memory_bytes
from lmpipe.provenance.environment import processor_name

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt(3)
RETAINED_BYTES = 1 << 30  # freed blocks up to this size stay with the process
MAX_OLD_RETAINED_BYTES = 1 << 25  # the largest M_MMAP_THRESHOLD of glibc before 2.35
# Files of a Linux control group with its limit and its usage, and the row of memory.stat with the cached file pages in
# that usage; by whether the group belongs to version 1.
CGROUP_FILES = {
    False: ("memory.max", "memory.current", "inactive_file"),
    True: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
POLL_SECONDS = 0.5
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
ASSIGNED_GPUS = "LMPIPE_GPUS"  # entries for CUDA_VISIBLE_DEVICES, one for each process of a run
MAX_RUNS_PER_GPU = 16
MEMORY_SHARES: dict[str, float] = {}  # parts of GPUs that this process may allocate, where several runs share one


def available_devices() -> list[str]:
    """Return the names of this machine's devices, the fastest first; the last one is the CPU."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str | None = None, local_rank: int = 0) -> torch.device:
    """Return the device `name` ("cuda" is the first GPU), by default the fastest one.

    Process `local_rank` of several gets the GPU that many further. Raises InputError if there is no such device.
    """
    available = available_devices()
    first = available[0] if name is None else {"cuda": "cuda:0"}.get(name, name)
    if first not in available:
        raise InputError("--device", f"{name} is not a device of this machine", f"use {' or '.join(available)}")
    if not first.startswith("cuda:"):
        return torch.device(first)
    device = f"cuda:{int(first.partition(':')[2]) + local_rank}"
    if device not in available:
        count = sum(gpu.startswith("cuda:") for gpu in available)
        raise InputError(
            "--gpus",
            f"process {local_rank} of this run would use {device}, and this machine has {count} GPUs",
            "lower --gpus, or leave --device out",
        )
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """Return the model name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() if device.type == "cpu" else f"{device.type} ({processor_name()})"


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of the GPU that this process has allocated, or on a CPU the peak of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak_memory_bytes()


def allocated_memory_bytes(device: torch.device) -> int:
    """Return the memory of the GPU that this process has allocated now, or on a CPU its resident memory."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak to the memory allocated now, after returning freed memory to the system.

    On systems that cannot do that, such as macOS, the peak stays that of the whole process (proc(5), clear_refs).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory that this process can still allocate: of the GPU, or on a CPU of the machine.

    A cluster's job or a container may have less than the machine, and is killed if it takes more. Runs that share a GPU
    have a part of it each.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(free, int(MEMORY_SHARES.get(str(device), 1.0) * total) - torch.cuda.memory_allocated(device))
    return min([psutil.virtual_memory().available, *cgroup_available()])


def cgroup_available(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Yield the bytes that each control group around this process still allows (cgroups(7)), if it has a limit."""
    if not membership.exists():
        return
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = mount / "memory" if controllers else mount
        group = root / path.lstrip("/")
        limit, used, cached = CGROUP_FILES[bool(controllers)]
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit, or a group that is not visible from here
                available = int((folder / limit).read_text()) - int((folder / used).read_text())
                # Cached file pages are dropped when memory is short.
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, available + int(counts.get(cached, 0)))
            if folder == root:
                break


@contextlib.contextmanager
def limit_memory(device: torch.device, fraction: float) -> Iterator[None]:
    """Let this process allocate a fraction of its share of a GPU while the block runs."""
    share = MEMORY_SHARES.get(str(device), 1.0)
    torch.cuda.set_per_process_memory_fraction(fraction * share, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(share, device)


def configure_malloc() -> None:
    """Let freed memory stay with this process, for the next step.

    glibc returns large blocks at once, and the system fills each with zeros when it is allocated again: a seventh of
    the time of a small model's step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, RETAINED_BYTES)
        # A refused value would leave the threshold at its minimum, because setting one option ends its adaptation.
        if not libc.mallopt(M_MMAP_THRESHOLD, RETAINED_BYTES):
            libc.mallopt(M_MMAP_THRESHOLD, MAX_OLD_RETAINED_BYTES)


def set_threads(threads: int) -> None:
    """Compute with a number of threads, on which last digits depend.

    Raises InputError if the environment lets OpenMP give this process fewer: torch 2.13 (oneDNN) then computes wrong
    bfloat16 products without any error, and other results vary with the load.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdecimal() and int(limit) < threads:
        raise InputError("OMP_THREAD_LIMIT", f"is {limit}, but the run has {threads} threads", "unset it")
    if threads > 1 and os.environ.get("OMP_DYNAMIC", "").strip().lower() in ("true", "1"):
        raise InputError("OMP_DYNAMIC", f"lets OpenMP use fewer than the run's {threads} threads", "unset it")
    torch.set_num_threads(threads)


def set_deterministic(threads: int, device: torch.device) -> None:
    """Fix the number of threads and the choice of algorithms, so that a run repeats to the byte.

    Raises InputError if the environment restricts the threads.
    """
    set_threads(threads)
    if device.type == "cpu":
        configure_malloc()
    # CPU algorithms are deterministic anyway, and the call below loads torch's compiler: two seconds.
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)  # what names no device would otherwise allocate on the first GPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with fixed workspaces
    # With warn_only, attention would use its nondeterministic backward kernels although there are others.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a pass over every new tensor, to find bugs


def is_deterministic(device: torch.device) -> bool:
    """Return whether runs on the device repeat to the byte: always on a CPU, on a GPU if torch enforces it."""
    is_strict = (
        torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    )
    return device.type == "cpu" or (device.type == "cuda" and is_strict)


def allow_nondeterministic(reason: object) -> None:
    """Use nondeterministic algorithms where there are no others, and log that the run will not repeat itself."""
    log(f"this run will not repeat to the byte, because torch has no deterministic algorithm here: {reason}")
    torch.use_deterministic_algorithms(True, warn_only=True)


# --- locks on GPUs ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def acquire_device(name: str | None = None, runs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Hold a device while the block runs: the one called `name`, or the first free GPU; waits if none is free.

    Up to `runs_per_gpu` runs share a GPU, and each may allocate its share of the memory; with 1 a run waits until no
    other uses it. CPUs are shared by all. Raises InputError if there is no such device.
    """
    device = find_device(name)
    if device.type != "cuda":
        yield device
        return
    names = [str(device)] if name else gpu_names()
    with acquire_gpus(gpu_uuids(names), lock_folder(), runs_per_gpu=runs_per_gpu) as (gpu,):
        if runs_per_gpu > 1:
            MEMORY_SHARES[gpu] = 1 / runs_per_gpu
            torch.cuda.set_per_process_memory_fraction(MEMORY_SHARES[gpu], gpu)
        yield torch.device(gpu)


@contextlib.contextmanager
def acquire_devices(name: str | None, count: int) -> Iterator[None]:
    """Hold `count` devices while the block runs, each for this run alone, for processes that the block starts.

    Without a name, any free GPUs; with one, that GPU and those after it. ASSIGNED_GPUS names the GPU of each process.
    """
    if find_device(name).type != "cuda":
        yield
        return
    # As this process sees them: by index, or as CUDA_VISIBLE_DEVICES names them.
    visible = [entry for entry in os.environ.get(VISIBLE_GPUS, "").split(",") if entry]
    names = [str(find_device(name, local_rank)) for local_rank in range(count)] if name else gpu_names()
    with acquire_gpus(gpu_uuids(names), lock_folder(), count) as gpus:
        indices = [torch.device(gpu).index for gpu in gpus]
        os.environ[ASSIGNED_GPUS] = ",".join(visible[index] if visible else str(index) for index in indices)
        yield


def local_device(name: str | None, local_rank: int) -> torch.device:
    """Return the device of process `local_rank`: the GPU that `acquire_devices` took for it, or of `find_device`.

    The process then sees its own GPU alone, as cuda:0: compiled code, whose key contains the index, is compiled once
    for all processes. Call before CUDA is initialized.
    """
    if assigned := os.environ.get(ASSIGNED_GPUS):
        os.environ[VISIBLE_GPUS] = assigned.split(",")[local_rank]
        return find_device("cuda")
    return find_device(name, local_rank)


def gpu_names() -> list[str]:
    """Return the names of this machine's CUDA devices."""
    return [name for name in available_devices() if name.startswith("cuda:")]


def gpu_uuids(names: list[str]) -> dict[str, str]:
    """Return the UUIDs of GPUs by name. No context is created on a GPU, which would take 0.5 GB of it."""
    return {name: str(torch.cuda.get_device_properties(name).uuid) for name in names}


def lock_folder() -> Path:
    """Return the folder of this user's lock files on this machine; raise InputError if another user owns it."""
    folder = Path(tempfile.gettempdir()) / f"lmpipe-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(folder, "belongs to another user", "set TMPDIR to another folder")
    return folder


@contextlib.contextmanager
def acquire_gpus(uuids: Mapping[str, str], folder: Path, count: int = 1, runs_per_gpu: int = 1) -> Iterator[list[str]]:
    """Hold `count` of the GPUs `uuids`, given by name and UUID, while the block runs; yields their names.

    A run that waits holds none, so that no two runs wait for each other.
    """
    if runs_per_gpu > MAX_RUNS_PER_GPU:
        raise InputError("--runs-per-gpu", f"is {runs_per_gpu}", f"use at most {MAX_RUNS_PER_GPU}")
    is_logged = False
    while True:
        with contextlib.ExitStack() as locks:
            names: list[str] = []
            while len(names) < count and (name := try_acquire(uuids, runs_per_gpu, folder, locks)):
                names.append(name)
            if len(names) == count:
                yield names
                return
        if not is_logged:
            log(f"waiting for {count} free of {', '.join(uuids)}")
            is_logged = True
        time.sleep(POLL_SECONDS)


def try_acquire(uuids: Mapping[str, str], runs_per_gpu: int, folder: Path, locks: contextlib.ExitStack) -> str | None:
    """Lock a free GPU and return its name, or None; the locks are added to `locks`.

    Each GPU has MAX_RUNS_PER_GPU lock files. A run that shares takes the lowest free one over all GPUs, so that GPUs
    fill evenly; a run alone takes all files of a GPU.
    """
    slot_groups = [[slot] for slot in range(runs_per_gpu)] if runs_per_gpu > 1 else [list(range(MAX_RUNS_PER_GPU))]
    for slots in slot_groups:
        for name, uuid in uuids.items():
            with contextlib.ExitStack() as trial, contextlib.suppress(BlockingIOError):
                for slot in slots:
                    trial.enter_context(file_lock(folder / f"{uuid}.{slot}"))
                locks.push(trial.pop_all())
                return name
    return None
