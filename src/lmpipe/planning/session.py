"""Files that a call of the workflow writes before its first job: study.yaml, which the jobs read, and session.json."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml

from lmpipe.errors import InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import atomic_write
from lmpipe.io.process_identity import ProcessIdentity
from lmpipe.io.progress import log
from lmpipe.planning.plan import Plan, load_plan, read_plan
from lmpipe.study.paths import StudyPaths

RESULTS, LOGS = Path("results"), "logs"
RUN_ONCE = "carry out the study by snakemake or lmpipe run, which writes it before the first job"


def workflow_command(study_file: str | Path, *arguments: str | Path) -> str:
    """Return the command that makes targets of a study, or all of its results without targets.

    `arguments` are targets, then options of Snakemake. A folder without a Snakefile uses the installed workflow.
    """
    words = list(map(str, arguments))
    if Path("Snakefile").exists():
        return shlex.join(["snakemake", "--cores", "2", *words, "--configfile", str(study_file)])
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    options = ["--", *words[first:]] if words[first:] else []
    return shlex.join(["lmpipe", "run", str(study_file), *words[:first], *options])


class Session(Document):
    """The last call of the workflow that started jobs of a study: session.json."""

    command: str
    """Command line of the call."""
    cores: int | None
    """CPU cores that the call may use; null on a cluster."""
    started_at: str
    """Time at which the call started its first job, in UTC (ISO 8601)."""
    process: ProcessIdentity
    """Process of the call."""


def start_session(plan: Plan, cores: int | None, arguments: Sequence[str]) -> None:
    """Write study.yaml and session.json of a plan's study before its first job.

    study.yaml changes only if its content does. A session that cannot be written is logged and stops nothing.
    """
    paths = StudyPaths(RESULTS / plan.study.study)
    write_study(plan, paths)
    program = "lmpipe" if Path(sys.argv[0]).name in ("lmpipe", "main.py") else "snakemake"
    session = Session(
        command=shlex.join([program, *arguments]),
        cores=cores,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        process=ProcessIdentity.current(),
    )
    try:
        session.write(paths.session)
    except (InputError, OSError) as error:
        log(f"lmpipe status will not show this call: {error}")


def mark_job_start(is_cluster_job: bool) -> None:
    """In a cluster's job, let commands know when it started, in seconds since 1970 (lmpipe.training.interruption).

    They also obey SIGUSR1, a cluster's notice of the job's end, which would kill Snakemake.
    """
    if is_cluster_job:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.environ.setdefault("LMPIPE_JOB_START", str(psutil.Process().create_time()))


def write_study(plan: Plan, paths: StudyPaths) -> None:
    """Write the resolved study of a plan, unless the file has this content already."""
    text = yaml.safe_dump(
        plan.study_settings(), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )
    if paths.study_file.exists() and paths.study_file.read_text(encoding="utf-8") == text:
        return
    with atomic_write(paths.study_file) as file:
        file.write(text)


def read_study(results: str | Path) -> tuple[Plan, StudyPaths]:
    """Return the plan and the paths of a study's results folder; raise InputError if it has no readable study.yaml."""
    folder = Path(results)
    if not folder.is_dir() or (folder / RESULTS).is_dir():  # the latter is where the user's study.yaml is
        raise InputError(folder, "is not a results folder", f"give the path of one, or {RUN_ONCE}")
    paths = StudyPaths(folder)
    try:
        # Ten times as fast as PyYAML's own parser, which remains for systems without libyaml.
        settings = yaml.load(paths.study_file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise InputError(paths.study_file, "is missing", RUN_ONCE) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"is not valid YAML ({' '.join(str(error).split())})"
        raise InputError(paths.study_file, problem, f"delete it and {RUN_ONCE}") from None
    try:
        return load_plan(settings, str(paths.study_file), results_only=True), paths
    except InputError as error:  # of another version of lmpipe, or damaged: no user writes this file
        raise InputError(error.where, error.problem, f"delete it and {RUN_ONCE}") from None


@dataclass(frozen=True)
class StudySession:
    """A study, its results folder and the last call that started jobs (None if there was none).

    `started` is the time at which session.json was written, in seconds since 1970.
    """

    plan: Plan
    folder: Path
    session: Session | None = None
    started: float | None = None

    @property
    def paths(self) -> StudyPaths:
        """Paths below the results folder."""
        return StudyPaths(self.folder)

    @property
    def logs(self) -> Path:
        """Folder of the jobs' logs."""
        return self.folder.absolute().parent.parent / LOGS / self.plan.study.study

    @property
    def is_running(self) -> bool | None:
        """True while the process of the call exists; None if that cannot be seen from here."""
        return self.session.process.is_alive if self.session else None


def find_study(path: str | Path | None = None) -> StudySession:
    """Return the study of a results folder or a study file; without a path, the one in results/ that started last.

    Raise InputError if there is none, or if it cannot be read.
    """
    if path is None:
        sessions = sorted(RESULTS.glob("*/session.json"), key=lambda file: file.stat().st_mtime)
        if not sessions:
            raise InputError(RESULTS, "contains no study that was started", "name a study file or its results folder")
        path = sessions[-1].parent
    path = Path(path)
    if not path.exists() and not path.suffix:
        raise InputError(path, "is neither a results folder nor a study file", "check the path")
    if path.is_dir():
        plan, paths = read_study(path)
    else:
        plan = read_plan(path)
        paths = StudyPaths(RESULTS / plan.study.study)
    if not paths.session.is_file():
        return StudySession(plan, paths.root)
    session = Session.read(paths.session, "delete it; the next call of snakemake writes it again")
    return StudySession(plan, paths.root, session, paths.session.stat().st_mtime)
