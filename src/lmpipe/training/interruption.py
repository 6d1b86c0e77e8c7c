"""Requests to end a run between two steps: signals, and the end of the cluster's job that trains it.

A job of Snakemake's has its start in LMPIPE_JOB_START and its length in `--time-limit`; newer versions of SLURM also
name the end of any job. A run that ends early has saved a checkpoint, and SLURM puts its job into the queue again,
which is no failure for Snakemake. Elsewhere its exit code says that the same command continues.
"""

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from types import FrameType

from lmpipe.io.progress import log

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
END_NOTICE = signal.SIGUSR1  # of a job whose end is near; sbatch --signal=USR1@120 lets all of its processes have it
JOB_START, SLURM_END, SLURM_JOB = "LMPIPE_JOB_START", "SLURM_JOB_END_TIME", "SLURM_JOB_ID"
END_MARGIN_SECONDS = 8.0  # for a checkpoint and the end of the processes; besides, twice the longest chunk of steps
REQUEUE_SECONDS = 30  # limit of the call of scontrol


def job_end(time_limit: float | None, variables: Mapping[str, str] = os.environ) -> float:
    """Return the time at which the cluster ends this job, in seconds since 1970; infinity if it does not.

    `time_limit` are the minutes that a job of Snakemake's was granted; outside of one they do not count.
    """
    end = variables.get(SLURM_END, "")
    ends = [float(end)] if end.isdecimal() and int(end) else []
    if JOB_START in variables and time_limit:
        ends.append(float(variables[JOB_START]) + 60 * time_limit)
    return min(ends, default=math.inf)


def requeue_job(variables: Mapping[str, str] = os.environ) -> bool:
    """Let SLURM queue this job of Snakemake's again, under its number; return whether it does.

    A job that a user submitted is left alone: other commands may run in it.
    """
    if JOB_START not in variables or SLURM_JOB not in variables:
        return False
    command = ["scontrol", "requeue", variables[SLURM_JOB]]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=REQUEUE_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        log(f"SLURM did not queue the job again: {getattr(error, 'stderr', None) or error}".strip())
        return False
    return True


class TrainingInterrupted(Exception):  # noqa: N818 (a request, not an error)
    """The run must end; the argument is the exit code."""


class StopGuard(contextlib.AbstractContextManager):
    """Defers SIGTERM (a cluster's notice of preemption) and SIGINT until `check`, between two steps.

    From `job_end` on, or rather in time for a checkpoint, and after END_NOTICE, it asks to end as well, with exit code
    75 (EX_TEMPFAIL). A job that has made no step is not ended by that: the next one would come no further.
    """

    def __init__(self, job_end: float = math.inf) -> None:
        self.job_end = job_end
        self.signal_number: int | None = None
        self.last_progress, self.longest_seconds, self.has_progress = time.time(), 0.0, False

    def __enter__(self) -> "StopGuard":
        self.previous = {number: signal.signal(number, self.receive) for number in (*STOP_SIGNALS, END_NOTICE)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal."""
        if number == END_NOTICE:
            self.job_end = 0.0
        else:
            self.signal_number = number

    def mark_progress(self) -> None:
        """Note that a chunk of steps was made, and how long it took with its evaluation and checkpoint."""
        now = time.time()
        self.longest_seconds = max(self.longest_seconds, now - self.last_progress)
        self.last_progress, self.has_progress = now, True

    @property
    def exit_code(self) -> int | None:
        """Exit code with which the run must end now; None if it may go on."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        margin = END_MARGIN_SECONDS + 2 * self.longest_seconds
        return os.EX_TEMPFAIL if self.has_progress and time.time() + margin >= self.job_end else None

    def check(self) -> None:
        """Raise TrainingInterrupted if the run must end."""
        if (code := self.exit_code) is not None:
            raise TrainingInterrupted(code)
