"""The report of a study that is not finished: from whatever is there, with what is missing or failed, and why.

It is made beside the workflow's own results, none of which is touched: in a folder for the time being, whose entries
lead to the results that are there, and only the page is kept.
"""

import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from lmpipe.analysis.finding import Finding, Findings, missing
from lmpipe.analysis.problems import generic_experiment
from lmpipe.analysis.problems.registry import PROBLEMS, entry, module_of
from lmpipe.analysis.results import Results
from lmpipe.analysis.run_states import OVER, Look, RunState, StudyFiles, states_in
from lmpipe.errors import InputError
from lmpipe.io.formatting import format_int, join_words
from lmpipe.io.progress import log
from lmpipe.planning.session import StudySession, find_study
from lmpipe.provenance.job_records import PARTIAL_REPORT, RECORD
from lmpipe.report.page import build_report
from lmpipe.report.plots.experiment import plot_experiment
from lmpipe.study.documents import CORPUS, read_shape

# What the partial report makes anew; everything else is read where it lies.
MADE_ANEW = ("experiments", "figures", "findings.json")
ALL_RUNS = "experiment_log"
MOST_NAMED = 8
NOT_ENOUGH = "What is there does not suffice to answer this yet."


def report_partially(path: str | Path) -> Path:
    """Write the report of what is there of a study, by its results folder or study file; returns the page's path.

    Raises InputError where nothing of the study is there at all.
    """
    study = find_study(path)
    if not study.folder.is_dir():
        raise InputError(f"{study.folder}: expected results of the study, found none; let snakemake begin it first")
    look = StudyFiles(study).look(time.time())
    output = study.folder / PARTIAL_REPORT
    with tempfile.TemporaryDirectory(prefix="lmpipe-report-") as place:
        results = PartialResults(Path(place), look)
        for entry_of_study in study.folder.iterdir():
            if entry_of_study.name not in MADE_ANEW:
                (results.folder / entry_of_study.name).symlink_to(entry_of_study.absolute())
        try:
            findings_path = results.folder / "findings.json"
            Findings(study=study.plan.study.study, problems=find_what_is_there(results, look)).write(findings_path)
            build_report(
                results.folder, findings_path, output, study.plan, results=results, missing=what_is_missing(look)
            )
        except InputError as error:
            raise InputError(results.with_real_paths(str(error))) from None
    return output


class PartialResults(Results):
    """The results that are there, seen through a folder of links: runs that are over, and corpora that are made."""

    def __init__(self, folder: Path, look: Look):
        study = look.files.study
        over: dict[str, list[tuple[str, int]]] = {}
        for run in look.runs:
            if run.state in OVER:
                over.setdefault(run.run.experiment, []).append((run.run.name, run.run.seed))
        super().__init__(folder, study.plan.study.model_dump(mode="json", exclude_none=True), over)
        self.real_folder = study.folder
        self.unreadable: dict[str, str] = {}

    @cached_property
    def corpora(self) -> dict[str, dict[str, Any]]:
        """corpus.json of every corpus that is made."""
        paths = {name: self.folder / "corpora" / name / "corpus.json" for name in self.study["corpora"]}
        return {name: read_shape(path, CORPUS) for name, path in paths.items() if path.exists()}

    def with_real_paths(self, text: str) -> str:
        """A text that names the study's own folder in the place of that of the links."""
        return text.replace(str(self.folder), str(self.real_folder))


# --- findings --------------------------------------------------------------------------------------------------------


def find_what_is_there(results: PartialResults, look: Look) -> dict[str, Finding]:
    """What can be found for each problem and each other experiment, ready for findings.json."""
    runs_by_experiment = {
        name: [run for run in look.runs if run.run.experiment == name]
        for name in look.files.study.plan.runs_by_experiment
    }
    for name in list(results.plan):
        draw(results, name, is_whole=all(run.state in OVER for run in runs_by_experiment[name]))
    problems = [*PROBLEMS, *(name for name in runs_by_experiment if name not in PROBLEMS)]
    runs_behind = runs_by_experiment | {ALL_RUNS: look.runs}
    return {problem: found(results, problem, runs_behind.get(problem, [])) for problem in problems}


def draw(results: PartialResults, experiment: str, *, is_whole: bool) -> None:
    """Let an experiment's plots be there: the workflow's own ones of a whole experiment, else new ones.

    An experiment that cannot be read is left out.
    """
    target, made = (folder / "experiments" / experiment for folder in (results.folder, results.real_folder))
    target.parent.mkdir(exist_ok=True)
    if is_whole and (made / RECORD).exists():
        target.symlink_to(made.absolute())
        return
    try:
        plot_experiment(results.experiment(experiment), target)
    except InputError as error:
        results.unreadable[experiment] = results.with_real_paths(str(error))
        del results.plan[experiment]


def found(results: PartialResults, problem: str, runs: list[RunState]) -> Finding:
    """The entry of one problem in findings.json, which says how much of what it asks for is there."""
    unfinished = [run for run in runs if run.state not in OVER]
    there = len(runs) - len(unfinished)
    if unfinished and not there:
        return unanswered(problem, f"None of its {format_int(len(runs))} runs is there yet: {in_words(runs)}.")
    if problem in results.unreadable:
        return unanswered(problem, f"Its results cannot be read: {results.unreadable[problem]}.")
    answer = answered(results, problem)
    told = f"So far from {format_int(there)} of {format_int(len(runs))} runs."
    names = f"Not there: {named(unfinished)}."
    if answer is None:
        return unanswered(problem, f"{NOT_ENOUGH} {told} {names}" if unfinished else NOT_ENOUGH)
    sentences = list(map(results.with_real_paths, answer.sentences))
    if not unfinished:
        return replace(answer, sentences=sentences)
    # In the first sentence, which stands alone elsewhere; the names after it, for they may be many.
    status = "partial" if answer.status == "answered" else answer.status
    return replace(answer, status=status, sentences=[f"{told} {sentences[0]}", names, *sentences[1:]])


def unanswered(problem: str, reason: str) -> Finding:
    """The entry of a problem that what is there does not answer."""
    title, question = problem.replace("_", " ").capitalize(), "What will this experiment show?"
    if problem in PROBLEMS:
        title, question = module_of(problem).TITLE, module_of(problem).QUESTION
    return replace(missing(reason), title=title, question=question)


def answered(results: PartialResults, problem: str) -> Finding | None:
    """A problem's usual entry, from what is there; None where that does not suffice for one."""
    try:
        if problem in PROBLEMS:
            module = module_of(problem)
            return entry(problem, module.TITLE, module.QUESTION, module.analyze(results), results)
        title, question = generic_experiment.heading(results, problem)
        return entry(problem, title, question, generic_experiment.analyze(results, problem), results)
    except Exception as error:  # a problem is written for whole experiments: what it misses here may be anything
        told = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        log(f"{problem}: not answered: {results.with_real_paths(told)}")
        return None


# --- what is missing -------------------------------------------------------------------------------------------------


def what_is_missing(look: Look) -> dict[str, Any]:
    """What the page says of results that are not there: how far the study is, and rows of what, state and reason."""
    study = look.files.study
    runs = [
        {"what": f"run {run.run.experiment}/{run.run.name}/seed{run.run.seed}", "state": run.state, "why": run.remark}
        for run in sorted(look.runs, key=lambda run: run.state != "failed")
        if run.state not in OVER
    ]
    jobs = [
        {"what": f"the job that logs to logs/{study.plan.study.study}/{job.log}", "state": "failed", "why": job.line}
        for job in look.other_failures
    ]
    stages = [
        {"what": stage, "state": "missing", "why": f"{format_int(done)} of {format_int(total)} there"}
        for stage, (done, total) in look.stages.items()
        if done < total and stage not in ("findings", "report")
    ]
    over, total = sum(run.state in OVER for run in look.runs), len(look.runs)
    return {
        "told": f"{over:,} of {total:,} training runs ({in_words(look.runs)}), as of {time_text(look)}.",
        "rows": [*jobs, *runs, *stages],
        "command": command_of(study),
    }


def time_text(look: Look) -> str:
    """When the files were looked at."""
    return datetime.fromtimestamp(look.now, UTC).strftime("%Y-%m-%d %H:%M UTC")


def command_of(study: StudySession) -> str:
    """The command that goes on with the study."""
    return study.call["command"] if study.call else "snakemake --cores 2"


def in_words(runs: list[RunState]) -> str:
    """How many runs are in which state.

    >>> in_words([])
    ''
    """
    return join_words([f"{number} {state}" for state, number in states_in(runs)])


def named(runs: list[RunState]) -> str:
    """Runs by name and state, as far as a sentence bears it."""
    names = [f"{run.run.name} with seed {run.run.seed} ({run.state})" for run in runs]
    rest = len(names) - MOST_NAMED
    return join_words(names if rest <= 1 else [*names[:MOST_NAMED], f"{format_int(rest)} more"])
