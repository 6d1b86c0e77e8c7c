"""Processes that start at once: they are forked from a server that has loaded torch and Snakemake."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
TRAINING = ["lmpipe.training.trainer", "torch.distributed.run", "pytest"]
SNAKEMAKE = ["snakemake.cli", "snakemake.report.html_reporter"]
SERVER.set_forkserver_preload(TRAINING)


class ForkedProcess:
    """A function's call in a process of its own, with the methods of subprocess.Popen; its exit code is 0 or 1."""

    def __init__(self, function: Callable[..., object], *args: Any, **kwargs: Any):
        self._process = SERVER.Process(target=function, args=args, kwargs=kwargs)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or minus the signal that ended the process; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended; return the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def write_to(log: Path) -> None:
    """Append this process's output to a log."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)


def run_module(module: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Run `python -m MODULE ARGUMENTS` in a folder, as the leader of a process group; append its output to a log."""
    os.setsid()
    os.chdir(folder)
    write_to(log)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
