"""Records of provenance: one beside the results of each job.

A record is `provenance.json` in a folder that one job fills, or `NAME.provenance.json` beside a file. It is written
last, so that results without a record are those of an unfinished job.
"""

import fnmatch
import os
import posixpath
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue
from pydantic_core import to_jsonable_python

from lmpipe.io.documents import Document
from lmpipe.io.files import JobResult, collect_writes, sha256_of
from lmpipe.io.validation import InvalidValueError
from lmpipe.provenance.code_digest import TRACKED_PACKAGES, code_digest
from lmpipe.provenance.environment import Environment, environment, peak_memory_bytes

RECORD = "provenance.json"
# Entries of a results folder that are not results: at its top, and by name anywhere.
NON_RESULT_ENTRIES = ("store", "benchmarks", "study.yaml", "session.json", "tensorboard", "wandb", "adoptions.json")
NON_RESULT_PATTERNS = ("*.tmp-*", ".snakemake_timestamp")


def path_inside(name: str) -> str:
    """Return a relative path that does not lead out of its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == "." or "\0" in name:
        raise InvalidValueError(f"is {name!r}, not a path inside the folder", "correct it")
    return name


ResultPath = Annotated[str, AfterValidator(path_inside)]


class FileInfo(Document):
    """Size and checksum of a file."""

    bytes: int
    """Size in bytes."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """SHA-256; null for a text of the user's, which is not read again."""


class JobRecord(Environment):
    """Origin of the results of one job (NAME.provenance.json beside a file, provenance.json in a folder).

    Code, versions, hardware and commit of a run that was copied from the store are those that trained it.
    """

    command: str
    """Subcommand of lmpipe."""
    arguments: dict[str, JsonValue]
    """Arguments that differ from their defaults."""
    settings: dict[str, JsonValue]
    """Settings of the study that decide the result."""
    seeds: tuple[int, ...]
    """Seeds that decide the result."""
    inputs: dict[str, FileInfo]
    """Files that were read, by their path from the record's folder."""
    outputs: dict[ResultPath, FileInfo]
    """Files that were written, by their path from the record's folder."""
    code: dict[str, str]
    """Digest of each module that computes, and versions of the packages that it imports."""
    started_at: str
    """Start of the job (ISO 8601)."""
    wall_seconds: float
    """Duration of the job."""
    peak_memory_bytes: int
    """Peak memory of the job's process."""
    device: str | None = None
    """Device of a training run."""
    train_seconds: float | None = None
    """Training time of a run, also if it was copied from the store."""
    cache_hit: bool | None = None
    """True if a training run was copied from the store."""
    shards: tuple["JobRecord", ...] = ()
    """Records of the temporary shards that were concatenated."""


class StudyProvenance(Document):
    """Records of all jobs of a study (results/STUDY/provenance.json)."""

    study: str
    """Name of the study."""
    settings: dict[str, JsonValue]
    """The study file, resolved."""
    records: dict[ResultPath, JobRecord]
    """Records by their path in the results folder."""

    @property
    def files(self) -> dict[str, FileInfo]:
        """The results by their path in the results folder, without the records."""
        return {
            posixpath.join(posixpath.dirname(path), name): info
            for path, record in self.records.items()
            for name, info in record.outputs.items()
        }


def record_path(output: str | Path) -> Path:
    """Return the path of the record of a finished job, given the file that it wrote or the folder that it filled."""
    output = Path(output)
    return output / RECORD if output.is_dir() else output.with_suffix(f".{RECORD}")


def is_record(name: str) -> bool:
    """Return True if a file's name is that of a record.

    >>> is_record("provenance.json"), is_record("train.provenance.json"), is_record("train.json")
    (True, True, False)
    """
    return name == RECORD or name.endswith(f".{RECORD}")


def is_non_result(name: str) -> bool:
    """Return True if a file's name is that of a temporary or a marker file."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in NON_RESULT_PATTERNS)


# --- one job ---------------------------------------------------------------------------------------------------------


def run_with_record(
    command: str, arguments: dict[str, Any], code: Sequence[str], run: Callable[[], JobResult | None]
) -> None:
    """Run a subcommand and write a record beside its result; none if it fails or has no result.

    `arguments` are those given on the command line; `code` names the modules and data files that do the work.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    with collect_writes() as outputs:
        result = run()
    if result is None:
        return
    wall_seconds, peak = time.perf_counter() - clock, peak_memory_bytes()
    path, settings = record_path(result.output), result.settings
    seeds = tuple(settings.get("seeds", [settings["seed"]] if "seed" in settings else []))
    entries = {
        "command": command,
        "arguments": arguments,
        "settings": to_jsonable_python(settings),
        "seeds": seeds,
        "inputs": input_files(result.inputs, path.parent),
        "outputs": output_files(outputs, path.parent),
        "code": code_digest(*code),
        **dict(environment(*sorted(TRACKED_PACKAGES))),
        "started_at": started.isoformat(timespec="milliseconds"),
        "wall_seconds": round(wall_seconds, 3),
        "peak_memory_bytes": peak,
    }
    JobRecord(**entries | result.facts).write(path)


def output_files(paths: Iterable[Path], base: Path) -> dict[str, FileInfo]:
    """Return size and checksum of the files in a folder that still exist, by their path from it.

    Files elsewhere, such as those that training writes into the store, are not results of the job.
    """
    inside = {path for path in map(absolute, paths) if path.is_relative_to(absolute(base)) and path.is_file()}
    names = {path.relative_to(absolute(base)).as_posix(): path for path in inside}
    return {name: FileInfo(bytes=path.stat().st_size, sha256=sha256_of(path)) for name, path in sorted(names.items())}


def input_files(paths: Iterable[str | Path], base: Path) -> dict[str, FileInfo]:
    """Return size and checksum of files that were read, by their path from a folder.

    The checksum is the one in the record beside the file, so that no file is read twice; null if it has no record.
    """
    recorded = cache(recorded_outputs)
    inputs = {}
    for path in expand(paths):
        folders = (path.parent, path.parent.parent)
        info = next((recorded(folder)[path] for folder in folders if path in recorded(folder)), None)
        name = Path(os.path.relpath(path, base)).as_posix()
        inputs[name] = info or FileInfo(bytes=path.stat().st_size, sha256=None)
    return inputs


def expand(paths: Iterable[str | Path]) -> list[Path]:
    """Return the absolute paths of files: of a folder the files in it, of a record those that it names."""
    files: list[Path] = []
    for path in map(absolute, paths):
        if is_record(path.name):
            files += [path.parent / name for name in JobRecord.read(path).outputs] if path.exists() else []
        elif path.is_dir():
            files += [file for file in sorted(path.iterdir()) if not (is_record(file.name) or is_non_result(file.name))]
        else:
            files.append(path)
    return [file for file in files if file.is_file()]


def recorded_outputs(folder: Path) -> dict[Path, FileInfo]:
    """Return size and checksum of every file that the records in a folder name."""
    outputs = {}
    for path in sorted(folder.glob(f"*{RECORD}")):
        # The records of a whole study are at the top of its results folder.
        if is_record(path.name) and not (path.name == RECORD and (folder / "study.yaml").exists()):
            outputs |= {folder / name: info for name, info in JobRecord.read(path).outputs.items()}
    return outputs


def absolute(path: str | Path) -> Path:
    """Return a path from the root, without `..`; links are kept."""
    return Path(os.path.abspath(path))


def concat_result(output: Path, shards: Iterable[str | Path]) -> JobResult:
    """Return the result of concatenating shards, which are temporary.

    Its inputs are those of the shards, and `shards` has their records. A shard without a record is an input itself.
    """
    inputs: list[Path] = []
    records: list[JobRecord] = []
    for path in map(Path, shards):
        if not (record := record_path(path)).exists():
            inputs += [path, path.with_suffix(".json")]
            continue
        records.append(JobRecord.read(record))
        inputs += [record.parent / name for name in records[-1].inputs]
    return JobResult(output, list(dict.fromkeys(inputs)), facts={"shards": tuple(records)})
