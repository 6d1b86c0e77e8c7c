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
MAX_RUNS_PER_GPU = 16


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

    A cluster's job or a container may have less than the machine, and is killed if it takes more.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
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


def check_openmp(threads: int) -> None:
    """Raise InputError if the environment lets OpenMP give this process fewer threads than it asks for.

    torch 2.13 (oneDNN) then computes wrong bfloat16 products without any error, and other results vary with the load.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdecimal() and int(limit) < threads:
        raise InputError("OMP_THREAD_LIMIT", f"is {limit}, but the run has {threads} threads", "unset it")
    if threads > 1 and os.environ.get("OMP_DYNAMIC", "").strip().lower() in ("true", "1"):
        raise InputError("OMP_DYNAMIC", f"lets OpenMP use fewer than the run's {threads} threads", "unset it")


def set_deterministic(threads: int, device: torch.device) -> None:
    """Fix the number of threads and the choice of algorithms, so that a run repeats to the byte.

    Raises InputError if the environment restricts the threads.
    """
    check_openmp(threads)
    torch.set_num_threads(threads)
    if device.type == "cpu":
        configure_malloc()
        # CPU algorithms are deterministic anyway, and the call below loads torch's compiler: two seconds.
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no device would otherwise allocate on the first GPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with fixed workspaces
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a pass over every new tensor, to find bugs


# --- locks on GPUs ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def acquire_device(name: str | None = None, runs_per_gpu: int = 1) -> Iterator[torch.device]:
    """Hold a device while the block runs: the one called `name`, or the first free GPU; waits if none is free.

    Up to `runs_per_gpu` runs share a GPU; with 1 a run waits until no other uses it. CPUs are shared by all. Raises
    InputError if there is no such device.
    """
    device = find_device(name)
    if device.type != "cuda":
        yield device
        return
    names = [str(device)] if name else [gpu for gpu in available_devices() if gpu.startswith("cuda:")]
    uuids = {gpu: str(torch.cuda.get_device_properties(gpu).uuid) for gpu in names}
    with acquire_gpu(uuids, runs_per_gpu, lock_folder()) as gpu:
        yield torch.device(gpu)


@contextlib.contextmanager
def acquire_devices(name: str | None, count: int) -> Iterator[None]:
    """Hold the devices of `count` processes on this machine while the block runs, each GPU for this run alone.

    They are the ones that `find_device` gives their local ranks, locked in order, so that no two runs deadlock.
    """
    with contextlib.ExitStack() as stack:
        for local_rank in range(count):
            stack.enter_context(acquire_device(str(find_device(name, local_rank))))
        yield


def lock_folder() -> Path:
    """Return the folder of this user's lock files on this machine; raise InputError if another user owns it."""
    folder = Path(tempfile.gettempdir()) / f"lmpipe-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(folder, "belongs to another user", "set TMPDIR to another folder")
    return folder


@contextlib.contextmanager
def acquire_gpu(uuids: Mapping[str, str], runs_per_gpu: int, folder: Path) -> Iterator[str]:
    """Hold one of the GPUs `uuids`, given by name and UUID, while the block runs; yields its name."""
    if runs_per_gpu > MAX_RUNS_PER_GPU:
        raise InputError("--runs-per-gpu", f"is {runs_per_gpu}", f"use at most {MAX_RUNS_PER_GPU}")
    is_logged = False
    with contextlib.ExitStack() as locks:
        while (name := try_acquire(uuids, runs_per_gpu, folder, locks)) is None:
            if not is_logged:
                log(f"waiting for a free GPU ({', '.join(uuids)})")
                is_logged = True
            time.sleep(POLL_SECONDS)
        yield name


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
