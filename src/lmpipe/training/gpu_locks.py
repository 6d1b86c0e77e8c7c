"""A GPU for each training run: runs on one machine take different devices, or share one where they are told to.

A device is held by locks of the operating system (flock) on files of this user, so it is free again however the process
ends. The files are named by what the device calls itself: processes that see the devices under other numbers
(CUDA_VISIBLE_DEVICES, or a cluster that hands out devices) still mean the same one.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.errors import InputError
from lmpipe.io.locks import file_lock
from lmpipe.io.progress import log

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.5
ROLE_DATASETS = 16  # how many runs may share a device at most


@contextlib.contextmanager
def held_device(name: str | None = None, runs_per_gpu: int = 1) -> Iterator["torch.device"]:
    """The device that computes, held while the block runs: the named one, or the first GPU that is free.

    Waits where all are taken. `runs_per_gpu` is how many runs may share a GPU; a run that is to be alone (1) waits for
    one without any. What is no GPU is shared by all. Raises InputError where the named device is not there.
    """
    import torch

    from lmpipe.training.devices import available_devices, find_device

    device = find_device(name)
    if device.type != "cuda":
        yield device
        return
    names = [str(device)] if name else [found for found in available_devices() if found.startswith("cuda:")]
    identities = {found: str(torch.cuda.get_device_properties(found).uuid) for found in names}
    with held_gpu(identities, runs_per_gpu, locks_folder()) as found:
        # So that nothing lands on the first device by default.
        torch.cuda.set_device(found)
        yield torch.device(found)


@contextlib.contextmanager
def held_devices(name: str | None, count: int, runs_per_gpu: int = 1) -> Iterator["torch.device"]:
    """As held_device, for a run of `count` processes; the block gets the first one's device.

    The GPUs of several processes are those that `find_device` gives their ranks; they are taken in order, each alone,
    so that no two runs wait for each other.
    """
    if count == 1:
        with held_device(name, runs_per_gpu) as device:
            yield device
        return
    import torch

    from lmpipe.training.devices import find_device

    with contextlib.ExitStack() as held:
        devices = [held.enter_context(held_device(str(find_device(name, rank)))) for rank in range(count)]
        if devices[0].type == "cuda":
            torch.cuda.set_device(devices[0])
        yield devices[0]


def locks_folder() -> Path:
    """The folder of the lock files, on this machine and of this user; raises InputError where it is another user's."""
    folder = Path(tempfile.gettempdir()) / f"lmpipe-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: expected a folder of this user, found another's; set TMPDIR to another place")
    return folder


@contextlib.contextmanager
def held_gpu(identities: Mapping[str, str], runs_per_gpu: int, folder: Path) -> Iterator[str]:
    """Hold one of some devices, given by name with what they call themselves; the block gets its name.

    Waits for a free one. Raises InputError where more runs are to share it than it has places.
    """
    if runs_per_gpu > ROLE_DATASETS:
        raise InputError(
            f"--runs-per-gpu: expected at most {ROLE_DATASETS}, found {runs_per_gpu}; let fewer runs share a GPU"
        )
    is_told = False
    with contextlib.ExitStack() as locks:
        while (name := take(identities, runs_per_gpu, folder, locks)) is None:
            if not is_told:
                log(f"waiting for a free GPU ({', '.join(identities)})")
                is_told = True
            time.sleep(POLL_SECONDS)
        yield name


def take(identities: Mapping[str, str], runs_per_gpu: int, folder: Path, locks: contextlib.ExitStack) -> str | None:
    """Lock a device if one is free, by the locks that `locks` is then in charge of; its name, or None.

    A run that shares takes one place, where it can on a device without another run; one that is alone takes all places.
    """
    shares = [range(ROLE_DATASETS)] if runs_per_gpu == 1 else [range(place, place + 1) for place in range(runs_per_gpu)]
    for places in shares:
        for name, identity in identities.items():
            with contextlib.ExitStack() as tried, contextlib.suppress(BlockingIOError):
                for place in places:
                    tried.enter_context(file_lock(folder / f"{identity}.{place}"))
                locks.push(tried.pop_all())
                return name
    return None
