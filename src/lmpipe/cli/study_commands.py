"""Commands for a whole study: its cost, its state, and the integrity of its results."""

import os
import sys

from lmpipe.cli.arguments import Args, Commands, add_command, add_results, positive_int


def add_commands(commands: Commands) -> None:
    """Add the parsers of this module's commands."""
    parser = add_command(
        commands,
        "estimate",
        run_estimate,
        "Estimate the cost of a study: downloads, disk, memory, training FLOPs and time.",
        "lmpipe estimate config/tinystories.yaml --cores 8",
    )
    parser.add_argument("study", help="study file, such as config/tinystories.yaml")
    parser.add_argument("--cores", type=positive_int, default=os.cpu_count(), help="CPU cores (default: all)")

    parser = add_command(
        commands,
        "status",
        run_status,
        "Show the state of a study while it runs: its runs, their latest losses, the time left.",
        "lmpipe status",
        "lmpipe status results/laptop --once",
    )
    parser.add_argument("study", nargs="?", help="results folder or study file (default: the study that started last)")
    parser.add_argument("--once", action="store_true", help="print once and exit, as without a terminal")

    parser = add_command(
        commands,
        "verify",
        run_verify,
        "Recompute the checksums of all results of a study. The exit code is 1 if a file differs, is missing or added.",
        "lmpipe verify results/laptop",
    )
    add_results(parser)

    parser = add_command(
        commands,
        "clear-runs",
        run_clear_runs,
        "Delete the run store of a study, so that its runs are trained again.",
        "lmpipe clear-runs results/laptop",
    )
    add_results(parser)

    parser = add_command(
        commands,
        "collect-provenance",
        run_collect_provenance,
        "Collect the records of all jobs of a study in provenance.json.",
        "lmpipe collect-provenance results/laptop",
    )
    add_results(parser)


def run_estimate(args: Args) -> None:
    """Run `lmpipe estimate`."""
    from lmpipe.planning.estimate import estimate, format_estimate
    from lmpipe.planning.plan import read_plan

    print(format_estimate(estimate(read_plan(args.study), args.cores)))


def run_status(args: Args) -> None:
    """Run `lmpipe status`."""
    from lmpipe.report.monitor import status

    status(args.study, args.once)


def run_verify(args: Args) -> None:
    """Run `lmpipe verify`."""
    from lmpipe.provenance.checksums import verify

    if not verify(args.results):
        sys.exit(1)


def run_clear_runs(args: Args) -> None:
    """Run `lmpipe clear-runs`."""
    from lmpipe.training.run_store import clear

    clear(args.results)


def run_collect_provenance(args: Args) -> None:
    """Run `lmpipe collect-provenance`."""
    from lmpipe.planning.session import read_study
    from lmpipe.planning.stages import records
    from lmpipe.provenance.job_records import collect_records

    plan, paths = read_study(args.results)
    settings = plan.study.model_dump(mode="json", exclude_none=True)
    collect_records(records(plan), settings, paths.root, paths.provenance)
