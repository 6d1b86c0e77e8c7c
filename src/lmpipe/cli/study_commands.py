"""Commands for a whole study: its cost, its state, and the integrity of its results."""

import os
import sys

from lmpipe.cli.arguments import RESULTS, Args, argument, command, positive_int


@command(
    argument("name", nargs="?", help="shipped study (laptop, smoke, cs336 ...) or profile (gpu, slurm ...) to copy"),
    examples="lmpipe init\nlmpipe init tinystories\nlmpipe init slurm",
)
def init(args: Args) -> None:
    """Write study.yaml, a small study to begin with, or copy a shipped study or profile to this folder."""
    from lmpipe.planning.workflow_call import PACKAGE, copy_shipped

    path = copy_shipped(args.name)
    print(f"wrote {path}")
    if path.is_file():
        print(f"`lmpipe run {path}` carries it out; {PACKAGE / 'config/README.md'} explains every key")


@command(
    argument(
        "words",
        nargs="*",
        metavar="study.yaml|target",
        help="study file (default study.yaml), then results or groups to make (default: everything)",
    ),
    argument("--cores", type=positive_int, help="CPU cores (default: all)"),
    argument("--profile", default="default", help="name of a profile, such as slurm, or its folder"),
    argument("-n", "--dry-run", action="store_true", help="list the jobs, and what changed"),
    examples="lmpipe run\nlmpipe run study.yaml tokenizers --cores 2\nlmpipe run study.yaml -n\n"
    "lmpipe run study.yaml --profile slurm -- --forcerun train",
)
def run(args: Args) -> None:
    """Carry out a study in this folder: results in results/STUDY/, logs in logs/STUDY/, texts in resources/.

    Options of Snakemake follow after `--`.
    """
    from lmpipe.planning.workflow_call import STUDY_FILE, run_workflow

    has_study = args.words and args.words[0].endswith((".yaml", ".yml"))
    study, *targets = args.words if has_study else [STUDY_FILE, *args.words]
    run_workflow(study, targets, args.options, cores=args.cores, profile=args.profile, is_dry_run=args.dry_run)


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


@command(
    argument("study", help="study file, or results folder of the study as it was last carried out"),
    argument("--yes", action="store_true", help="delete them"),
    examples="lmpipe prune study.yaml\nlmpipe prune study.yaml --yes",
)
def prune(args: Args) -> None:
    """List the results that the study no longer makes, such as those of a run that left the study file."""
    from lmpipe.planning.pruning import prune
    from lmpipe.planning.session import find_study

    prune(find_study(args.study), args.yes)


@command(RESULTS, examples="lmpipe collect-provenance results/laptop")
def collect_provenance(args: Args) -> None:
    """Collect the records of all jobs of a study in provenance.json."""
    from lmpipe.planning.session import read_study
    from lmpipe.planning.stages import records
    from lmpipe.provenance.checksums import collect_records

    plan, paths = read_study(args.results)
    collect_records(records(plan), plan.study_settings(), paths.root, paths.provenance)
