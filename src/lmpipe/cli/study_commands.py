"""Commands for a whole study: its cost, its state, and the integrity of its results."""

import os
import sys

from lmpipe.cli.arguments import RESULTS, Args, argument, command, positive_int


@command(
    argument("study", help="study file, such as config/tinystories.yaml"),
    argument("--cores", type=positive_int, default=os.cpu_count(), help="CPU cores (default: all)"),
    examples="lmpipe estimate config/tinystories.yaml --cores 8",
)
def estimate(args: Args) -> None:
    """Estimate the cost of a study: downloads, disk, memory, training FLOPs and time."""
    from lmpipe.planning.estimate import Estimate, format_estimate
    from lmpipe.planning.plan import read_plan
    from lmpipe.planning.text_checks import check_texts

    plan = read_plan(args.study)
    check_texts(plan, args.study)
    print(format_estimate(Estimate(plan, args.cores)))


@command(
    argument("study", nargs="?", help="results folder or study file (default: the study that started last)"),
    argument("--once", action="store_true", help="print once and exit, as without a terminal"),
    examples="lmpipe status\nlmpipe status results/laptop --once",
)
def status(args: Args) -> None:
    """Show the state of a study while it runs: its runs, their latest losses, the time left."""
    from lmpipe.report.monitor import status

    status(args.study, args.once)


@command(RESULTS, examples="lmpipe verify results/laptop")
def verify(args: Args) -> None:
    """Recompute the checksums of all results of a study.

    The exit code is 1 if a file differs, is missing or added.
    """
    from lmpipe.provenance.checksums import verify

    if not verify(args.results):
        sys.exit(1)


@command(RESULTS, examples="lmpipe clear-runs results/laptop")
def clear_runs(args: Args) -> None:
    """Delete the run store of a study, so that its runs are trained again."""
    from lmpipe.training.run import clear

    clear(args.results)


@command(RESULTS, examples="lmpipe collect-provenance results/laptop")
def collect_provenance(args: Args) -> None:
    """Collect the records of all jobs of a study in provenance.json."""
    from lmpipe.planning.session import read_study
    from lmpipe.planning.stages import records
    from lmpipe.provenance.checksums import collect_records

    plan, paths = read_study(args.results)
    collect_records(records(plan), plan.study_settings(), paths.root, paths.provenance)
