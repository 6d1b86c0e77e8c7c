"""SHA256SUMS: the checksum of every result of a study, in the form that `sha256sum -c` reads, and all records."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmpipe.errors import REBUILD, InputError
from lmpipe.io.files import atomic_write, sha256_of
from lmpipe.io.progress import track
from lmpipe.provenance.job_records import NON_RESULT_ENTRIES, JobRecord, StudyProvenance, is_non_result, path_inside

CHECKSUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def collect_records(paths: Iterable[str], settings: dict[str, Any], results: Path, output: Path) -> None:
    """Write all records of a study's jobs into one file, and the checksum of every result into SHA256SUMS beside it.

    `paths` are those of the records in the results folder; `settings` is the study as JSON values. Raises InputError if
    a record is missing or damaged.
    """
    records = {path: JobRecord.read(results / path) for path in paths}
    collected = StudyProvenance(study=settings["study"], settings=settings, records=records)
    collected.write(output)
    checksums = {path: info.sha256 for path, info in collected.files.items()}
    checksums |= {path: sha256_of(results / path) for path in records}
    checksums[output.name] = sha256_of(output)
    with atomic_write(output.with_name(CHECKSUMS)) as file:
        file.writelines(f"{checksums[name]}  {name}\n" for name in sorted(checksums))


def read_checksums(path: Path) -> dict[str, str]:
    """Return the checksums by path; raise InputError if the file is missing, or not of paths inside its folder."""
    if not path.is_file() or path.is_symlink():
        raise InputError(path, "is missing", "name the results folder of a finished study")
    checksums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = LINE.fullmatch(line)
        try:
            checksums[path_inside(match[2])] = match[1]
        except (TypeError, ValueError):
            raise InputError(path, f"line {number} is not a checksum and a path in the folder", REBUILD) from None
    return checksums


def verify(folder: str | Path) -> bool:
    """Print a line for each file that is changed, missing or added, and a summary; return whether there is none.

    Raises InputError if the folder has no SHA256SUMS.
    """
    folder = Path(folder)
    expected = read_checksums(folder / CHECKSUMS)
    present = dict(entries(folder))
    lines = [f"missing: {escape_path(path)}" for path in expected.keys() - present.keys()]
    lines += [f"added: {escape_path(path)}" for path in present.keys() - expected.keys()]
    lines += changed(folder, {path: expected[path] for path in expected.keys() & present.keys()}, present)
    for line in sorted(lines):
        print(line)
    total = len(expected.keys() | present.keys())
    if lines:
        remedy = "if jobs have run since, let snakemake finish the study, and lmpipe prune delete what it does not need"
        print(f"{len(lines)} of {total} files differ; {remedy}")
    else:
        print(f"all {total} files agree")
    return not lines


def entries(folder: Path, below: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of each result in a folder, and whether it is a plain file; links are not followed."""
    with os.scandir(folder / below) as scan:
        for entry in scan:
            path = f"{below}{entry.name}"
            if path in (CHECKSUMS, *NON_RESULT_ENTRIES) or is_non_result(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from entries(folder, f"{path}/")
            else:
                yield path, entry.is_file(follow_symlinks=False)


def changed(folder: Path, expected: Mapping[str, str], is_plain: Mapping[str, bool]) -> list[str]:
    """Return a line for each file with another checksum; all cores read."""
    lines = [f"changed: {escape_path(path)} (not a plain file)" for path in expected if not is_plain[path]]
    paths = [path for path in expected if is_plain[path]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checksums = track(pool.map(lambda path: checksum_of(folder / path), paths), "verifying", len(paths), "files")
        different = [path for path, checksum in zip(paths, checksums, strict=True) if checksum != expected[path]]
    return [*lines, *(f"changed: {escape_path(path)}" for path in different)]


def checksum_of(path: Path) -> str | None:
    """Return the checksum of a file; None if it cannot be read."""
    try:
        return sha256_of(path)
    except OSError:
        return None


def escape_path(path: str) -> str:
    """Return a path on one line."""
    return path if path.isprintable() else ascii(path)
