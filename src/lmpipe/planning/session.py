"""What a call of the workflow leaves as it begins, so that others know which study it carries out: study.json."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmpipe.errors import InputError
from lmpipe.io.files import write_json
from lmpipe.io.hints import STUDY_FILE
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.io.progress import log
from lmpipe.planning.plan import Plan, load_plan
from lmpipe.provenance.job_records import RECORD
from lmpipe.study.documents import BEGUN, STUDY, keys, read_shape

RESULTS, LOGS = Path("results"), "logs"


def begin(plan: Plan, cores: int | None, arguments: Sequence[str]) -> None:
    """Write down which study this process begins: its settings as they are after --config, and the command.

    A disk that cannot take it stops nothing.
    """
    study = plan.study.model_dump(mode="json", exclude_none=True)
    content = {
        "study": study,
        "command": shlex.join(["snakemake", *arguments]),
        "cores": cores,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "process": ProcessIdentity.current().model_dump(),
    }
    try:
        write_json(RESULTS / plan.study.study / STUDY_FILE, content)
    except (InputError, OSError) as error:
        log(f"lmpipe status will not know of this call: {error}")


@dataclass(frozen=True)
class StudySession:
    """A study and where it lies. `call` is its study.json and `since` when that was written (None without one)."""

    plan: Plan
    folder: Path
    call: dict[str, Any] | None = None
    since: float | None = None

    @property
    def logs(self) -> Path:
        """Where the jobs' logs lie."""
        return self.folder.absolute().parent.parent / LOGS / self.plan.study.study

    @property
    def is_running(self) -> bool | None:
        """Whether the call that began it is still there; None where that cannot be told."""
        return ProcessIdentity.model_validate(self.call["process"]).is_alive if self.call else None


def find_study(path: str | Path | None = None) -> StudySession:
    """The study of a results folder, or of a study file; without a path the one in results/ that was begun last.

    Raises InputError where there is none, or one that cannot be read.
    """
    if path is None:
        return from_results_dir(latest_session())
    path = Path(path)
    if not path.exists() and not path.suffix:
        raise InputError(f"{path}: expected a study's results folder or its file, found neither; check the path")
    return from_results_dir(path) if path.is_dir() else from_study_file(path)


def latest_session() -> Path:
    """The folder in results/ whose study was begun last."""
    begun = sorted(RESULTS.glob(f"*/{STUDY_FILE}"), key=lambda file: file.stat().st_mtime)
    if not begun:
        raise InputError(
            f"{RESULTS}: expected a study that was begun, found none; name a study file or its results folder"
        )
    return begun[-1].parent


def from_study_file(path: Path) -> StudySession:
    """The study of a study file, whose results lie in results/STUDY."""
    from lmpipe.study.loader import read_study_file

    plan = load_plan(read_study_file(path), str(path))
    folder = RESULTS / plan.study.study
    return StudySession(plan, folder, *read_session(folder))


def from_results_dir(folder: Path) -> StudySession:
    """The study of a results folder, as the last call that began it knew it, or as its finished results tell."""
    call, since = read_session(folder)
    if call is not None:
        return StudySession(load_plan(call["study"], str(folder / STUDY_FILE)), folder, call, since)
    collected = folder / RECORD
    if not collected.is_file():
        raise InputError(
            f"{folder}: expected the results of a study that was begun, found neither {STUDY_FILE} nor {RECORD}; "
            "check the path, or name the study file"
        )
    return StudySession(load_plan(read_shape(collected, keys(settings=STUDY))["settings"], str(collected)), folder)


def read_session(folder: Path) -> tuple[dict[str, Any] | None, float | None]:
    """The last call that began a study, and when it did; nothing where none is known."""
    path = folder / STUDY_FILE
    if not path.is_file():
        return None, None
    return read_shape(path, BEGUN, "delete the file; the next call of snakemake writes it anew"), path.stat().st_mtime
