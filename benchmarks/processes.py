"""Processes that a torture run starts, watches and kills."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.faults import LostError

POLL_SECONDS = 0.05
# A whole study may run so long, on a busy machine.
LONGEST_SECONDS = 900.0


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """A Python module with arguments, run in a folder as the leader of a group of processes.

    What it says is added to `log`. Whatever is left of it after the block is killed.
    """
    with open(log, "ab") as said:
        call = [sys.executable, "-m", *map(str, command)]
        said_by = {"stdout": said, "stderr": said}
        process = subprocess.Popen(call, cwd=folder, env=environment, start_new_session=True, **said_by)
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen) -> bool:
    """SIGKILL a process and all that descends from it, at one moment; whether it was still running."""
    if process.poll() is not None:
        return False
    # Stopped first, so that none of them sees another one die.
    os.killpg(process.pid, signal.SIGSTOP)
    leader = psutil.Process(process.pid)
    everyone = [leader, *leader.children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(everyone)
    return True


def running(process: subprocess.Popen, poll_seconds: float = POLL_SECONDS) -> Iterator[float]:
    """The seconds since now, again and again while a process runs; raises LostError where that is too long."""
    begun = time.monotonic()
    while process.poll() is None:
        if (waited := time.monotonic() - begun) > LONGEST_SECONDS:
            raise LostError(f"expected an end, found a process that runs for {waited:.0f} s")
        yield waited
        time.sleep(poll_seconds)


def wait_for(
    process: subprocess.Popen, reached: Callable[[], bool], later_seconds: float, poll_seconds: float = POLL_SECONDS
) -> None:
    """Wait until a condition, which is asked for again and again, was met so long ago, or the process ends."""
    since = None
    for waited in running(process, poll_seconds):
        if reached() and since is None:
            since = waited
        if since is not None and waited >= since + later_seconds:
            return


def tail(log: Path) -> str:
    """The end of what a process said."""
    return log.read_text(encoding="utf-8", errors="replace")[-1500:]
