"""What a training run tells while it is under way: a small file in its folder of the store, for `lmpipe status`.

Nobody waits for it: it is written every few seconds at most, never flushed to disk, and a disk that cannot take it
stops no run. No lock is asked for either: whether a run is under way follows from its process.
"""

import contextlib
import json
import os
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from lmpipe import InputError
from lmpipe.shapes import PROGRESS, read_shape

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
            "updated": time.time(),
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
    return now - progress["updated"] < SILENT_SECONDS if there is None else there


# --- processes -------------------------------------------------------------------------------------------------------


def this_process() -> dict[str, Any]:
    """What tells this process from every other one, also after its number has been given to another."""
    return {**here(), "id": os.getpid(), "started": start_of(os.getpid())}


def here() -> dict[str, Any]:
    """Where numbers of processes mean the same: the machine, and the container on it (null where there are none)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = None
    return {"host": socket.gethostname(), "namespace": namespace}


def is_there(process: dict[str, Any]) -> bool | None:
    """Whether a process is still there; None where that cannot be seen from here."""
    if any(process[key] != value for key, value in here().items()):
        return None
    if process["started"] is not None:
        return start_of(process["id"]) == process["started"]
    try:
        os.kill(process["id"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def start_of(process_id: int) -> int | None:
    """When a process began, in ticks since the machine did; None for one that has ended, or a system without /proc."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # After the name in brackets, which may hold anything: the state first, the start as the 20th (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
