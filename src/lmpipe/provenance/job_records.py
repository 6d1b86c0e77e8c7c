"""Records of provenance: one beside the results of each job, and all of a study's collected in one file.

A record is `provenance.json` in the folder that a verb fills, or `NAME.provenance.json` beside the file that it makes.
It is written last, so results without a record are those of a job that did not end.
"""

import fnmatch
import hashlib
import os
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from lmpipe.errors import REBUILD
from lmpipe.io.files import files_written, json_bytes, read_json, sha256_of, write_json
from lmpipe.provenance.code_digest import TRACKED_PACKAGES, code_digest
from lmpipe.provenance.environment import environment, peak_memory_bytes
from lmpipe.study.documents import Whole, check_shape, keys, read_shape

RECORD = "provenance.json"
# Which study is carried out here, written as a call of the workflow begins.
# What lies in a study's folder and is no result: runs under way or shared, Snakemake's measurements, what is known or
# told of a study before it is finished, at its top; unfinished writes, and Snakemake's mark of a folder, anywhere.
OTHER_ENTRIES = ("store", "benchmarks", "study.yaml", "session.json")
OTHER_NAMES = ("*.tmp-*", ".snakemake_timestamp")
Facts = dict[str, Any]


def path_inside(name: str) -> str:
    """Refuse a path that leads out of the folder that it is below, or is none."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == "." or "\0" in name:
        raise ValueError(f"expected a path inside the folder, found {name!r}")
    return name


ResultPath = Annotated[str, AfterValidator(path_inside)]
CHECKSUM = keys(bytes=Whole, sha256=Annotated[str, Field(pattern="^[0-9a-f]{64}$")])
JOB_RECORD = keys(outputs=dict[ResultPath, CHECKSUM])
SHARD_RECORD = keys(inputs=dict[str, Facts], outputs=dict[ResultPath, CHECKSUM])


def record_path(output: str | Path) -> Path:
    """Where the record of a finished job lies, by the `--output` of its verb."""
    output = Path(output)
    return output / RECORD if output.is_dir() else output.with_suffix(f".{RECORD}")


def is_record(name: str) -> bool:
    """Whether a file's name is that of a record.

    >>> is_record("provenance.json"), is_record("train.provenance.json"), is_record("train.json")
    (True, True, False)
    """
    return name == RECORD or name.endswith(f".{RECORD}")


def is_other(name: str) -> bool:
    """Whether a file's name tells that it is no result."""
    return any(fnmatch.fnmatch(name, other) for other in OTHER_NAMES)


# --- one job ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobResult:
    """Result of a subcommand: the file that it wrote or the folder that it filled, and what its record tells of it.

    `inputs` are files, or folders for all files in them; `settings` are those of the study that decided the result;
    `facts` are further entries, which replace those of this process.
    """

    output: Path
    inputs: Sequence[str | Path] = ()
    settings: Facts = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Seeds that decided the result."""
        return self.settings.get("seeds", [self.settings["seed"]] if "seed" in self.settings else [])


def run_recorded(command: str, arguments: Facts, code: Sequence[str], run: Callable[[], JobResult | None]) -> None:
    """Run a subcommand and write a record beside its result; none if it fails or has no result.

    `arguments` are those given on the command line; `code` names the modules and data files that do the work.
    """
    started, clock, files_before = datetime.now(UTC), time.perf_counter(), len(files_written)
    result = run()
    if result is None:
        return
    wall_seconds, peak = time.perf_counter() - clock, peak_memory_bytes()
    path = record_path(result.output)
    record = {
        "verb": command,
        "arguments": arguments,
        "settings": result.settings,
        "seeds": result.seeds,
        "inputs": input_checksums(result.inputs, path.parent),
        "outputs": output_checksums(files_written[files_before:], path.parent),
        "code": code_digest(*code),
        **environment(*sorted(TRACKED_PACKAGES)),
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(wall_seconds, 3),
        "peak_memory_bytes": peak,
    }
    write_json(path, record | result.facts)


def output_checksums(paths: Iterable[Path], base: Path) -> dict[str, Facts]:
    """Bytes and checksum of the files at or below a folder that are still there, by their path from it.

    What a job writes elsewhere, as training does into the store, is not its result.
    """
    inside = {path for path in map(absolute, paths) if path.is_relative_to(absolute(base)) and path.is_file()}
    names = {path.relative_to(absolute(base)).as_posix(): path for path in inside}
    return {name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for name, path in sorted(names.items())}


def input_checksums(paths: Iterable[str | Path], base: Path) -> dict[str, Facts]:
    """Bytes and checksum of files that were read, by their path from a folder.

    The checksum is the one in the record beside the file, so that nothing is read twice; null where there is none.
    """
    recorded = cache(recorded_outputs)
    inputs = {}
    for path in files_of(paths):
        folders = (path.parent, path.parent.parent)
        found = next((recorded(folder)[path] for folder in folders if path in recorded(folder)), None)
        inputs[Path(os.path.relpath(path, base)).as_posix()] = found or {"bytes": path.stat().st_size, "sha256": None}
    return inputs


def files_of(paths: Iterable[str | Path]) -> list[Path]:
    """The files that some paths stand for, absolute: a folder for those in it, a record for those it names."""
    files: list[Path] = []
    for path in map(absolute, paths):
        if is_record(path.name):
            files += [path.parent / name for name in outputs_in(path)]
        elif path.is_dir():
            files += [file for file in sorted(path.iterdir()) if not (is_record(file.name) or is_other(file.name))]
        else:
            files.append(path)
    return [file for file in files if file.is_file()]


def recorded_outputs(folder: Path) -> dict[Path, Facts]:
    """Every file that the records in a folder name, with its bytes and checksum."""
    records = [path for path in sorted(folder.glob(f"*{RECORD}")) if is_record(path.name)]
    return {folder / name: found for path in records for name, found in outputs_in(path).items()}


def outputs_in(path: Path) -> dict[str, Facts]:
    """The files that a job's record names; none for a study's collection, or where there is no record."""
    record = read_shape(path, Facts) if path.exists() else {}
    return check_shape(record, JOB_RECORD, str(path), REBUILD)["outputs"] if "outputs" in record else {}


def absolute(path: str | Path) -> Path:
    """A path from the root, without `..`; links stay as they are."""
    return Path(os.path.abspath(path))


def training_result(run_folder: Path, best_path: Path | None, settings: Facts, is_new: bool) -> JobResult:
    """Return the result of a training run.

    Code, versions, hardware and commit are those under which it was trained, also if it was copied from the store now.
    """
    config, summary = (read_json(run_folder / name) for name in ("config.json", "summary.json"))
    tokens = [run_folder / config["tokens"][split]["path"] for split in ("train", "valid")]
    inputs = [run_folder / config["tokenizer"]["path"], *tokens, *(path.with_suffix(".json") for path in tokens)]
    facts = {
        "copied_from_store": not is_new,
        "training_seconds": summary["train_seconds"],
        "device": summary["device"],
        "code": summary["code"],
        **summary["environment"],
    }
    return JobResult(run_folder, [*inputs, *([best_path] if best_path else [])], settings, facts)


def concat_result(output: Path, shards: Iterable[str | Path]) -> JobResult:
    """Return the result of concatenating shards, which are temporary.

    In place of their files and records stand the inputs that they were made of, and how each was made. A shard without
    a record is an input itself.
    """
    inputs: list[Path] = []
    made: list[Facts] = []
    for path in map(Path, shards):
        if not (record := record_path(path)).exists():
            inputs += [path, path.with_suffix(".json")]
            continue
        content = read_shape(record, SHARD_RECORD)
        inputs += [record.parent / name for name in content["inputs"]]
        made.append({key: value for key, value in content.items() if key not in ("inputs", "outputs")})
    return JobResult(output, list(dict.fromkeys(inputs)), facts={"shards": made})


# --- a whole study ---------------------------------------------------------------------------------------------------


def collect_records(paths: Iterable[str], settings: Facts, results: str | Path, output: str | Path) -> None:
    """Write a study's settings, all records of its jobs, and every result file with its checksum into one file.

    `paths` are those of the records, below the study's folder; `settings` is the study as plain values. Raises
    InputError where a record is missing or damaged.
    """
    records = {path: read_shape(Path(results) / path, JOB_RECORD) for path in paths}
    collected = {"study": settings["study"], "settings": settings, "records": records, "files": result_files(records)}
    write_json(output, collected)


def result_files(records: Mapping[str, Facts]) -> dict[str, Facts]:
    """Every file of a study by its path below the study's folder: bytes, checksum, and the record that names it.

    A record counts as a file too. Its bytes follow from its content.
    """
    files = {}
    for path, record in records.items():
        content = json_bytes(record)
        files[path] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "record": path}
        for name, found in record["outputs"].items():
            files[posixpath.join(posixpath.dirname(path), name)] = {**found, "record": path}
    return dict(sorted(files.items()))
