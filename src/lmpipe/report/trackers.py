"""`lmpipe log`: the runs of a study in TensorBoard or Weights & Biases, while they train or later.

Training knows nothing of it. A second call adds the rows that are new: logged.json, beside the tracker's files, counts
the rows of each run that the tracker has. It is written after them, so that a killed call loses none and at worst
repeats some. A run that was trained again with other settings, texts or code is logged from its start.
"""

import contextlib
import csv
import hashlib
import math
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

from lmpipe.analysis.run_states import Snapshot, StudyFiles
from lmpipe.errors import InputError, import_extra
from lmpipe.io.documents import Document
from lmpipe.io.files import file_lock
from lmpipe.io.progress import log
from lmpipe.io.tensor_files import open_tensors
from lmpipe.planning.session import find_study
from lmpipe.report.monitor import is_active
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import METRICS
from lmpipe.training.progress import METRICS_TENSOR
from lmpipe.training.run_documents import RunConfig, RunSummary

Tracker = Literal["tensorboard", "wandb"]
Row = dict[str, float]
CHECKPOINTS = "checkpoints/step-*.safetensors"
STATE, LOCK = "logged.json", "lock"
FOLLOW_SECONDS = 5.0
FINAL = ("validation_loss", "perplexity", "bits_per_byte")  # of summary.json, in TensorBoard


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


@dataclass(frozen=True)
class RunHistory:
    """Metrics of a run so far: a row for each step with the finite values of metrics.csv.

    `fingerprint` differs for a run that was trained again with other settings, texts or code; `summary` is None until
    the run is over.
    """

    run: PlannedRun
    fingerprint: str
    config: RunConfig
    rows: list[Row]
    summary: RunSummary | None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """Settings of the run by their keys in a study file, as numbers and words."""
        named = {"corpus": self.config.corpus, "tokenizer": self.config.tokenizer.name, "seed": self.config.seed}
        settings = named | self.config.model.model_dump() | self.config.training.model_dump()
        return {key: value if isinstance(value, str | int | float) else str(value) for key, value in settings.items()}

    @property
    def results(self) -> dict[str, Any]:
        """The numbers and words of the summary; none until the run is over."""
        values = self.summary.model_dump(mode="json") if self.summary else {}
        return {key: value for key, value in values.items() if isinstance(value, str | int | float)}


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

    def log(self, rows: list[Row]) -> None:
        """Write an event with the values of each row."""
        for row in rows:
            self._add_scalars(row, row)
        self.writer.flush()

    def close(self, history: RunHistory) -> None:
        """Add the final metrics if the run is over, and close the file."""
        final = {f"final/{name}": history.results[name] for name in FINAL if name in history.results}
        if final:
            self._add_scalars(history.rows[-1], final)
        self.writer.close()

    def _add_scalars(self, row: Row, values: Row) -> None:
        """Add values at the step and the time of a row."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items() if name != "step"]
        self._add(int(row["step"]), self.started + row["wall_seconds"], Summary(value=scalars))

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

    def log(self, rows: list[Row]) -> None:
        """Add rows, which wandb's own process writes."""
        for row in rows:
            self.run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

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
        self.open: dict[str, tuple[TensorBoardRun | WandbRun, RunHistory]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Log what is new, and report how much that is."""
        finished = {(name, run.fingerprint) for name, run in self.logged.items() if run.is_over}
        counts = [self.update_run(history) for history in run_histories(snapshot, finished)]
        if new := [count for count in counts if count is not None]:
            log(f"logged {sum(new):,} rows of {len(new)} runs")

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
        run.log(new)
        if is_over:
            self.close_run(name)
        rows = num_logged + len(new)
        self.logged[name] = LoggedRun(fingerprint=history.fingerprint, rows=rows, is_over=is_over, started=started)
        LoggedRuns(runs=self.logged).write(self.folder / STATE)
        return len(new)

    def open_run(self, history: RunHistory, started: float, is_new: bool) -> TensorBoardRun | WandbRun:
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
    folder = files.study.paths.tracker(tracker)
    with file_lock(folder / LOCK, f"waiting for the lmpipe log that writes to {folder}"):
        study_log = StudyLog(folder, tracker)
        with contextlib.suppress(KeyboardInterrupt):
            try:
                while True:
                    snapshot = files.snapshot(time.time())
                    study_log.update(snapshot)
                    if not follow or not is_active(snapshot):
                        break
                    time.sleep(FOLLOW_SECONDS)
            finally:
                for name in list(study_log.open):
                    study_log.close_run(name)
    print(folder)


# --- histories --------------------------------------------------------------------------------------------------------


def run_histories(snapshot: Snapshot, logged: Collection[tuple[str, str]] = ()) -> Iterator[RunHistory]:
    """Yield the history of each run of a study that has metrics: of runs that are over, under way or stopped.

    Runs that are over and in `logged`, by id and fingerprint, are left out: their metrics are not read again.
    """
    for state in snapshot.runs:
        if state.result is not None:
            config, summary = state.result.config, state.result.summary
            fingerprint = config.fingerprint(summary.code)
            is_new = (state.run.id, fingerprint) not in logged
            if is_new and (rows := finished_rows(state.result.folder)):
                yield RunHistory(state.run, fingerprint, config, rows, summary)
        elif state.attempt is not None:
            folder, progress = state.attempt
            # The last row gets its validation loss, if it is the run's last, only at the end.
            if rows := checkpoint_rows(folder)[:-1]:
                yield RunHistory(state.run, folder.name, progress.config, rows, None)


def finished_rows(folder: Path) -> list[Row]:
    """Return the rows of a run that is over; none if a job replaces the file now."""
    try:
        return parse_rows((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def checkpoint_rows(folder: Path) -> list[Row]:
    """Return the rows in the newest checkpoint of a run in the store; none if it has no checkpoint that is intact."""
    for path in sorted(folder.glob(CHECKPOINTS), reverse=True):
        try:
            with open_tensors(path) as file:
                return parse_rows(bytes(file.get_tensor(METRICS_TENSOR)).decode())
        except (InputError, OSError, ValueError):  # training has replaced it by a newer one
            continue
    return []


def parse_rows(text: str) -> list[Row]:
    r"""Return the rows of metrics.csv without empty cells.

    >>> parse_rows("step,train_loss,validation_loss\n0,,6.5\n")
    [{'step': 0.0, 'validation_loss': 6.5}]
    """
    rows = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(text.splitlines())]
    return [{key: value for key, value in row.items() if math.isfinite(value)} for row in rows]
