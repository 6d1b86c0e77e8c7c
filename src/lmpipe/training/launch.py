"""A run in processes that torchrun started, on one machine or on several: each has a share of every batch.

    torchrun --nproc-per-node 4 --no-python lmpipe train ...

The first of all processes reads and writes. Several machines need a common file system, as the workflow does.
"""

import os
import signal
from pathlib import Path
from typing import Any

import torch

from lmpipe.errors import InputError
from lmpipe.training.devices import compute_reproducibly, find_device
from lmpipe.training.distributed import Processes, join
from lmpipe.training.micro_batching import out_of_memory_is_told
from lmpipe.training.run import check_stored
from lmpipe.training.run_config import RunInputs
from lmpipe.training.run_store import StoredRun
from lmpipe.training.trainer import Trainer, follow


def train_launched(inputs: RunInputs, stored: StoredRun, job: dict[str, Any], checkpoint_seconds: float) -> bool:
    """Take part in a run as this process's rank says, unless the store has it; returns whether it was trained now.

    `job` holds the arguments of `train`. Only the first process returns, the others end with the run. No GPU is locked:
    whoever calls torchrun says which are used. Raises InputError for more processes than sequences of a batch.
    """
    rank, local_rank, count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if count > inputs.training.batch_size:
        raise InputError(
            f"torchrun: expected at most {inputs.training.batch_size} processes, for so many sequences a batch has, "
            f"found {count}; lower --nproc-per-node"
        )
    if rank:
        for number in (signal.SIGTERM, signal.SIGINT):
            # The first one decides when all end, after it has saved.
            signal.signal(number, signal.SIG_IGN)
    device = find_device(job["device"], local_rank)
    compute_reproducibly(job["threads"], device)
    # The run's lock may be waited for, so all meet before; whether there is work to do is then the first one's to say.
    joined = join(rank, count, "env://", device)
    try:
        if joined.is_first:
            return lead(inputs, stored, device, job, joined, checkpoint_seconds)
        if say_whether(joined, device):
            follow(job, device, joined)
    finally:
        torch.distributed.destroy_process_group()
    raise SystemExit(0)


def lead(
    inputs: RunInputs,
    stored: StoredRun,
    device: torch.device,
    job: dict[str, Any],
    joined: Processes,
    checkpoint_seconds: float,
) -> bool:
    """Be the first process of a run; returns whether it was trained now."""
    with stored.locked():
        is_new = say_whether(joined, device, not stored.is_finished)
        if is_new:
            with out_of_memory_is_told(inputs.model, inputs.training):
                Trainer(inputs, stored, device, job["threads"], checkpoint_seconds, joined).run()
        else:
            check_stored(stored)
        stored.publish(Path(job["output"]), inputs.config)
    return is_new


def say_whether(joined: Processes, device: torch.device, is_new: bool = False) -> bool:
    """What the first process says of whether the run is to be trained."""
    told = torch.tensor(int(is_new), device=device)
    joined.copy_from_first([told])
    return bool(told)
