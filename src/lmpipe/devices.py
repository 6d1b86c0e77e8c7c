"""The device that computes: found at run time, never named in a study."""

import ctypes
import os
import platform

import psutil
import torch

from lmpipe import InputError
from lmpipe.provenance import peak_memory_bytes as process_peak_memory_bytes
from lmpipe.provenance import processor_name

# Options of glibc's mallopt, and their value: pieces up to that size are kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30


def available_devices() -> list[str]:
    """The devices of this machine, the fastest first; the CPU is always there."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str | None = None, rank: int = 0) -> torch.device:
    """The device of that name (`cuda` is the first GPU), or the best one; raises InputError where it is not there.

    Of several processes that train together, each takes a GPU of its own: that of its `rank`, from 0.
    """
    available = available_devices()
    wanted = available[0] if name is None else {"cuda": "cuda:0"}.get(name, name)
    if rank and wanted.startswith("cuda"):
        wanted = f"cuda:{rank}"
    if wanted not in available:
        raise InputError(
            f"--device: expected one of {', '.join(available)}, found {name!r}; leave it out to take the best"
        )
    return torch.device(wanted)


def device_name(device: torch.device) -> str:
    """What the device calls itself, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name() if device.type == "cpu" else f"{device.type} ({processor_name()})"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held at once: of the GPU where there is one, otherwise of this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak_memory_bytes()


def held_memory_bytes(device: torch.device) -> int:
    """The memory held now: of the GPU where there is one, otherwise of this process."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def free_memory_bytes(device: torch.device) -> int:
    """The memory that this process could still take: of the GPU where there is one, otherwise of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def keep_freed_memory() -> None:
    """Let the memory that a step frees stay with this process, for the next step.

    glibc gives large pieces back at once, and the system fills each with zeros when it is asked for again: a seventh
    of the time of a small model's step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, KEPT_BYTES)


def compute_reproducibly(threads: int, device: torch.device) -> None:
    """Fix what could change a result from one run to the next: the number of threads and the choice of algorithms."""
    torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()
        # What a run does there repeats itself anyway, and the call below takes two seconds: it loads torch's compiler.
        return
    # cuBLAS repeats itself only with workspaces of fixed size, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory is for finding bugs, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
