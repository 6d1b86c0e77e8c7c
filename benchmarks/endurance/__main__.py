"""Try to break lmpipe: `python -m benchmarks.endurance [FAULT] [--tries N] [--seed N]`.

Each fault is attempted many times. The table shows attempts, survivals and losses; the exit code is 1 if anything was
lost. A new fault is an entry in a module's FAULTS.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from benchmarks.endurance import damaged_files, hostile_studies, killed_runs, killed_studies
from benchmarks.endurance.faults import Fault, Outcome, run_fault

MODULES = (hostile_studies, damaged_files, killed_runs, killed_studies)
FAULTS: dict[str, Fault] = {fault.name: fault for module in MODULES for fault in module.FAULTS}


def main(argv: Sequence[str] | None = None) -> None:
    """Attempt the faults, print the table, exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description=__doc__.split("\n")[0])
    parser.add_argument("fault", nargs="?", choices=FAULTS, metavar="FAULT", help=f"one of: {', '.join(FAULTS)}")
    parser.add_argument("--tries", type=int, help="attempts of each fault (default: the fault's own number)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first attempt (default 0)")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the processes of an attempt, too
    faults = [FAULTS[args.fault]] if args.fault else list(FAULTS.values())
    outcomes = [run_fault(fault, args.seed, args.tries or fault.tries) for fault in faults]
    print(table(outcomes))
    sys.exit(any(outcome.losses for outcome in outcomes))


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each fault: attempts, survivals, losses, seconds, and how the attempts ended."""
    lines = [f"{'fault':20} {'tries':>7} {'survived':>9} {'lost':>5} {'seconds':>8}  how"]
    for outcome in outcomes:
        survived, lost = outcome.survived.total(), len(outcome.losses)
        how = ", ".join(f"{word} {count:,}" for word, count in outcome.survived.most_common())
        name = outcome.fault.name
        lines.append(f"{name:20} {survived + lost:7,} {survived:9,} {lost:5,} {outcome.seconds:8.1f}  {how}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
