"""Several processes that train one run together, each with a share of every batch: one for each GPU.

The first one is `lmpipe train` itself, which alone reads and writes; it starts the others, and they end with it.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmpipe.io.progress import log

# Others wait for the first one while it evaluates and writes.
LONGEST_WAIT = timedelta(days=1)
# A process that waits for one that is gone may notice that by itself (gloo does, NCCL does not), within so long.
NOTICED_SECONDS = 10.0


class Processes:
    """The processes of a run, seen from one of them: its `rank`, from 0, and how many there are (`count`)."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reads and writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """The rows of a batch that belong to this process: as many as the others have, or one more or less.

        >>> [Processes(rank, 3).share(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * batch_size // self.count, (self.rank + 1) * batch_size // self.count)

    def sum_gradients(self, parameters: list[Tensor], loss: Tensor) -> Tensor:
        """Replace every gradient by its sum over all processes, and return the sum of the losses."""
        if self.count == 1:
            return loss
        # One message for all of them; afterwards the gradients are views of it.
        message = torch.cat([*(parameter.grad.flatten() for parameter in parameters), loss.flatten()])
        torch.distributed.all_reduce(message)
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, gradient in zip(parameters, message[:-1].split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return message[-1]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's tensors."""
        if self.count > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)


@contextmanager
def together(count: int, device: torch.device, job: dict[str, Any]) -> Iterator[Processes]:
    """Start the other processes of a run, and be the first of them while the block runs.

    `job` holds, as JSON values, the arguments that `lmpipe.training.trainer.follow` has in each of the others.
    """
    if count == 1:
        yield Processes()
        return
    with tempfile.TemporaryDirectory() as folder:
        started = [start(rank, count, folder, job) for rank in range(1, count)]
        is_over = threading.Event()
        for process in started:
            threading.Thread(target=end_with, args=(process, is_over), daemon=True).start()
        try:
            yield join(0, count, meeting_place(folder), device)
        finally:
            is_over.set()
            for process in started:
                process.stdin.close()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for process in started:
                process.wait()


def start(rank: int, count: int, folder: str, job: dict[str, Any]) -> subprocess.Popen:
    """Start one of the other processes. It ends when its standard input does, and so with the first one."""
    process = subprocess.Popen([sys.executable, "-m", "lmpipe.training.distributed"], stdin=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps({"rank": rank, "count": count, "folder": folder, "job": job}) + "\n")
    process.stdin.flush()
    return process


def end_with(process: subprocess.Popen, is_over: threading.Event) -> None:
    """End this process where one of the others fails before the run is over: it would wait for that one's share.

    One that has made its share of all steps ends well, while the first one still evaluates.
    """
    code = process.wait()
    if code and not is_over.wait(NOTICED_SECONDS):
        log(f"a process of this run ended with exit code {code}; the same command goes on from the last checkpoint")
        os._exit(1)


def meeting_place(folder: str) -> str:
    """Where the processes of one machine meet: a file in a folder."""
    return (Path(folder) / "meeting").as_uri()


def join(rank: int, count: int, place: str, device: torch.device) -> Processes:
    """Meet the other processes of a run, at a place that torch.distributed.init_process_group knows."""
    if device.type == "cuda":
        # So that nothing lands on the first device by default.
        torch.cuda.set_device(device)
    if sys.platform == "linux" and place.startswith("file:"):
        # They are on one machine; its name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=place, rank=rank, world_size=count, timeout=LONGEST_WAIT)
    return Processes(rank, count)


def end_with_input() -> None:
    """End this process at once when its standard input ends."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Be one of the other processes, as the first one asks."""
    import signal

    from lmpipe.training.devices import find_device
    from lmpipe.training.trainer import follow

    for number in (signal.SIGTERM, signal.SIGINT):
        # The first one decides when all end, after it has saved.
        signal.signal(number, signal.SIG_IGN)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    rank, count = asked["rank"], asked["count"]
    device = find_device(asked["job"]["device"], rank)
    follow(asked["job"], device, join(rank, count, meeting_place(asked["folder"]), device))


if __name__ == "__main__":
    main()
