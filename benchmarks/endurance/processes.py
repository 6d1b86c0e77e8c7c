"""Processes that an endurance run starts, watches and kills."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.endurance.faults import LossError

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.05
MAX_SECONDS = 900.0  # of a whole study, on a busy machine


def temp_folder() -> Path:
    """Make a folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="endurance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def snakemake(study_file: str | Path, *arguments: str) -> list[str]:
    """Return the module and arguments that run the workflow of a study."""
    return ["snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments, "--configfile", str(study_file)]


@contextlib.contextmanager
def start(
    command: Sequence[str | Path], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """Run a Python module with arguments in `folder`, as the leader of a process group; append its output to `log`.

    Whatever is left of the group when the block ends is killed.
    """
    with open(log, "ab") as output:
        call = [sys.executable, "-m", *map(str, command)]
        process = subprocess.Popen(
            call, cwd=folder, env=environment, start_new_session=True, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        kill_all(process)


def kill_all(process: subprocess.Popen) -> bool:
    """SIGKILL a process and all its descendants at one moment; return whether it was still running."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGSTOP)  # first, so that none of them sees another one die
    leader = psutil.Process(process.pid)
    family = [leader, *leader.children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family)
    return True


def poll(process: subprocess.Popen, poll_seconds: float = POLL_SECONDS) -> Iterator[float]:
    """Yield the seconds since the call while the process runs; raise LossError after MAX_SECONDS."""
    started = time.monotonic()
    while process.poll() is None:
        if (waited := time.monotonic() - started) > MAX_SECONDS:
            raise LossError(f"a process still runs after {waited:.0f} s")
        yield waited
        time.sleep(poll_seconds)


def finish(command: Sequence[str | Path], folder: Path, log: Path, check: Callable[[], None] = lambda: None) -> None:
    """Run a command to its end, checking all the while; raise LossError if it fails."""
    with start(command, folder, log) as process:
        for _ in poll(process):
            check()
    check()
    if process.returncode:
        raise LossError(f"{command[0]} ended with {process.returncode}: {tail(log)}")


def wait_until(
    process: subprocess.Popen, condition: Callable[[], bool], delay_seconds: float, poll_seconds: float = POLL_SECONDS
) -> None:
    """Wait until `delay_seconds` after `condition` first holds, or until the process ends."""
    since = None
    for waited in poll(process, poll_seconds):
        if since is None and condition():
            since = waited
        if since is not None and waited >= since + delay_seconds:
            return


def tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-1500:]
