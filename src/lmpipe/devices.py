"""The device that computes: found at run time, never named in a study."""

import os

import psutil
import torch

from lmpipe import InputError
from lmpipe.provenance import peak_memory_bytes as process_peak_memory_bytes
from lmpipe.provenance import processor_name


def available_devices() -> list[str]:
    """The devices of this machine, the fastest first; the CPU is always there."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str | None = None) -> torch.device:
    """The device of that name (`cuda` is the first GPU), or the best one; raises InputError where it is not there."""
    available = available_devices()
    wanted = available[0] if name is None else {"cuda": "cuda:0"}.get(name, name)
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


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def compute_reproducibly(threads: int, device: torch.device) -> None:
    """Fix what could change a result from one run to the next: the number of threads and the choice of algorithms."""
    torch.set_num_threads(threads)
    if device.type == "cpu":
        # What a run does there repeats itself anyway, and the call below takes two seconds: it loads torch's compiler.
        return
    # cuBLAS repeats itself only with workspaces of fixed size, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory is for finding bugs, and costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
