"""Training one model, unless the store has it: what has been trained before is copied without loading torch."""

import os
from pathlib import Path

from lmpipe.io.files import read_json
from lmpipe.io.tensor_files import open_tensors
from lmpipe.study.documents import RUN_SUMMARY, check_shape
from lmpipe.study.paths import SUMMARY, WEIGHTS
from lmpipe.study.planned_run import PlannedRun
from lmpipe.training.run_config import resolve
from lmpipe.training.run_store import StoredRun, digest_of

CHECKPOINT_SECONDS = 30.0
TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it in the processes that it starts


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
    """Train a run, unless the store has it, and publish its files to the folder `output`.

    `results` is the study's folder with tokens/, tokenizers/ and store/; `best_path` the best.json that a best_of rate
    is taken from. So many `processes` share every batch, each with `threads` of its own; where there are GPUs, there is
    one for each of so many `gpus`; torchrun's processes share it, too. Returns whether the run was trained now. Raises
    InputError for settings and files that do not fit; SystemExit after a signal, with all saved.
    """
    inputs = resolve(run, Path(results), best_path, Path(output))
    stored = StoredRun.of(results, digest_of(inputs.identity()))
    job = {
        "run": run.model_dump(mode="json"),
        "results": str(results),
        "output": str(output),
        "digest": stored.digest,
        "best_path": best_path and str(best_path),
        "threads": threads,
        "device": device,
        "runs_per_gpu": runs_per_gpu,
    }
    if TORCHRUN in os.environ:
        from lmpipe.training.launch import train_launched

        return train_launched(inputs, stored, job, checkpoint_seconds)
    with stored.locked():
        is_new = not stored.is_finished
        if is_new:
            from lmpipe.training.trainer import train_together

            train_together(inputs, stored, job, processes, gpus, checkpoint_seconds)
        else:
            check_stored(stored)
        stored.publish(output, inputs.config)
    return is_new


def check_stored(stored: StoredRun) -> None:
    """Raise InputError where the store's files of a finished run have been damaged since."""
    path = stored.folder / SUMMARY
    check_shape(read_json(path), RUN_SUMMARY, str(path), "delete it, and the run is trained anew")
    with open_tensors(stored.folder / WEIGHTS):
        pass
