"""An incomplete study: findings from the results that exist, and a list of those that are missing or failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from lmpipe.analysis.finding import Finding, Findings, missing
from lmpipe.analysis.problems.registry import analyze_all, analyze_problem
from lmpipe.analysis.results import Results
from lmpipe.analysis.run_states import TERMINAL_STATES, RunState, Snapshot, count_states
from lmpipe.analysis.runs import group_by
from lmpipe.errors import InputError
from lmpipe.io.formatting import format_int, join_words
from lmpipe.planning.session import workflow_command

# The problem that covers the runs of all experiments.
ALL_RUNS = "experiment_log"
MAX_NAMED_RUNS = 8
# Stages that the report itself replaces.
REPORT_STAGES = ("findings", "report")


@dataclass(frozen=True)
class Gaps:
    """Progress of an incomplete study, and the command that continues it."""

    progress: str
    results: list[tuple[str, str, str]]
    """Missing and failed results: name, state, and the reason if it is known."""
    command: str


def available_results(snapshot: Snapshot) -> tuple[Results, dict[str, str]]:
    """Return the results that exist, and errors by experiment: one that cannot be read is not among the results."""
    study = snapshot.files.study
    finished = group_by((run.run for run in snapshot.runs if run.result), lambda run: run.experiment)
    runs = {experiment: [(run.name, run.seed) for run in members] for experiment, members in finished.items()}
    results = Results(study.folder, study.plan.study, runs)
    unreadable: dict[str, str] = {}
    for experiment in list(runs):
        try:
            for run in results.experiment(experiment).runs:
                run.metrics()
        except InputError as error:
            unreadable[experiment] = str(error)
            del results.run_keys[experiment]
    return results, unreadable


def analyze_available(results: Results, snapshot: Snapshot, unreadable: Mapping[str, str]) -> Findings:
    """Analyze each problem and experiment from the results that exist; each finding counts its runs."""
    runs = group_by(snapshot.runs, lambda run: run.run.experiment)
    runs[ALL_RUNS] = snapshot.runs
    return analyze_all(results, lambda name, _: available_finding(results, name, runs.get(name, []), unreadable))


def available_finding(
    results: Results, problem: str, runs: Sequence[RunState], unreadable: Mapping[str, str]
) -> Finding:
    """Return the finding of one problem or experiment, from those of its `runs` that are finished."""
    unfinished = [run for run in runs if run.state not in TERMINAL_STATES]
    num_finished = len(runs) - len(unfinished)
    if unfinished and not num_finished:
        return missing(f"None of its {format_int(len(runs))} runs has finished: {join_words(count_states(runs))}.")
    if problem in unreadable:
        return missing(f"Its results cannot be read: {unreadable[problem]}.")
    try:
        finding = analyze_problem(problem, results)
    except InputError as error:
        return missing(f"Its results cannot be read: {error}.")
    if not unfinished or finding.status == "missing":
        return finding
    reason = (
        f"So far from {format_int(num_finished)} of {format_int(len(runs))} runs. Missing: {run_names(unfinished)}."
    )
    return replace(finding, status="partial", reason=" ".join(filter(None, (reason, finding.reason))))


def find_gaps(snapshot: Snapshot) -> Gaps:
    """Return the missing and failed results of a study, failures first."""
    study = snapshot.files.study
    jobs = [
        (f"the job that logs to logs/{study.plan.study.study}/{job.log}", "failed", job.line)
        for job in snapshot.other_failures
    ]
    runs = [
        (f"run {run.run.id}", run.state, run.remark)
        for run in sorted(snapshot.runs, key=lambda run: run.state != "failed")
        if run.state not in TERMINAL_STATES
    ]
    stages = [
        (stage, "missing", f"{format_int(done)} of {format_int(total)} exist")
        for stage, (done, total) in snapshot.stages.items()
        if done < total and stage not in REPORT_STAGES
    ]
    num_finished, total = sum(run.state in TERMINAL_STATES for run in snapshot.runs), len(snapshot.runs)
    date = datetime.fromtimestamp(snapshot.now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    states = join_words(count_states(snapshot.runs))
    progress = f"{format_int(num_finished)} of {format_int(total)} training runs ({states}), as of {date}."
    command = study.session.command if study.session else workflow_command(study.paths.study_file)
    return Gaps(progress, [*jobs, *runs, *stages], command)


def run_names(runs: Sequence[RunState]) -> str:
    """Return the names and states of the first MAX_NAMED_RUNS runs, and the number of the others."""
    names = [f"{run.run.name} with seed {run.run.seed} ({run.state})" for run in runs]
    num_omitted = len(names) - MAX_NAMED_RUNS
    return join_words(names if num_omitted <= 1 else [*names[:MAX_NAMED_RUNS], f"{format_int(num_omitted)} more"])
