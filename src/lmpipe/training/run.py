"""A training run: its inputs, its folder in the run store, and `train`.

The store is content-addressed: each distinct run is trained once, in a folder named by its fingerprint. Runs of several
experiments with the same settings share a folder; an interrupted run resumes there. A stored run is copied without
loading torch.
"""

import contextlib
import gc
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np

from lmpipe.data.documents import TokenFileInfo
from lmpipe.data.token_dataset import TokenDataset, check_length
from lmpipe.errors import InputError
from lmpipe.io.files import copy_atomic, file_lock
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import open_tensors
from lmpipe.provenance.code_digest import code_digest
from lmpipe.study.experiments import BestOf, PlannedRun
from lmpipe.study.paths import CONFIG, METRICS, SUMMARY, WEIGHTS, StudyPaths
from lmpipe.study.settings import ModelConfig, TrainingSettings
from lmpipe.tokenizer.vocabulary import Vocabulary
from lmpipe.training.interruption import job_end
from lmpipe.training.progress import LOCK_MESSAGE, PROGRESS
from lmpipe.training.run_documents import (
    BestRun,
    LearningRateSource,
    RunConfig,
    RunSummary,
    TokenFileReference,
    TokenFileReferences,
    TokenizerReference,
)

FINGERPRINT = re.compile("[0-9a-f]+")
LOCK = "lock"
COMPILED = "compiled"
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it in the processes that it starts


@dataclass(frozen=True)
class RunInputs:
    """A run with every setting resolved and every file opened."""

    config: RunConfig
    train: TokenDataset
    valid: TokenDataset
    tokenizer: Vocabulary

    def fingerprint(self) -> str:
        """Return the digest that names the run's folder in the store."""
        return self.config.fingerprint(code_digest("training.run"))


def load_run(run: PlannedRun, results: Path, output: Path, reads_tokens: bool = True) -> RunInputs:
    """Open a run's inputs and resolve its vocabulary size and learning rate; raise InputError if something is wrong.

    Paths in the configuration are relative to the run's folder `output`, so that a study can be moved. Without
    `reads_tokens`, token files are known by their descriptions alone, which is enough for the fingerprint.
    """
    paths = StudyPaths(results)
    tokenizer_folder = paths.tokenizer(run.tokenizer)
    tokenizer = Vocabulary.from_folder(tokenizer_folder)
    train, valid = (
        open_tokens(paths.tokens(run.tokenizer, split), tokenizer, reads_tokens) for split in ("train", "valid")
    )
    check_length(train.info.tokens, run.model.context_length)
    max_lr, lr_source = run.training.max_lr, None
    if isinstance(max_lr, BestOf):
        max_lr, lr_source = resolve_learning_rate(max_lr, run.training.batch_size, paths.best(max_lr.best_of))
    config = RunConfig(
        study=run.study,
        experiment=run.experiment,
        run=run.name,
        seed=run.seed,
        corpus=run.corpus,
        overrides={key: max_lr if key == "max_lr" else value for key, value in run.overrides.items()},
        tokenizer=TokenizerReference(
            name=run.tokenizer, path=os.path.relpath(tokenizer_folder, output), sha256=tokenizer.sha256
        ),
        tokens=TokenFileReferences(train=refer_to(train, output), valid=refer_to(valid, output)),
        model=ModelConfig(vocab_size=tokenizer.vocab_size, **run.model.model_dump()),
        training=TrainingSettings.model_validate(run.training.model_dump() | {"max_lr": max_lr}),
        lr_source=lr_source,
    )
    return RunInputs(config, train, valid, tokenizer)


def known_fingerprint(run: PlannedRun, results: Path) -> str | None:
    """Return the fingerprint of a run, which names its folder in the store; None while its inputs do not exist."""
    try:
        return load_run(run, results, results / run.folder, reads_tokens=False).fingerprint()
    except (InputError, OSError):
        return None


def open_tokens(path: Path, tokenizer: Vocabulary, reads_tokens: bool) -> TokenDataset:
    """Open a token file, or its description alone; raise InputError unless it was encoded with this tokenizer."""
    if reads_tokens:
        file = TokenDataset.open(path, tokenizer.vocab_size)
    else:
        file = TokenDataset(path, np.zeros(0, np.uint16), TokenFileInfo.read(path.with_suffix(".json")))
    encoder = file.info.tokenizer.sha256
    if encoder != tokenizer.sha256:
        problem = f"was encoded with tokenizer {encoder[:12]}, not with {tokenizer.sha256[:12]}"
        raise InputError(path, problem, "delete it and encode the corpus again")
    return file


def refer_to(file: TokenDataset, output: Path) -> TokenFileReference:
    """Return the entry of config.json for a token file."""
    return TokenFileReference(path=os.path.relpath(file.path, output), sha256=file.info.sha256, tokens=file.info.tokens)


def resolve_learning_rate(rate: BestOf, batch_size: int, best_path: Path) -> tuple[float, LearningRateSource]:
    """Return a peak learning rate as a number, and the sweep that it was taken from.

    It is the best of the sweep, or with `interpolate` its interpolated optimum if it has one, times `factor`, and with
    `scale: sqrt_batch_size` times sqrt(batch_size / its batch size) (Krizhevsky 2014, section 5). Raises InputError if
    the sweep's best.json is missing or another experiment's.
    """
    best = BestRun.read(best_path)
    if best.experiment != rate.best_of:
        remedy = f"delete it, and the best run of {rate.best_of} is selected again"
        raise InputError(best_path, f"is the best run of {best.experiment}, not of {rate.best_of}", remedy)
    factor = rate.factor or 1
    interpolated_lr = best.interpolated_lr if rate.interpolate else None
    source = LearningRateSource(
        best_of=rate.best_of,
        scale=rate.scale,
        factor=factor,
        best_run=best.run,
        best_max_lr=best.max_lr,
        best_batch_size=best.batch_size,
        interpolated_lr=interpolated_lr,
    )
    match rate.scale:
        case None:
            pass
        case "sqrt_batch_size":
            factor *= math.sqrt(batch_size / best.batch_size)
        case _:
            assert_never(rate.scale)
    return (interpolated_lr or best.max_lr) * factor, source


# --- the run store ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredRun:
    """One folder of the store: checkpoints while the run is in progress, then its three shared result files."""

    folder: Path

    @classmethod
    def of(cls, results: str | Path, fingerprint: str) -> "StoredRun":
        """Return the folder of a run in the study's store; it is made if it is missing."""
        folder = StudyPaths(Path(results)).store / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    @property
    def fingerprint(self) -> str:
        """Digest that names the folder."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def compiled(self) -> Path:
        """Folder of compiled code, shared by all runs of the store."""
        return self.folder.parent / COMPILED

    @property
    def is_finished(self) -> bool:
        """True if all results exist; the summary is written last."""
        return all((self.folder / name).exists() for name in (METRICS, WEIGHTS, SUMMARY))

    def locked(self) -> contextlib.AbstractContextManager:
        """Hold the run for this process; another one waits, and then finds the run finished."""
        return file_lock(self.folder / LOCK, f"{LOCK_MESSAGE} ({self.folder})")

    def finish(self, summary: RunSummary) -> None:
        """Write the summary, which marks the run as finished, and delete its checkpoints."""
        summary.write(self.folder / SUMMARY)
        self.clean()

    def clean(self) -> None:
        """Delete what only an unfinished run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def publish(self, output: str | Path, config: RunConfig) -> None:
        """Copy the finished files to the run's own folder, with its configuration.

        Raises InputError if one has been damaged since.
        """
        RunSummary.read(self.folder / SUMMARY, "delete it, and the run is trained again")
        with open_tensors(self.folder / WEIGHTS):
            pass
        self.clean()  # again, because a process that was killed after the summary did not reach it
        # The largest first: if the disk has no room for it, nothing changes.
        for name in (WEIGHTS, METRICS, SUMMARY):
            copy_atomic(self.folder / name, Path(output) / name)
        config.write(Path(output) / CONFIG)


def stored_folders(store: Path) -> list[Path]:
    """Return the folders of the runs in a store."""
    return sorted(path for path in store.iterdir() if FINGERPRINT.fullmatch(path.name))


def delete_stored(folder: Path) -> None:
    """Delete a run's folder in the store; raise InputError if the run is in progress."""
    try:
        with file_lock(folder / LOCK):
            shutil.rmtree(folder)
    except BlockingIOError:
        raise InputError(folder, "a run is in progress", "wait for it or stop it") from None


def clear(results: str | Path) -> None:
    """Delete the study's stored runs. Published results stay; runs are trained again when they are next requested.

    Raises InputError if there is no store, or if a run is in progress; runs before that one are deleted.
    """
    store = StudyPaths(Path(results)).store
    if not store.is_dir():
        raise InputError(results, "has no run store", "give the results folder of a study, such as results/laptop")
    folders = stored_folders(store)
    for folder in folders:
        delete_stored(folder)
    shutil.rmtree(store / COMPILED, ignore_errors=True)
    (store / COMPILED).with_suffix(".lock").unlink(missing_ok=True)
    log(f"{store}: deleted {len(folders)} runs")


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    run: PlannedRun,
    results: str | Path,
    output: str | Path,
    *,
    threads: int = 1,
    device: str | None = None,
    processes: int = 1,
    gpus: int = 1,
    runs_per_gpu: int = 1,
    checkpoint_seconds: float = 30.0,
    time_limit: float | None = None,
) -> bool:
    """Train a run, unless the store has it, and copy its files to the folder `output`.

    `results` is the study's folder; `threads` are those of each process. With `processes` above 1, or `gpus` above 1 on
    a machine with GPUs, the program re-executes itself under torchrun and exits: this call does not return. Otherwise
    returns whether the run was trained now. Raises InputError for wrong settings and files, and SystemExit after a
    signal, or before the end of a cluster's job of `time_limit` minutes, with everything saved.
    """
    inputs = load_run(run, Path(results), Path(output))
    stored = StoredRun.of(results, inputs.fingerprint())
    if LAUNCHED in os.environ:
        from lmpipe.training.trainer import train_launched

        return train_launched(inputs, stored, Path(output), device, threads, checkpoint_seconds, job_end(time_limit))
    if max(processes, gpus) > 1 and not stored.is_finished:
        from lmpipe.training.devices import acquire_devices, find_device
        from lmpipe.training.distributed import choose_world_size, relaunch

        world_size = choose_world_size(processes, gpus, find_device(device), inputs.config.training.batch_size)
        if world_size > 1:
            with acquire_devices(device, world_size):
                relaunch(world_size, threads)
    with stored.locked():
        is_new = not stored.is_finished
        if is_new:
            gc.disable()  # a sixth of the time to import torch
            from lmpipe.training.devices import acquire_device, set_deterministic
            from lmpipe.training.step import translate_oom
            from lmpipe.training.trainer import Trainer

            gc.freeze()
            gc.enable()
            with acquire_device(device, runs_per_gpu) as acquired, translate_oom(inputs.config):
                set_deterministic(threads, acquired)
                Trainer(inputs, stored, acquired, threads, checkpoint_seconds, job_end=job_end(time_limit)).run()
        stored.publish(output, inputs.config)
    return is_new
