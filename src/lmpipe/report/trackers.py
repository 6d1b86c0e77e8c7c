"""`lmpipe log`: the runs of a study in TensorBoard or Weights & Biases, while they train or later.

Training knows nothing of it. A second call adds the rows that are new: logged.json, beside the tracker's files, counts
the rows of each run that the tracker has. It is written after them, so that a killed call loses none and at worst
repeats some. A run that was trained again with other settings, texts or code is logged from its start.
"""

import contextlib
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any, Literal, Protocol, assert_never

from lmpipe.analysis.run_states import Snapshot, StudyFiles
from lmpipe.errors import InputError, import_extra
from lmpipe.io.documents import Document
from lmpipe.io.files import file_lock
from lmpipe.io.progress import log
from lmpipe.planning.session import find_study
from lmpipe.report.monitor import is_active
from lmpipe.report.run_histories import Row, RunHistory, run_histories
from lmpipe.study.paths import StudyPaths

Tracker = Literal["tensorboard", "wandb"]
STATE, LOCK = "logged.json", "lock"
FOLLOW_SECONDS = 5.0


class LoggedRun(Document):
    """Part of a run that a tracker has."""

    fingerprint: str
    """Fingerprint of the run."""
    rows: int
    """Rows of its metrics."""
    is_over: bool
    """True if its results are logged, too."""
    started: float
    """Start of the run in seconds since 1970, as the tracker shows it."""


class LoggedRuns(Document):
    """logged.json: the part of a study that a tracker has."""

    runs: dict[str, LoggedRun]
    """Runs by EXPERIMENT/NAME/seedN."""


class TrackedRun(Protocol):
    """A run in a tracker, open for writing."""

    def log(self, row: Row) -> None:
        """Add a row."""

    def flush(self) -> None:
        """Write the rows added so far."""

    def close(self, history: RunHistory) -> None:
        """Add the results if the run is over, and close it."""


class TensorBoardRun:
    """A run in a folder of TensorBoard's event files, with its settings in the tab HPARAMS."""

    def __init__(self, folder: Path, history: RunHistory, started: float, is_new: bool):
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.started = started
        if is_new and folder.exists():
            shutil.rmtree(folder)
        self.writer = EventFileWriter(str(folder))
        if is_new:
            self._add(0, started, summary_v2.hparams_pb(history.settings, history.run.id, started))

    def log(self, row: Row) -> None:
        """Add an event with the values of a row."""
        self._add_scalars(row)

    def flush(self) -> None:
        """Write the events to the file."""
        self.writer.flush()

    def close(self, history: RunHistory) -> None:
        """Add the final metrics if the run is over, and close the file."""
        if history.summary:
            names = ("validation_loss", "perplexity", "bits_per_byte")
            final = {f"final/{name}": value for name, value in history.results.items() if name in names}
            self._add_scalars(history.rows[-1] | final, only=final)
        self.writer.close()

    def _add_scalars(self, row: Row, only: Any = None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        names = [name for name in (row if only is None else only) if name != "step"]
        values = [Summary.Value(tag=name, simple_value=row[name]) for name in names]
        self._add(int(row["step"]), self.started + row["wall_seconds"], Summary(value=values))

    def _add(self, step: int, wall_time: float, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.writer.add_event(Event(step=step, wall_time=wall_time, summary=summary))


class WandbRun:
    """A run of Weights & Biases: online, or with WANDB_MODE=offline in a folder that `wandb sync` uploads."""

    def __init__(self, folder: Path, history: RunHistory):
        import wandb

        run = history.run
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = wandb.init(
                project=run.study,
                group=run.experiment,
                name=run.id,
                id=hashlib.sha256(f"{history.fingerprint} {run.id}".encode()).hexdigest()[:16],
                config=history.settings,
                dir=str(folder),
                resume="allow",
                reinit="create_new",
                # The results are those of another process: nothing is to be learned from this one.
                settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_code=True),
            )
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            problem = f"wandb reports: {' '.join(str(error).split())}"
            raise InputError("--to wandb", problem, "run wandb login, or set WANDB_MODE=offline") from None

    def log(self, row: Row) -> None:
        """Add a row."""
        self.run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def flush(self) -> None:
        """Do nothing: wandb's own process writes at once."""

    def close(self, history: RunHistory) -> None:
        """Add the results if the run is over, and finish the run."""
        self.run.summary.update(history.results)
        self.run.finish()


class StudyLog:
    """A study's runs in one tracker."""

    def __init__(self, folder: Path, tracker: Tracker):
        self.folder, self.tracker = folder, tracker
        path, remedy = folder / STATE, "delete its folder, and all is logged again"
        self.logged = dict(LoggedRuns.read(path, remedy).runs) if path.exists() else {}
        self.open: dict[str, tuple[TrackedRun, RunHistory]] = {}

    def update(self, snapshot: Snapshot) -> tuple[int, int]:
        """Log what is new; return the numbers of runs and rows that were."""
        finished = {(name, run.fingerprint) for name, run in self.logged.items() if run.is_over}
        counts = [self.update_run(history) for history in run_histories(snapshot, finished)]
        return sum(count is not None for count in counts), sum(count or 0 for count in counts)

    def update_run(self, history: RunHistory) -> int | None:
        """Log what is new of a run, and return the number of rows; None if nothing is."""
        name, before = history.run.id, self.logged.get(history.run.id)
        if before is not None and before.fingerprint != history.fingerprint:
            self.close_run(name)
            before = None
        num_logged = before.rows if before else 0
        is_over = history.summary is not None
        new = history.rows[num_logged:]
        if before is not None and not new and is_over == before.is_over:
            return None
        started = before.started if before else time.time() - history.rows[-1]["wall_seconds"]
        run = self.open[name][0] if name in self.open else self.open_run(history, started, before is None)
        self.open[name] = run, history
        for row in new:
            run.log(row)
        run.flush()
        if is_over:
            self.close_run(name)
        rows = num_logged + len(new)
        self.logged[name] = LoggedRun(fingerprint=history.fingerprint, rows=rows, is_over=is_over, started=started)
        LoggedRuns(runs=self.logged).write(self.folder / STATE)
        return len(new)

    def open_run(self, history: RunHistory, started: float, is_new: bool) -> TrackedRun:
        """Open a run of the tracker."""
        match self.tracker:
            case "tensorboard":
                return TensorBoardRun(self.folder / history.run.id, history, started, is_new)
            case "wandb":
                return WandbRun(self.folder, history)
            case unknown:
                assert_never(unknown)

    def close_run(self, name: str) -> None:
        """Close a run if it is open."""
        if name in self.open:
            run, history = self.open.pop(name)
            run.close(history)


def log_study(path: str, tracker: Tracker, follow: bool) -> None:
    """Log the runs of a study, a results folder or a study file; with `follow`, until it is over or Ctrl-C.

    Raises InputError if there is no such study, or the tracker's package is not installed.
    """
    import_extra(tracker, f"--to {tracker}")
    files = StudyFiles(find_study(path))
    folder = StudyPaths(files.study.folder).tracker(tracker)
    with file_lock(folder / LOCK, f"waiting for the lmpipe log that writes to {folder}"):
        study_log = StudyLog(folder, tracker)
        with contextlib.suppress(KeyboardInterrupt):
            try:
                while True:
                    snapshot = files.snapshot(time.time())
                    report(study_log.update(snapshot))
                    if not follow or not is_active(snapshot):
                        break
                    time.sleep(FOLLOW_SECONDS)
            finally:
                for name in list(study_log.open):
                    study_log.close_run(name)
    print(folder)


def report(counts: tuple[int, int]) -> None:
    """Log the numbers of runs and rows that were logged, if there are any."""
    runs, rows = counts
    if runs:
        log(f"logged {rows:,} rows of {runs} runs")
