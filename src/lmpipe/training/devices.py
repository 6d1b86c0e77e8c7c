"""The device that computes: found at run time, never named in a study."""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from lmpipe.errors import InputError
from lmpipe.provenance.environment import peak_memory_bytes as process_peak_memory_bytes
from lmpipe.provenance.environment import processor_name

# Options of glibc's mallopt, and their value: pieces up to that size are kept.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30
# The most that glibc before 2.35 takes as M_MMAP_THRESHOLD.
KEPT_BYTES_BEFORE = 1 << 25
# A control group's files with its limit and what it uses, and the count of what files take of that: in the second and
# the first version of control groups.
GROUP_FILES = {
    False: ("memory.max", "memory.current", "inactive_file"),
    True: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_devices() -> list[str]:
    """The devices of this machine, the fastest first; the CPU is always there."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str | None = None, rank: int = 0) -> torch.device:
    """The device of that name (`cuda` is the first GPU), or the best one; raises InputError where it is not there.

    Of several processes that train together, each takes a GPU of its own: that one, and those after it, by `rank`.
    """
    available = available_devices()
    wanted = available[0] if name is None else {"cuda": "cuda:0"}.get(name, name)
    if wanted not in available:
        raise InputError(
            f"--device: expected one of {', '.join(available)}, found {name!r}; leave it out to take the best"
        )
    if rank and wanted.startswith("cuda:"):
        first, wanted = wanted, f"cuda:{int(wanted.partition(':')[2]) + rank}"
        if wanted not in available:
            raise InputError(
                f"--device: expected {rank} more GPUs after {first}, found {', '.join(available)}; leave it out, or "
                "lower --processes"
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


def forget_peak_memory(device: torch.device) -> None:
    """Let the peak begin anew at what is held now: freed memory goes back to the system, and the mark is reset.

    Where the system resets no mark (proc(5), clear_refs), as on macOS, the peak stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_memory_bytes(device: torch.device) -> int:
    """The memory that this process could still take: of the GPU where there is one, otherwise of the machine.

    A cluster's job or a container may be given less than the machine has; it is killed where it takes more.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *group_rooms()])


def group_rooms(own: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """What each of Linux's control groups around this process still leaves it (cgroups(7)), where they have a limit."""
    if not own.exists():
        return
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = mounted / "memory" if controllers else mounted
        group = root / path.lstrip("/")
        limit, used, cached = GROUP_FILES[bool(controllers)]
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit, or a group that is not seen from here
                room = int((folder / limit).read_text()) - int((folder / used).read_text())
                # What files left in memory makes room where it is needed.
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, room + int(counts.get(cached, 0)))
            if folder == root:
                break


def keep_freed_memory() -> None:
    """Let the memory that a step frees stay with this process, for the next step.

    glibc gives large pieces back at once, and the system fills each with zeros when it is asked for again: a seventh
    of the time of a small model's step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        # Where it is refused, the threshold would stay at its start, since setting one option ends its adaption.
        if not libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES):
            libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES_BEFORE)


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
