"""Faults and attempts: what an endurance run repeats, within limits of time and memory, and how it counts losses."""

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

CPU_SECONDS = 5.0  # CPU time, so that a busy machine makes nothing slow
WALL_SECONDS = 300.0
MEMORY_BYTES = 2 << 30
MARKER = "pwned"  # file that planted code would create


class LossError(Exception):
    """Something that an attempt should have preserved and did not: a clear message, a right result, a bound."""


@dataclass(frozen=True)
class Fault:
    """A way to do harm.

    `attempt` does it once, in the working directory `folder`, and returns a word for how lmpipe survived, such as
    "refused"; any exception is a loss. `prepare` makes what all attempts share. `is_limited` bounds CPU time and
    memory; attempts that start processes, which would inherit the limits, have none.
    """

    name: str
    tries: int
    attempt: Callable[[Random, Path], str]
    prepare: Callable[[], object] = lambda: None
    is_limited: bool = True


@dataclass
class Outcome:
    """Counts of one fault: how often each word was returned, and the error of each lost attempt by its seed."""

    fault: Fault
    survived: Counter[str] = field(default_factory=Counter)
    losses: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0


def run_fault(fault: Fault, first_seed: int, tries: int) -> Outcome:
    """Attempt a fault `tries` times, with seeds from `first_seed` on; print each loss with the call that repeats it."""
    outcome = Outcome(fault)
    fault.prepare()
    started = time.perf_counter()
    for seed in range(first_seed, first_seed + tries):
        try:
            outcome.survived[run_attempt(fault, seed)] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            lines = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
            outcome.losses[seed] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({lines})"
            print(f"lost: python -m benchmarks.endurance '{fault.name}' --seed {seed} --tries 1", flush=True)
            print(f"      {outcome.losses[seed]}", flush=True)
    outcome.seconds = time.perf_counter() - started
    return outcome


def run_attempt(fault: Fault, seed: int) -> str:
    """Run one attempt in a temporary folder; raise LossError if planted code ran."""
    with tempfile.TemporaryDirectory(prefix="endurance-") as name, contextlib.chdir(name):
        limits = limited() if fault.is_limited else contextlib.nullcontext()
        with limits, contextlib.redirect_stderr(io.StringIO()):
            word = fault.attempt(Random(f"{fault.name} {seed}"), Path(name))
        if any(MARKER in files for _, _, files in os.walk(name)):
            raise LossError("code from a file was executed")
    return word


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError or MemoryError if the block exceeds CPU_SECONDS, WALL_SECONDS or MEMORY_BYTES more memory."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {CPU_SECONDS:g} s of CPU time, or {WALL_SECONDS:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in handlers.items():
            signal.signal(number, handler)
