"""Progress of long work: a bar in a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG_INTERVAL_SECONDS = 10.0


def log(text: str) -> None:
    """Write a line to standard error; a log that cannot take it (a full disk, a reader that left) stops no work."""
    if sys.stderr is None:  # closed: print would write to standard output
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # What waits in the buffer would fail once more when the interpreter ends, and spoil the exit code.
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


class Progress:
    """Counts units of work towards a total and shows them on standard error."""

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit = label, total, unit
        self.done = 0
        self.note = ""
        self.started = self.shown = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=label, unit=unit, unit_scale=True)

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units; `note` is a short text such as the latest loss."""
        self.done += amount
        self.note = note or self.note
        if self.bar is not None:
            self.bar.set_postfix_str(self.note, refresh=False)
            self.bar.update(amount)
        elif time.monotonic() - self.shown >= LOG_INTERVAL_SECONDS:
            self.shown = time.monotonic()
            self.line()

    def line(self) -> None:
        """Write one line: share done, rate, time left, note."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / elapsed
        left = (self.total - self.done) / rate if rate else float("nan")
        share = 100 * self.done / self.total if self.total else 100.0
        amounts = f"{self.label}: {self.done:,} of {self.total:,} {self.unit} ({share:.0f} %)"
        log(f"{amounts}, {rate:,.0f} {self.unit}/s, {left:.0f} s left {self.note}".rstrip())


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Progress]:
    """Show progress while the block runs.

    >>> with progress("encoding", total=3, unit="bytes") as shown:
    ...     shown.advance(3)
    """
    shown = Progress(label, total, unit)
    try:
        yield shown
    finally:
        if shown.bar is not None:
            shown.bar.close()
