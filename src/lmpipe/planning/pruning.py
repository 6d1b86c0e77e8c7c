"""Results that no job of a study makes any more: those of runs, corpora and experiments that left the study file."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from lmpipe.errors import InputError
from lmpipe.io.files import file_lock
from lmpipe.io.formatting import format_bytes
from lmpipe.planning.session import StudySession
from lmpipe.planning.stages import records
from lmpipe.provenance.job_records import RECORD, JobRecord, is_non_result
from lmpipe.study.paths import StudyPaths
from lmpipe.training.run import StoredRun, delete_stored, known_fingerprint, stored_folders


@dataclass(frozen=True)
class StaleResult:
    """Result of a job that the study no longer has: `path` names it, and `files` are all that the job left."""

    path: Path
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(file.stat().st_size for file in self.files)


def prune(study: StudySession, deletes: bool) -> None:
    """Print the stale results of a study and, with `deletes`, delete them.

    Raises InputError if they are to be deleted while a call works on the study.
    """
    with locked(study) if deletes else nullcontext():
        results, stored = stale_results(study), stale_runs(study)
        for result in [*results, *stored]:
            print(f"{result.path}  {format_bytes(result.size)}")
        total = format_bytes(sum(result.size for result in [*results, *stored]))
        if not results and not stored:
            print(f"{study.folder}: every result is one of the study")
        elif not deletes:
            print(f"{total} in all; the same command with --yes deletes them")
        else:
            for result in results:
                delete(result, study.folder)
            for result in stored:
                delete_stored(result.path)
            print(f"deleted {total}")


@contextmanager
def locked(study: StudySession) -> Iterator[None]:
    """Keep other calls from working on a study; raise InputError if one does."""
    folder = study.folder.absolute().parent.parent
    try:
        with file_lock(folder / ".snakemake/studies" / f"{study.plan.study.study}.lock"):
            yield
    except BlockingIOError:
        raise InputError(study.folder, "is being worked on", "wait until the call has ended") from None


def stale_results(study: StudySession) -> list[StaleResult]:
    """Return the results that no job of the study leaves; files that no record at its usual place names are unknown."""
    root = study.folder
    current = {root / path for path in records(study.plan)}
    needed = {file for record in current if record.exists() for file in recorded_files(record)}
    stale = []
    for record in sorted(path for pattern in record_patterns() for path in root.glob(pattern)):
        files = [file for file in recorded_files(record) if file not in needed]
        if files and record not in current:
            stale.append(StaleResult(record.parent if record.name == RECORD else files[0], (*files, record)))
    return stale


def record_patterns() -> list[str]:
    """Return the patterns of the records, below a results folder, that not every study has."""
    paths = StudyPaths(Path())
    folders = [paths.corpus("*"), paths.tokenizer("*"), paths.run("*", "*", "*"), paths.experiment("*")]
    files = [paths.pretokens("*", "*"), paths.tokens("*", "*"), paths.yardsticks("*"), paths.best("*")]
    files += [paths.samples("*"), paths.tokenizer_evaluation, paths.unicode, paths.model_profile, paths.batch_sizes]
    folders, files = [*folders, paths.accounting("*").parent], [*files, paths.sgd_toy]
    return [str(folder / RECORD) for folder in folders] + [str(file.with_suffix(f".{RECORD}")) for file in files]


def recorded_files(record: Path) -> list[Path]:
    """Return the files that a record names and that exist; none if it is damaged."""
    try:
        outputs = JobRecord.read(record).outputs
    except InputError:
        return []
    return [record.parent / name for name in outputs if (record.parent / name).is_file()]


def stale_runs(study: StudySession) -> list[StaleResult]:
    """Return the runs in the store that the study does not have; none before every run of the study is stored.

    Until then, a run of the study may be stored under an older identity, from which it can still be adopted.
    """
    store = study.paths.store
    own = {known_fingerprint(run, study.folder) for run in study.plan.runs}
    if not store.is_dir() or not all(digest and StoredRun(store / digest).is_finished for digest in own):
        return []
    folders = [folder for folder in stored_folders(store) if folder.name not in own]
    return [StaleResult(folder, tuple(path for path in folder.rglob("*") if path.is_file())) for folder in folders]


def delete(result: StaleResult, root: Path) -> None:
    """Delete the files of a result, its record last, and the folders below `root` that become empty."""
    for file in result.files:
        file.unlink()
    folders = {folder for file in result.files for folder in file.parents if root in folder.parents}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        entries = list(folder.iterdir())
        # Snakemake marks the time of a folder by a file.
        if all(entry.is_file() and is_non_result(entry.name) for entry in entries):
            for entry in entries:
                entry.unlink()
            folder.rmdir()
