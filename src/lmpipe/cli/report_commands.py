"""Commands that evaluate results: plots, findings, the report, and comparisons of studies."""

from typing import TYPE_CHECKING

from lmpipe.cli.arguments import Args, Commands, add_command, add_results

if TYPE_CHECKING:
    from lmpipe.provenance.job_records import JobResult


def add_commands(commands: Commands) -> None:
    """Add the parsers of this module's commands."""
    parser = add_command(
        commands,
        "plot-experiment",
        run_plot_experiment,
        "Plot the learning curves and final losses of an experiment, and write its tables.",
        "lmpipe plot-experiment results/laptop learning_rate",
    )
    add_results(parser)
    parser.add_argument("experiment", help="name of the experiment")

    parser = add_command(
        commands,
        "analyze",
        run_analyze,
        "Analyze the results of a study: findings.json.",
        "lmpipe analyze results/laptop",
    )
    add_results(parser)

    parser = add_command(
        commands,
        "report",
        run_report,
        "Write report.html of a study, complete or not, from the results that exist.",
        "lmpipe report results/laptop",
    )
    add_results(parser)

    parser = add_command(
        commands,
        "compare",
        run_compare,
        "Compare two studies: findings that changed, by how much, and differences in their settings.",
        "lmpipe compare results/laptop results/laptop_wide --output comparison.md",
    )
    parser.add_argument("first", help="results folder of a study")
    parser.add_argument("second", help="results folder of another study")
    parser.add_argument("--output", help="file for the comparison, too: .json or .md")


def run_plot_experiment(args: Args) -> "JobResult":
    """Run `lmpipe plot-experiment`."""
    from lmpipe.analysis.results import read_experiment
    from lmpipe.planning.plan import find_name
    from lmpipe.planning.session import read_study
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.report.plots.experiment import plot_experiment

    plan, paths = read_study(args.results)
    runs = plan.run_keys()[find_name("experiment", args.experiment, plan.runs_by_experiment)]
    experiment = read_experiment(paths.root, args.experiment, runs)
    output = paths.experiment(args.experiment)
    plot_experiment(experiment, output)
    inputs = [run.folder for run in experiment.runs]
    return JobResult(output, inputs, {"experiment": args.experiment, "runs": runs})


def run_analyze(args: Args) -> "JobResult":
    """Run `lmpipe analyze`."""
    from lmpipe.analysis.problems.registry import analyze_all
    from lmpipe.analysis.results import Results
    from lmpipe.planning.session import read_study
    from lmpipe.planning.stages import records
    from lmpipe.provenance.job_records import JobResult

    plan, paths = read_study(args.results)
    settings = plan.study.model_dump(mode="json", exclude_none=True)
    analyze_all(Results(paths.root, plan.study, plan.run_keys())).write(paths.findings)
    inputs = [paths.root / record for record in records(plan, without=("analyze", "report"))]
    return JobResult(paths.findings, inputs, settings)


def run_report(args: Args) -> "JobResult | None":
    """Run `lmpipe report`."""
    from lmpipe.planning.session import find_study
    from lmpipe.provenance.job_records import JobResult
    from lmpipe.report.page import build_report
    from lmpipe.study.paths import StudyPaths

    study = find_study(args.results)
    output = StudyPaths(study.folder).report
    if not build_report(study):
        print(f"{output} (the study is incomplete)")
        return None
    experiments = [study.folder / "experiments" / experiment for experiment in study.plan.runs_by_experiment]
    settings = study.plan.study.model_dump(mode="json", exclude_none=True)
    return JobResult(output, [study.folder / "findings.json", *experiments], settings)


def run_compare(args: Args) -> None:
    """Run `lmpipe compare`."""
    from lmpipe.report.compare import compare

    compare(args.first, args.second, args.output)
