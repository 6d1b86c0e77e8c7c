"""Histories of a study's runs for `lmpipe log`: metrics so far, settings and summary, read from files alone."""

import csv
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmpipe.analysis.run_states import TERMINAL_STATES, Snapshot, matches_plan
from lmpipe.analysis.runs import Run
from lmpipe.errors import InputError
from lmpipe.io.tensor_files import open_tensors
from lmpipe.study.experiments import PlannedRun
from lmpipe.study.paths import METRICS, StudyPaths
from lmpipe.training.progress import METRICS_TENSOR, PROGRESS, RunProgress, read_progress
from lmpipe.training.run_documents import RunConfig, RunSummary

CHECKPOINTS = "checkpoints/step-*.safetensors"

Row = dict[str, float]


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


def run_histories(snapshot: Snapshot, logged: Collection[tuple[str, str]] = ()) -> Iterator[RunHistory]:
    """Yield the history of each run of a study that has metrics: of runs that are over, under way or stopped.

    Runs that are over and in `logged`, by id and fingerprint, are left out: their metrics are not read again.
    """
    unfinished = read_unfinished(StudyPaths(snapshot.files.study.folder).store)
    for state in snapshot.runs:
        run = state.run
        if state.state in TERMINAL_STATES:
            yield from finished_history(run, snapshot.files.study.folder / run.folder, logged)
        elif run.id in unfinished and matches_plan(run, unfinished[run.id][1].config):
            folder, progress = unfinished[run.id]
            # The last row gets its validation loss, if it is the run's last, only at the end.
            if rows := checkpoint_rows(folder)[:-1]:
                yield RunHistory(run, folder.name, progress.config, rows, None)


def read_unfinished(store: Path) -> dict[str, tuple[Path, RunProgress]]:
    """Return folder and progress of the runs in the store that are under way or stopped, by the run's id.

    Of several attempts of a run, as after a change of code, the latest counts.
    """
    attempts = [(progress, path.parent) for path in store.glob(f"*/{PROGRESS}") if (progress := read_progress(path))]
    attempts.sort(key=lambda attempt: attempt[0].updated_at)
    ids = (f"{run.experiment}/{run.run}/seed{run.seed}" for run in (progress.config for progress, _ in attempts))
    return {name: (folder, progress) for name, (progress, folder) in zip(ids, attempts, strict=True)}


def finished_history(run: PlannedRun, folder: Path, logged: Collection[tuple[str, str]]) -> Iterator[RunHistory]:
    """Yield the history of a run that is over unless it is in `logged`; nothing if a job replaces its files now."""
    try:
        result = Run.read(folder)
        fingerprint = result.config.fingerprint(result.summary.code)
        if (run.id, fingerprint) in logged:
            return
        rows = parse_rows((folder / METRICS).read_text(encoding="utf-8"))
    except (InputError, OSError, ValueError):
        return
    yield RunHistory(run, fingerprint, result.config, rows, result.summary)


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
