"""Status of a study's jobs, derived from files only: runs, other results, and failures.

A run is over if its folder holds results of the settings in the plan. It is running if the process that writes its
progress is alive. It has failed if the log of its job, written since the workflow started, ends with an error. A
killed run leaves no error and counts as stopped: the same command resumes it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmpipe.analysis.runs import Run
from lmpipe.errors import InputError
from lmpipe.planning.session import StudySession
from lmpipe.planning.stages import STAGES
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import CONFIG, SUMMARY
from lmpipe.training.progress import LOCK_MESSAGE, PROGRESS, RunProgress, read_progress
from lmpipe.training.run_documents import RunConfig

# The most urgent first.
STATES = ("failed", "running", "stopped", "diverged", "not_learning", "done", "waiting")
TERMINAL_STATES = ("done", "diverged", "not_learning")
TRAIN_LOGS = "train"
LOG_TAIL_BYTES = 16_384
ERROR_LINE = re.compile("lmpipe [a-z-]+: ")
TRACEBACK = "Traceback (most recent call last):"
# Time from the start of a job's log until its process writes progress.
STARTING_SECONDS = 120.0


@dataclass(frozen=True)
class RunState:
    """State of a run: one of STATES, its latest losses (nats per token), its progress, and a remark.

    `result` is the finished run, `attempt` the folder in the store and the latest progress of one under way or stopped.
    """

    run: PlannedRun
    state: str
    validation_loss: float | None = None
    training_loss: float | None = None
    step: int = 0
    planned_steps: int | None = None
    tokens_per_second: float | None = None
    remark: str = ""
    result: Run | None = None
    attempt: tuple[Path, RunProgress] | None = None

    @property
    def share(self) -> float:
        """Completed share of its steps, from 0 to 1."""
        if self.state in TERMINAL_STATES:
            return 1.0
        return self.step / self.planned_steps if self.planned_steps else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time of the remaining steps at the latest speed; None if the run is not in progress or has no speed."""
        if self.state != "running" or not self.tokens_per_second:
            return None
        tokens_per_step = self.run.training.batch_size * self.run.model.context_length
        return (self.planned_steps - self.step) * tokens_per_step / self.tokens_per_second


@dataclass(frozen=True)
class FailedJob:
    """A job whose log ends with an error: the log's path below the study's logs, and its last line."""

    log: str
    line: str


class StudyFiles:
    """Files of a study, read repeatedly; a file is read again only after a change."""

    def __init__(self, study: StudySession):
        self.study = study
        self.cache: dict[Path, tuple[Any, Any]] = {}

    def read_cached(self, path: Path, loader: Callable[[Path], Any]) -> Any:
        """Return `loader(path)`, cached until the file changes; None if the file is missing."""
        try:
            status = path.stat()
            same = (status.st_mtime_ns, status.st_size, status.st_ino)
            if self.cache.get(path, (None,))[0] != same:
                self.cache[path] = (same, loader(path))
        except OSError:
            return None
        return self.cache[path][1]

    def snapshot(self, now: float) -> "Snapshot":
        """Return a snapshot of the files; `now` is the time in seconds since 1970."""
        return Snapshot(self, now)


@dataclass
class Snapshot:
    """State of a study's files at one moment."""

    files: StudyFiles
    now: float

    @cached_property
    def runs(self) -> list[RunState]:
        """The state of every run, in the order of the study."""
        return [self.state_of(run) for run in self.files.study.plan.runs]

    @cached_property
    def failed_jobs(self) -> list[FailedJob]:
        """The jobs that failed since the study started, by their logs."""
        study = self.files.study
        tails = ((path, self.log_tail(path)) for path in sorted(study.logs.rglob("*.log")))
        return [
            FailedJob(path.relative_to(study.logs).as_posix(), tail[-1])
            for path, tail in tails
            if tail and is_failure(tail)
        ]

    @property
    def other_failures(self) -> list[FailedJob]:
        """The jobs that failed, without those of training runs."""
        return [job for job in self.failed_jobs if not job.log.startswith(f"{TRAIN_LOGS}/")]

    def has_results(self, *without: str) -> bool:
        """Return True if every result of the study exists but those of the stages `without`."""
        counts = [count for stage, count in self.stages.items() if stage not in without]
        return all(done == total for done, total in counts) and all(run.state in TERMINAL_STATES for run in self.runs)

    @cached_property
    def stages(self) -> dict[str, tuple[int, int]]:
        """Numbers of existing and of all results by stage, without training."""
        paths: dict[str, list[Path]] = {}
        for stage in STAGES:
            if stage.rule != "train" and (records := stage.records(self.files.study.plan)):
                paths.setdefault(stage.label, []).extend(self.files.study.folder / record for record in records)
        return {label: (sum(path.exists() for path in members), len(members)) for label, members in paths.items()}

    @cached_property
    def attempts(self) -> dict[tuple[str, str, int], tuple[Path, RunProgress]]:
        """Runs in progress or stopped, each with its folder in the store; the latest attempt, as after changed code."""
        paths = self.files.study.paths.store.glob(f"*/{PROGRESS}")
        attempts = [(path.parent, run) for path in paths if (run := self.files.read_cached(path, read_progress))]
        attempts.sort(key=lambda attempt: attempt[1].updated_at)
        return {
            (progress.config.experiment, progress.config.run, progress.config.seed): (folder, progress)
            for folder, progress in attempts
        }

    def state_of(self, run: PlannedRun) -> RunState:
        """Return the state of a run."""
        if (finished := self.finished_state(run)) is not None:
            return finished
        attempt = self.attempts.get((run.experiment, run.name, run.seed))
        if attempt is not None and matches_plan(run, attempt[1].config):
            progress = attempt[1]
            state = RunState(
                run,
                "running",
                progress.best_validation_loss,
                progress.training_loss,
                progress.step,
                progress.planned_steps,
                progress.tokens_per_second,
                attempt=attempt,
            )
            if progress.is_running(self.now):
                return state
        else:
            state = RunState(run, "waiting")
        return self.infer_state(state)

    def finished_state(self, run: PlannedRun) -> RunState | None:
        """Return the state of a run that has results of its settings in the plan; None otherwise."""
        folder = self.files.study.folder / run.folder
        try:
            # config.json is written last.
            exists = (folder / SUMMARY).exists()
            result = self.files.read_cached(folder / CONFIG, lambda path: Run.read(path.parent)) if exists else None
        except InputError as error:
            # A job may have just started to replace the files.
            exist = all((folder / name).exists() for name in (CONFIG, SUMMARY))
            return RunState(run, "failed", remark=without_control_characters(str(error))) if exist else None
        if result is None or not matches_plan(run, result.config):
            return None
        summary = result.summary
        return RunState(
            run,
            "done" if result.status == "finished" else result.status,
            summary.validation_loss,
            summary.final_train_loss,
            summary.steps,
            summary.planned_steps,
            summary.tokens_per_second,
            f"at step {summary.steps:,}" if result.status == "diverged" else "",
            result,
        )

    def infer_state(self, state: RunState) -> RunState:
        """Return the state of a run without results and without a process that writes progress."""
        run = state.run
        path = self.files.study.logs / TRAIN_LOGS / run.experiment / run.name / f"seed{run.seed}.log"
        tail = self.log_tail(path)
        if tail and is_failure(tail):
            return replace(state, state="failed", remark=tail[-1])
        if tail and tail[-1].startswith(LOCK_MESSAGE):
            return replace(state, state="waiting", remark="for another experiment's run, which is the same")
        if state.planned_steps:
            remark = f"after step {state.step:,}; resumes from its last checkpoint"
            return replace(state, state="stopped", remark=remark)
        if tail is None:
            return state
        if self.files.study.is_running is not False and self.now - modification_time(path) < STARTING_SECONDS:
            return replace(state, state="running")
        return replace(state, state="stopped", remark="its job ended without results, and its log names no error")

    def log_tail(self, path: Path) -> list[str] | None:
        """Return the last lines of a log written since the study started; None if there is none."""
        started = self.files.study.started
        is_current = started is None or modification_time(path) >= started
        return self.files.read_cached(path, last_lines) if is_current else None


def modification_time(path: Path) -> float:
    """Return the time of the last write to a file in seconds since 1970; 0 if it is missing."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def matches_plan(run: PlannedRun, config: RunConfig) -> bool:
    """Return True if config.json has the run's settings in the plan; any rate matches best_of."""
    max_lr = {"max_lr": config.training.max_lr} if run.best_of else {}
    training = run.training.model_dump() | max_lr
    model = config.model.model_dump(exclude={"vocab_size"})
    return (model, config.training.model_dump(), config.corpus, config.tokenizer.name) == (
        run.model.model_dump(),
        training,
        run.corpus,
        run.tokenizer,
    )


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a file that are not blank, without control characters."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return [without_control_characters(line) for line in text.splitlines() if line.strip()]


def without_control_characters(line: str) -> str:
    """Return a line without control characters."""
    return "".join(character if character.isprintable() else " " for character in line).rstrip()


def is_failure(lines: list[str]) -> bool:
    """Return True if a log ends as that of a failed job: with an error line of lmpipe, or a traceback.

    >>> is_failure(["training: 10 of 20 tokens", "lmpipe train: a.json: no such file; make it first"])
    True
    """
    return bool(ERROR_LINE.match(lines[-1])) or (TRACEBACK in lines and not lines[-1].startswith(" "))


def count_states(runs: Iterable[RunState]) -> list[str]:
    """Return the number of runs in each state that some are in, in the order of STATES, such as `3 done`."""
    counts = Counter(run.state for run in runs)
    return [f"{counts[state]} {state}" for state in STATES if state in counts]
