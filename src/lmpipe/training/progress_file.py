"""What a training run tells while it is under way: a small file in its folder of the store, for `lmpipe status`.

Nobody waits for it: it is written every few seconds at most, never flushed to disk, and a disk that cannot take it
stops no run. No lock is asked for either: whether a run is under way follows from its process.
"""

import contextlib
import json
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from lmpipe.errors import InputError
from lmpipe.io.process_identity import is_there, this_process
from lmpipe.study.documents import PROGRESS, read_shape

PROGRESS_FILE = "progress.json"
EVERY_SECONDS = 2.0
# The speed is that of the last so many writes: it follows when other jobs come and go.
RECENT_WRITES = 10
# A process on another machine cannot be looked up. Its file is written during steps and validation alike, and a network
# file system may show it late.
SILENT_SECONDS = 120.0


class Counted(Protocol):
    """What a trainer counts as it goes; losses in nats per token."""

    step: int
    wall_seconds: float
    latest_losses: list[float]
    latest_loss: float
    best_validation_loss: float | None


class RunProgress:
    """Writes how far a run is into its folder of the store; `config` is the run's config.json."""

    def __init__(self, folder: Path, config: dict[str, Any], planned_steps: int, tokens_per_step: int):
        self.path = folder / PROGRESS_FILE
        self.tokens_per_step = tokens_per_step
        self.same = {"config": config, "planned_steps": planned_steps, "process": this_process()}
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT_WRITES)
        self.due = time.monotonic()

    def tell(self, counted: Counted) -> None:
        """Write the file where it is time to; else only look at the clock."""
        if (now := time.monotonic()) < self.due:
            return
        self.due = now + EVERY_SECONDS
        self.recent.append((counted.step, counted.wall_seconds))
        content = self.same | {
            "step": counted.step,
            "training_loss": counted.latest_loss if counted.latest_losses else None,
            "best_validation_loss": counted.best_validation_loss,
            "tokens_per_second": self.tokens_per_second(),
            "updated_at": time.time(),
        }
        unfinished = self.path.with_name(f"{PROGRESS_FILE}.unfinished")
        with contextlib.suppress(OSError):
            unfinished.write_text(json.dumps(content), encoding="utf-8")
            unfinished.replace(self.path)

    def tokens_per_second(self) -> float | None:
        """The speed of training over the last writes; None before the first step."""
        (first, since), (last, until) = self.recent[0], self.recent[-1]
        return (last - first) * self.tokens_per_step / (until - since) if until > since else None


def read_progress(path: Path) -> dict[str, Any] | None:
    """What a run's file tells; None where it is gone by now, or cannot be understood."""
    try:
        return read_shape(path, PROGRESS)
    except (InputError, OSError):
        return None


def is_under_way(progress: dict[str, Any], now: float) -> bool:
    """Whether the process that wrote this still trains; `now` is the time in seconds since 1970."""
    there = is_there(progress["process"])
    return now - progress["updated_at"] < SILENT_SECONDS if there is None else there


# --- processes -------------------------------------------------------------------------------------------------------
