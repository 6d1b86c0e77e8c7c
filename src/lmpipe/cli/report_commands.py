"""Commands that evaluate results: plots, findings, the report, and comparisons of studies."""

from lmpipe.cli.arguments import EXPERIMENT, RESULTS, Args, argument, command
from lmpipe.io.files import JobResult


@command(RESULTS, EXPERIMENT, examples="lmpipe plot-experiment results/laptop learning_rate")
def plot_experiment(args: Args) -> JobResult:
    """Plot the learning curves and final losses of an experiment, and write its tables."""
    from lmpipe.analysis.results import read_experiment
    from lmpipe.planning.session import read_study
    from lmpipe.report.plots.experiment import plot_experiment

    plan, paths = read_study(args.results)
    settings = plan.experiment_settings(args.experiment)
    experiment = read_experiment(paths.root, args.experiment, plan.run_keys()[args.experiment])
    output = paths.experiment(args.experiment)
    plot_experiment(experiment, output)
    return JobResult(output, [run.folder for run in experiment.runs], settings)


@command(RESULTS, examples="lmpipe analyze results/laptop")
def analyze(args: Args) -> JobResult:
    """Analyze the results of a study: findings.json, runs.csv and runs.parquet."""
    from lmpipe.analysis.problems.registry import analyze_all
    from lmpipe.analysis.results import Results
    from lmpipe.analysis.run_table import write_tables
    from lmpipe.planning.session import read_study
    from lmpipe.planning.stages import records

    plan, paths = read_study(args.results)
    results = Results(paths.root, plan.study, plan.run_keys())
    write_tables(results.runs(), paths)
    analyze_all(results).write(paths.findings)
    inputs = [paths.root / record for record in records(plan, without=("analyze", "report"))]
    return JobResult(paths.findings, inputs, plan.study_settings())


@command(RESULTS, examples="lmpipe report results/laptop")
def report(args: Args) -> JobResult | None:
    """Write report.html of a study, complete or not, from the results that exist."""
    from lmpipe.planning.session import find_study
    from lmpipe.report.page import build_report

    study = find_study(args.results)
    if not build_report(study):
        print(f"{study.paths.report} (the study is incomplete)")
        return None
    experiments = map(study.paths.experiment, study.plan.runs_by_experiment)
    return JobResult(study.paths.report, [study.paths.findings, *experiments], study.plan.study_settings())


@command(
    argument("first", help="results folder of a study"),
    argument("second", help="results folder of another study"),
    argument("--output", help="also write the comparison to this file, .json or .md"),
    examples="lmpipe compare results/laptop results/laptop_wide --output comparison.md",
)
def compare(args: Args) -> None:
    """Compare two studies: findings that changed, by how much, and differences in their settings."""
    from lmpipe.report.compare import compare

    compare(args.first, args.second, args.output)


@command(
    argument("study", help="results folder or study file"),
    argument("--to", required=True, choices=["tensorboard", "wandb"], help="tracker, whose package must be there"),
    argument("--follow", action="store_true", help="add new rows until the study is over or Ctrl-C is pressed"),
    examples="lmpipe log results/laptop --to tensorboard --follow\nlmpipe log results/laptop --to wandb",
)
def log(args: Args) -> None:
    """Log the runs of a study, over or under way, to TensorBoard or Weights & Biases.

    Files are in results/STUDY/TRACKER. A second call adds what is new. Of a run under way, the metrics of its newest
    checkpoint are logged.
    """
    from lmpipe.report.trackers import log_study

    log_study(args.study, args.to, args.follow)
