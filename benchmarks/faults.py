"""What a torture run is made of: faults, tries that are limited in time and memory, and what is lost in them."""

import contextlib
import io
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

# Of the processor, so that a busy machine makes nothing slow; the clock ends only what waits forever.
PROCESSOR_SECONDS = 5.0
CLOCK_SECONDS = 300.0
MEMORY_BYTES = 2 << 30
# What planted code would leave behind in the folder of a try.
MARKER = "pwned"


class LostError(Exception):
    """What a try should have kept and did not: a clear message, a right result, a bound."""


@dataclass(frozen=True)
class Fault:
    """A way of doing harm. `attempt` does it once, in a folder of its own where it also runs.

    It returns one word for how that was survived, such as `refused`; whatever it raises is a loss. `prepare` makes,
    without limits, what all tries share. A try that starts processes, which would inherit its limits, has none.
    """

    name: str
    tries: int
    attempt: Callable[[Random, Path], str]
    prepare: Callable[[], object] = lambda: None
    is_limited: bool = True


@dataclass
class Outcome:
    """What became of the tries of one fault; `losses` has a line for each try that was lost, by its number."""

    fault: Fault
    tries: int = 0
    seconds: float = 0.0
    survived: Counter[str] = field(default_factory=Counter)
    losses: dict[int, str] = field(default_factory=dict)


def run_fault(
    fault: Fault, first: int, tries: int, report: Callable[[Outcome], None] = lambda outcome: None
) -> Outcome:
    """Make tries of a fault, each from a number of its own, from `first` on; `report` is called after each."""
    outcome = Outcome(fault)
    fault.prepare()
    started = time.perf_counter()
    for number in range(first, first + tries):
        try:
            outcome.survived[one_try(fault, number)] += 1
        except Exception as error:
            outcome.losses[number] = told(error)
        outcome.tries += 1
        outcome.seconds = time.perf_counter() - started
        report(outcome)
    return outcome


def one_try(fault: Fault, number: int) -> str:
    """Make one try; raises what it raises, and LostError where planted code has run."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name, contextlib.chdir(name):
        limits = limited() if fault.is_limited else contextlib.nullcontext()
        with limits, contextlib.redirect_stderr(io.StringIO()):
            word = fault.attempt(Random(f"{fault.name} {number}"), Path(name))
        if any(MARKER in files for _, _, files in os.walk(name)):
            raise LostError("code from a file has run")
    return word


def told(error: Exception) -> str:
    """An error and where it was raised, in one line."""
    frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({' > '.join(frames)})"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bound the processor time and the memory of a block; more of them raises TimeoutError or MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, give_up) for number in (signal.SIGPROF, signal.SIGALRM)}
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes() + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, CLOCK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in handlers.items():
            signal.signal(number, handler)


def give_up(number: int, frame: FrameType | None) -> None:
    """End a try that takes too long."""
    raise TimeoutError(f"took more than {PROCESSOR_SECONDS:.0f} s of the processor, or {CLOCK_SECONDS:.0f} s")


def address_space_bytes() -> int:
    """How much address space this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
