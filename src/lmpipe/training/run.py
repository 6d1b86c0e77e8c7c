"""`train`: one training run, unless the store has it. A stored run is copied without loading torch."""

import os
from pathlib import Path

from lmpipe.study.planned_run import PlannedRun
from lmpipe.training.run_config import load_run
from lmpipe.training.run_store import StoredRun

CHECKPOINT_SECONDS = 30.0
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it in the processes that it starts


def train(
    run: PlannedRun,
    results: str | Path,
    output: str | Path,
    *,
    best_path: str | Path | None = None,
    threads: int = 1,
    device: str | None = None,
    processes: int = 1,
    gpus: int = 1,
    runs_per_gpu: int = 1,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> bool:
    """Train a run, unless the store has it, and copy its files to the folder `output`.

    `results` is the study's folder; `best_path` is the best.json that a best_of learning rate comes from. `threads`
    are those of each process. With `processes` above 1, or `gpus` above 1 on a machine with GPUs, the program
    re-executes itself under torchrun and exits: this call does not return. Otherwise returns whether the run was
    trained now. Raises InputError for wrong settings and files, and SystemExit after a signal, with everything saved.
    """
    inputs = load_run(run, Path(results), best_path, Path(output))
    stored = StoredRun.of(results, inputs.fingerprint())
    if LAUNCHED in os.environ:
        from lmpipe.training.trainer import train_launched

        return train_launched(inputs, stored, Path(output), device, threads, checkpoint_seconds)
    if max(processes, gpus) > 1 and not stored.is_finished:
        relaunch_if_several(processes, gpus, device, threads, inputs.training.batch_size)
    with stored.locked():
        is_new = not stored.is_finished
        if is_new:
            from lmpipe.training.devices import acquire_device, set_deterministic
            from lmpipe.training.step import translate_oom
            from lmpipe.training.trainer import Trainer

            with acquire_device(device, runs_per_gpu) as acquired, translate_oom(inputs.model, inputs.training):
                set_deterministic(threads, acquired)
                Trainer(inputs, stored, acquired, threads, checkpoint_seconds).run()
        stored.publish(output, inputs.config)
    return is_new


def relaunch_if_several(processes: int, gpus: int, device: str | None, threads: int, batch_size: int) -> None:
    """Re-execute the program under torchrun and exit, if the run has more than one process on this machine."""
    from lmpipe.training.devices import acquire_devices, find_device
    from lmpipe.training.distributed import choose_world_size, relaunch

    world_size = choose_world_size(processes, gpus, find_device(device), batch_size)
    if world_size > 1:
        with acquire_devices(device, world_size):
            relaunch(world_size, threads)
