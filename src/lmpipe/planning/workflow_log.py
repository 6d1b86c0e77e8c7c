"""Messages of `lmpipe run`: a line for each finished job and a bar. A logger plugin of Snakemake, loaded by name."""

import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from lmpipe.io.formatting import format_seconds
from lmpipe.io.progress import log
from lmpipe.planning.stages import STAGES

if TYPE_CHECKING:
    from snakemake.workflow import Workflow

ANNOUNCEMENT = "announcement"  # event of this project's own messages for users, beside those of Snakemake
NOTHING_TO_DO = "Nothing to be done"
# What the lines of failed jobs say already.
REDUNDANT = ("Exiting because a job", "RuleException:\nCalledProcessError", "WorkflowError:\nAt least one job")
MAX_LOG_LINES = 10  # of a failed job's log
MAX_RUNNING_LABELS = 2


def announce(text: str) -> None:
    """Log a message for the user in its place among those of Snakemake."""
    from snakemake.logging import logger

    logger.info(text, extra={"event": ANNOUNCEMENT})


def attach(workflow: "Workflow") -> None:
    """Let the messages of this process's call, if it is one of `lmpipe run`, know the workflow."""
    if LogHandler.current is not None:
        LogHandler.current.workflow = workflow


class LogHandler(LogHandlerBase):
    """Prints those of Snakemake's messages that a user needs, in a separate thread; the log file has all of them.

    Snakemake looks for a class of this name. `current` is the one of this process's call.
    """

    writes_to_stream = has_filter = has_formatter = True
    writes_to_file = needs_rulegraph = False
    current: ClassVar["LogHandler | None"] = None

    def __post_init__(self) -> None:
        """Start without jobs."""
        LogHandler.current = self
        self.workflow: Workflow | None = None
        self.labels: dict[int, str] = {}
        self.started: dict[int, float] = {}  # of the jobs that run
        self.done = self.total = 0
        self.bar: Any = None

    @property
    def is_dry_run(self) -> bool:
        """True if jobs are listed and not run."""
        return self.common_settings.dryrun

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message."""
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                self.total = sum(record.stats.get(stage.rule, 0) for stage in STAGES)
            case LogEvent.JOB_INFO:
                values = (f"seed{v}" if name == "seed" else v for name, v in (record.wildcards or {}).items())
                # Such as `train learning_rate/max_lr=0.01/seed0`; none for a target without files.
                self.labels[record.jobid] = f"{record.rule_name} {'/'.join(values)}".rstrip() if record.output else ""
                self.started[record.jobid] = time.monotonic()
            case LogEvent.JOB_FINISHED:
                self.finish(record.job_id)
            case LogEvent.JOB_ERROR:
                self.fail(record.jobid, record.log)
            case event:
                text = record.getMessage()
                is_warning = record.levelno >= logging.WARNING and not text.startswith(REDUNDANT)
                if event == ANNOUNCEMENT or is_warning or text.startswith(NOTHING_TO_DO):
                    self.print(text)
        if not self.is_dry_run:
            self.draw()

    def finish(self, jobid: int) -> None:
        """Print the line of a finished job; a target without files has none."""
        label, started = self.labels[jobid], self.started.pop(jobid, None)
        if label and started is not None:
            self.done += 1
            seconds = format_seconds(time.monotonic() - started)
            self.print(f"[{self.done:>{len(str(self.total))}}/{self.total}] {label}, {seconds}")

    def fail(self, jobid: int, logs: list[str]) -> None:
        """Print the end of a failed job's logs. Snakemake reports each failure again when it ends."""
        if self.started.pop(jobid, None) is None:
            return
        self.print(f"failed: {self.labels[jobid]}")
        for path in logs:
            self.print(f"  the end of {path}:")
            for line in last_lines(path):
                self.print(f"    {line}")

    def draw(self) -> None:
        """Draw the bar, if standard error is a terminal."""
        if self.bar is None and self.started:
            self.bar = start_bar(self.total)
        if self.bar is not None:
            labels = [self.labels[jobid] for jobid in self.started]
            more = [f"{len(labels) - MAX_RUNNING_LABELS} more"] if len(labels) > MAX_RUNNING_LABELS else []
            running = ", ".join(labels[:MAX_RUNNING_LABELS] + more)
            self.bar.update(self.bar.task_ids[0], completed=self.done, running=running)

    def print(self, text: str) -> None:
        """Print lines above the bar, or log them without one."""
        if self.bar is None:
            log(text)
        else:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """End the bar, and name the log file."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        if self.workflow is not None and self.labels and not self.is_dry_run:
            for path in self.workflow.logger_manager.get_logfile():
                log(f"The whole log is {os.path.relpath(path)}.")
            self.labels.clear()
        super().close()


def start_bar(total: int) -> Any:
    """Return a started bar of the jobs; None without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    running = TextColumn("{task.fields[running]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    bar = Progress(BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), running, console=console, expand=True)
    bar.add_task("jobs", total=total, running="")
    bar.start()
    return bar


def last_lines(path: str) -> list[str]:
    """Return the last lines of a text file; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque(file, MAX_LOG_LINES)]
    except OSError:
        return []
