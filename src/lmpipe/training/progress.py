"""progress.json: the state of a running training run, for `lmpipe status`. Loads no torch.

The file is written every few seconds at most and never flushed to disk; a full disk does not stop the run. Readers
take no lock: whether a run is in progress follows from its process.
"""

import contextlib
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.training.run_documents import RunConfig

if TYPE_CHECKING:
    from lmpipe.training.trainer import TrainState

PROGRESS = "progress.json"
METRICS_TENSOR = "metrics.csv"  # the rows of metrics.csv so far, in a checkpoint
LOCK_MESSAGE = "waiting for the process that trains this run"  # the last line of a log while a run waits
WRITE_SECONDS = 2.0
SPEED_WINDOW = 10  # writes over which the speed is averaged; it follows when other jobs start or end
# Age at which the file of a process on another machine means that it has ended. It is written during steps and
# validation alike, and a network file system may show it late.
STALE_SECONDS = 120.0


class RunProgress(Document):
    """progress.json in a run's folder of the store. Losses are in nats per token."""

    config: RunConfig
    """The run's config.json."""
    planned_steps: int
    """Optimizer steps of the complete run."""
    process: ProcessIdentity
    """Process that trains the run."""
    step: int
    """Optimizer steps so far."""
    training_loss: float | None
    """Mean training loss of the last 20 steps."""
    best_validation_loss: float | None
    """Lowest loss on the validation windows so far."""
    tokens_per_second: float | None
    """Recent training throughput; null before the first step."""
    updated_at: float
    """Time of this file in seconds since 1970."""

    def is_running(self, now: float) -> bool:
        """Return True if the process that wrote this is still training; `now` is in seconds since 1970."""
        is_alive = self.process.is_alive
        return now - self.updated_at < STALE_SECONDS if is_alive is None else is_alive


class ProgressWriter:
    """Writes progress.json into a run's folder of the store."""

    def __init__(self, folder: Path, config: RunConfig):
        self.path, self.config = folder / PROGRESS, config
        self.process = ProcessIdentity.current()
        self.recent: deque[tuple[int, float]] = deque(maxlen=SPEED_WINDOW)  # step and seconds of training
        self.next_write = time.monotonic()

    def write(self, state: "TrainState") -> None:
        """Write the file, if the last time is WRITE_SECONDS ago."""
        if (now := time.monotonic()) < self.next_write:
            return
        self.next_write = now + WRITE_SECONDS
        self.recent.append((state.step, state.wall_seconds))
        (first_step, start), (last_step, end) = self.recent[0], self.recent[-1]
        tokens = (last_step - first_step) * self.config.tokens_per_step
        content = RunProgress(
            config=self.config,
            planned_steps=self.config.steps,
            process=self.process,
            step=state.step,
            training_loss=state.recent_loss if state.recent_losses else None,
            best_validation_loss=state.best_validation_loss,
            tokens_per_second=tokens / (end - start) if end > start else None,
            updated_at=time.time(),
        )
        unfinished = self.path.with_name(f"{PROGRESS}.unfinished")
        with contextlib.suppress(OSError):
            unfinished.write_text(content.model_dump_json(), encoding="utf-8")
            unfinished.replace(self.path)


def read_progress(path: Path) -> RunProgress | None:
    """Read a run's progress.json; None if it no longer exists or is damaged."""
    try:
        return RunProgress.read(path)
    except (InputError, OSError):
        return None
