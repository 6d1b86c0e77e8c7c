"""Progress of long work on standard error: a bar in a terminal, otherwise a line every few seconds."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

LOG_INTERVAL_SECONDS = 10.0
REDRAW_SECONDS = 0.1

Item = TypeVar("Item")


def log(text: str) -> None:
    """Write a line to standard error; a log that cannot take it (closed, a full disk) does not stop the work."""
    if sys.stderr is None:  # closed by the caller
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # The rest of the buffer would fail again when the interpreter ends, and change the exit code.
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


class Progress:
    """Counter of units of work towards a total."""

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""
        self.started = self.reported = time.monotonic()
        self.bar = start_bar(label, total) if sys.stderr is not None and sys.stderr.isatty() else None

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units; `note` is a short text such as the latest loss."""
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self.reported < (REDRAW_SECONDS if self.bar else LOG_INTERVAL_SECONDS):
            return
        self.reported = now
        if self.bar is None:
            self.print_line()
        else:
            with contextlib.suppress(OSError):
                self.bar.update(self.bar.task_ids[0], completed=self.done, note=self.describe(), refresh=True)

    def describe(self) -> str:
        """Return the speed and the note."""
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        return f"{rate:,.0f} {self.unit}/s {self.note}".rstrip()

    def print_line(self) -> None:
        """Write one line: amount done, speed, time left, note."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / elapsed
        seconds_left = (self.total - self.done) / rate if rate else float("nan")
        share = 100 * self.done / self.total if self.total else 100.0
        amounts = f"{self.label}: {self.done:,} of {self.total:,} {self.unit} ({share:.0f} %)"
        log(f"{amounts}, {rate:,.0f} {self.unit}/s, {seconds_left:.0f} s left {self.note}".rstrip())

    def close(self) -> None:
        """Draw the final state of the bar, if there is one."""
        if self.bar is not None:
            with contextlib.suppress(OSError):
                self.bar.update(self.bar.task_ids[0], completed=self.done, note=self.describe())
                self.bar.stop()


def start_bar(label: str, total: int):
    """Return a started progress bar of rich with one task."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    # Drawn by `advance`: a separate thread could fail on a terminal that closes.
    bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), auto_refresh=False)
    bar.add_task(label, total=total, note="")
    bar.start()
    return bar


@contextlib.contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Progress]:
    """Report progress while the block runs.

    >>> with progress("encoding", total=3, unit="bytes") as report:
    ...     report.advance(3)
    """
    report = Progress(label, total, unit)
    try:
        yield report
    finally:
        report.close()


def track(items: Iterable[Item], label: str, total: int, unit: str) -> Iterator[Item]:
    """Yield items and report progress, one unit for each."""
    with progress(label, total, unit) as report:
        for item in items:
            yield item
            report.advance(1)
