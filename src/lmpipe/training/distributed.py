"""Several processes that train one run together, started by torchrun: one for each GPU, or on the CPU.

Rank 0 alone reads checkpoints and writes files. Each process computes its slice of every batch; the gradients are
summed. `lmpipe train --gpus N` re-executes itself under torchrun, and calling torchrun by hand works the same way, also
on several machines with a common file system:

    torchrun --nproc-per-node 4 --no-python lmpipe train ...
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import NoReturn

import psutil
import torch
from torch import Tensor

from lmpipe.errors import InputError
from lmpipe.io.progress import log
from lmpipe.training.interruption import END_NOTICE, STOP_SIGNALS

COLLECTIVE_TIMEOUT = timedelta(days=1)  # the others wait for rank 0 while it evaluates and writes
SHUTDOWN_SECONDS = 5  # from the failure of one process to the end of all
PARENT_POLL_SECONDS = 1.0


class ProcessGroup:
    """The processes of a run, seen from the one with this `rank`; by default a run of one process."""

    def __init__(self, rank: int = 0, world_size: int = 1):
        self.rank, self.world_size = rank, world_size

    @property
    def is_main(self) -> bool:
        """True in the process that reads and writes the run's files."""
        return self.rank == 0

    def local_slice(self, batch_size: int) -> slice:
        """Return the rows of a batch that this process computes; the slices differ by at most one row.

        >>> [ProcessGroup(rank, 3).local_slice(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * batch_size // self.world_size, (self.rank + 1) * batch_size // self.world_size)

    def all_reduce_gradients(self, parameters: list[Tensor], loss: Tensor) -> Tensor:
        """Replace each gradient by its sum over the processes, and return the sum of the losses (a scalar)."""
        if self.world_size == 1:
            return loss
        # One message for all gradients, which are views of it afterwards.
        message = torch.cat([*(parameter.grad.flatten() for parameter in parameters), loss.flatten()])
        with self.exit_on_failure():
            torch.distributed.all_reduce(message)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, gradient in zip(parameters, message[:-1].split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return message[-1]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors of every process with those of rank 0."""
        if self.world_size > 1:
            with self.exit_on_failure():
                for tensor in tensors:
                    torch.distributed.broadcast(tensor, src=0)

    def broadcast_number(self, number: int, device: torch.device) -> int:
        """Return the `number` of rank 0."""
        if self.world_size == 1:
            return number
        tensor = torch.tensor(int(number), device=device)
        self.broadcast([tensor])
        return int(tensor)

    @contextmanager
    def exit_on_failure(self) -> Iterator[None]:
        """End this process with one line if a collective fails: another process has ended, and reported why."""
        try:
            yield
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            log(f"process {self.rank} lost the others ({reason}); the same command resumes from the last checkpoint")
            raise SystemExit(1) from None


@contextmanager
def join_process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, with NCCL on GPUs and Gloo on CPUs, while the block runs.

    From here on signals reach rank 0 alone, which saves a checkpoint and then stops all.
    """
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    if int(os.environ["RANK"]):
        for number in (*STOP_SIGNALS, END_NOTICE):
            signal.signal(number, signal.SIG_IGN)
    backend = "nccl" if device.type == "cuda" else "gloo"
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # its sums in the switch are not deterministic (pytorch#154880)
    torch.distributed.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield ProcessGroup(torch.distributed.get_rank(), torch.distributed.get_world_size())
    except BaseException as error:
        # Destroying NCCL's communicators waits for collectives that the other processes may never join. They end
        # when torchrun notices that this one has.
        is_failure = not isinstance(error, SystemExit) or error.code
        if is_failure and backend == "nccl":
            torch.distributed.distributed_c10d._abort_process_group()  # torch 2.6 and later
        else:
            torch.distributed.destroy_process_group()
        raise
    torch.distributed.destroy_process_group()


def exit_with_parent(parent_id: int) -> None:
    """Wait until the parent, torchrun, has ended, then end this process: torchrun's children survive its SIGKILL."""
    while os.getppid() == parent_id:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)


def choose_world_size(processes: int, gpus: int, device: torch.device, batch_size: int) -> int:
    """Return the number of processes of a run: `processes`, or on GPUs at least `gpus`.

    Raises InputError for more processes than GPUs, and as `check_world_size`.
    """
    if device.type == "cuda":
        processes = max(processes, gpus)
        if processes > (count := torch.cuda.device_count()):
            raise InputError(f"--gpus {processes}", f"this machine has {count} GPUs", f"use --gpus {count}")
    check_world_size(processes, device, batch_size)
    return processes


def check_world_size(processes: int, device: torch.device, batch_size: int) -> None:
    """Raise InputError for more processes than sequences in a batch, and for several on MPS."""
    if device.type == "mps" and processes > 1:
        raise InputError(f"--processes {processes}", "are not possible on mps", "use --device cpu, or one process")
    if processes > batch_size:
        remedy = f"use at most {batch_size} processes or GPUs"
        raise InputError(f"--processes {processes}", f"a batch has only {batch_size} sequences", remedy)


def relaunch(world_size: int, threads: int) -> NoReturn:
    """Re-execute this program in `world_size` processes under torchrun, and exit with their exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torchrun's own handlers would give the processes 30 s to save, whatever a step takes. Its environment variables
    # for options that older versions do not have are ignored by these.
    os.environ |= {"PET_SIGNALS_TO_HANDLE": "SIGQUIT", "PET_SHUTDOWN_TIMEOUT": str(SHUTDOWN_SECONDS)}
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine, whose name need not resolve
    logging.disable(logging.CRITICAL)  # the processes report their errors themselves
    for number in STOP_SIGNALS:
        signal.signal(number, forward_signal)
    signal.signal(END_NOTICE, signal.SIG_IGN)  # so do the processes, until rank 0 handles the one that it gets itself
    with tempfile.TemporaryDirectory() as log_dir:
        options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(world_size)]
        command = ["--log-dir", log_dir, "--no-python", sys.executable, *sys.orig_argv[1:]]
        try:
            torchrun([*options, *command])
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            raise SystemExit(code if code > 0 else 128 - code) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None
    raise SystemExit(0)


def forward_signal(number: int, frame: FrameType | None) -> None:
    """Send a signal to the processes of the run, or exit if none has started."""
    if not (children := psutil.Process().children()):
        raise SystemExit(128 + number)
    for child in children:
        child.send_signal(number)
