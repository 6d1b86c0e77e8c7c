"""Runs that try to break lmpipe: `python -m benchmarks.torture`. Each fault is tried many times; nothing may be lost.

Prints a table (fault, tries, survived, lost) and, for each loss, the call that makes it again; exit code 1 says that
there was one. A new fault is one more entry of a module's FAULTS.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from benchmarks import file_faults, run_faults, study_faults, workflow_faults
from benchmarks.faults import Fault, Outcome, run_fault

MODULES = (study_faults, file_faults, run_faults, workflow_faults)
FAULTS: dict[str, Fault] = {fault.name: fault for module in MODULES for fault in module.FAULTS}
SHOWN_EVERY_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all tries, print the table, and end with exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__.split("\n")[0])
    parser.add_argument("--tries", type=int, help="tries of each fault (default: as many as each is worth)")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first try (default 0)")
    parser.add_argument("--only", choices=FAULTS, metavar="FAULT", help=f"one fault alone: {', '.join(FAULTS)}")
    given = parser.parse_args(arguments)
    # So that what was started is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    faults = [FAULTS[given.only]] if given.only else list(FAULTS.values())
    outcomes = [run_fault(fault, given.seed, given.tries or fault.tries, Ticker()) for fault in faults]
    print(table(outcomes))
    sys.exit(1 if any(outcome.losses for outcome in outcomes) else 0)


class Ticker:
    """Writes a line every few seconds, and each loss at once."""

    def __init__(self):
        self.shown, self.told = time.monotonic(), 0

    def __call__(self, outcome: Outcome) -> None:
        """Tell what is new."""
        for number, loss in list(outcome.losses.items())[self.told :]:
            again = f"python -m benchmarks.torture --only '{outcome.fault.name}' --seed {number} --tries 1"
            print(f"lost: {again}\n      {loss}", flush=True)
        self.told = len(outcome.losses)
        if time.monotonic() - self.shown >= SHOWN_EVERY_SECONDS:
            self.shown = time.monotonic()
            print(f"{outcome.fault.name}: {outcome.tries:,} tries, {self.told} lost", file=sys.stderr, flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """What became of the tries, a line for each fault."""
    lines = [f"{'fault':24} {'tries':>7} {'survived':>9} {'lost':>5} {'seconds':>8}  how"]
    for outcome in outcomes:
        how = ", ".join(f"{word} {count:,}" for word, count in outcome.survived.most_common())
        survived, lost = outcome.survived.total(), len(outcome.losses)
        lines.append(
            f"{outcome.fault.name:24} {outcome.tries:7,} {survived:9,} {lost:5,} {outcome.seconds:8.1f}  {how}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
