"""Content-addressed store of training runs: each distinct run is trained once, in a folder named by its fingerprint.

Runs of several experiments with the same settings share a folder; an interrupted run resumes there. Loads no torch.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import copy_atomic
from lmpipe.io.locks import file_lock
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import open_tensors
from lmpipe.provenance.environment import Environment
from lmpipe.study.paths import CONFIG, METRICS, SUMMARY, WEIGHTS, StudyPaths
from lmpipe.training.progress import PROGRESS
from lmpipe.training.run_config import RunConfig

FINGERPRINT = re.compile("[0-9a-f]+")
LOCK = "lock"
LOCK_MESSAGE = "waiting for the process that trains this run"
COMPILED = "compiled"


class InitDigest(Document):
    """Initial values of one weight matrix."""

    parameters: int
    """Number of elements."""
    sha256: str
    """First half of the SHA-256 of its float32 values."""


class RunSummary(Document):
    """summary.json: the result of a training run. Losses are in nats per token, null if not finite."""

    status: Literal["finished", "diverged", "not_learning"]
    """`diverged`: a loss was not finite or rose by 0.5 nats; `not_learning`: no better than the unigram entropy."""
    reason: str | None
    """Explanation of a status other than `finished`."""
    steps: int
    """Optimizer steps that changed the weights."""
    planned_steps: int
    """Optimizer steps of the complete run."""
    diverged_step: int | None
    """Step at which the run diverged."""
    tokens: int
    """Training tokens of all steps."""
    initial_loss: float | None
    """Training loss of the first step."""
    final_train_loss: float | None
    """Mean training loss of the last 20 steps."""
    validation_loss: float | None
    """Loss on the whole validation split after training."""
    best_validation_loss: float | None
    """Lowest loss on the fixed validation windows of the learning curve."""
    perplexity: float | None
    """exp(validation_loss)."""
    bits_per_byte: float | None
    """Loss on the validation split in bits per byte of text, without the end-of-text tokens."""
    validation_tokens: int
    """Targets in the validation split."""
    validation_bytes: int
    """Bytes of text of these targets."""
    init_digests: dict[str, InitDigest]
    """Each weight matrix before training; equal digests mean paired runs."""
    batches_sha256: str
    """Digest of all batches; equal digests mean runs on the same batches."""
    unigram_entropy: float
    """Entropy of the training tokens' frequencies, in nats per token."""
    parameters: int
    """Number of trained parameters."""
    train_seconds: float
    """Time of all training steps, without evaluation and checkpoints."""
    tokens_per_second: float
    """Training throughput."""
    peak_memory_bytes: int
    """Peak memory of the GPU, or on a CPU of the process."""
    device: str
    """Model name of the processor or GPU."""
    threads: int
    """Threads of each process."""
    processes: int
    """Processes that shared each batch."""
    compile: bool
    """True if the step was compiled with torch.compile."""
    micro_batch_size: int
    """Sequences computed at a time in each process."""
    precision: str
    """Type of matrix products: float32 or bfloat16."""
    num_resumes: int
    """Times that the run resumed from a checkpoint."""
    code: dict[str, str]
    """Digest of each module, and version of each package, that computed the run."""
    environment: Environment
    """Versions, hardware and commit."""


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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; another one waits, and then finds the run finished."""
        with file_lock(self.folder / LOCK, f"{LOCK_MESSAGE} ({self.folder})"):
            yield

    def finish(self, summary: RunSummary) -> None:
        """Write the summary, which marks the run as finished, and delete its checkpoints."""
        summary.write(self.folder / SUMMARY)
        self.clean()

    def clean(self) -> None:
        """Delete what only an unfinished run needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def check(self) -> None:
        """Raise InputError if a file of the finished run has been damaged since."""
        RunSummary.read(self.folder / SUMMARY, "delete it, and the run is trained again")
        with open_tensors(self.folder / WEIGHTS):
            pass

    def publish(self, output: str | Path, config: RunConfig) -> None:
        """Check the finished files and copy them to the run's own folder, with its configuration."""
        self.check()
        self.clean()  # again, because a process that was killed after the summary did not reach it
        # The largest first: if the disk has no room for it, nothing changes.
        for name in (WEIGHTS, METRICS, SUMMARY):
            copy_atomic(self.folder / name, Path(output) / name)
        config.write(Path(output) / CONFIG)


def clear(results: str | Path) -> None:
    """Delete the study's stored runs. Published results stay; runs are trained again when they are next requested.

    Raises InputError if there is no store, or if a run is in progress; runs before that one are deleted.
    """
    store = StudyPaths(Path(results)).store
    if not store.is_dir():
        raise InputError(results, "has no run store", "give the results folder of a study, such as results/laptop")
    folders = sorted(path for path in store.iterdir() if FINGERPRINT.fullmatch(path.name))
    for folder in folders:
        try:
            with file_lock(folder / LOCK):
                shutil.rmtree(folder)
        except BlockingIOError:
            raise InputError(folder, "a run is in progress", "wait for it or stop it") from None
    shutil.rmtree(store / COMPILED, ignore_errors=True)
    (store / COMPILED).with_suffix(".lock").unlink(missing_ok=True)
    log(f"{store}: deleted {len(folders)} runs")
