"""Verifying a study: whether the files in its folder are still those that its jobs made, byte for byte."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmpipe.errors import InputError
from lmpipe.io.files import read_json, sha256_of
from lmpipe.io.progress import progress
from lmpipe.provenance.job_records import (
    CHECKSUM,
    JOB_RECORD,
    OTHER_ENTRIES,
    RECORD,
    ResultPath,
    is_other,
    result_files,
)
from lmpipe.study.documents import check_shape, keys

STUDY_RECORDS = keys(study=str, records=dict[ResultPath, JOB_RECORD], files=dict[ResultPath, CHECKSUM])
SHOWN_DIGITS = 12
FILE = "file"
LINK = "symbolic link"
SPECIAL = "special file"


def verify(folder: str | Path) -> bool:
    """Print a line for each file that was changed, is missing or was added, and a last one; True where all agree.

    Raises InputError where the folder has no provenance.json, or one that is not a whole study's.
    """
    folder = Path(folder)
    collected = read_collected(folder / RECORD)
    expected = result_files(collected["records"])
    found = dict(entries_below(folder))
    differences = [
        *entries_that_differ(expected, found),
        *contents_that_differ(folder, {path: expected[path] for path in expected if found.get(path) == FILE}),
        *lists_that_differ(collected["files"], expected),
    ]
    for difference in sorted(differences):
        print(difference)
    files = len(expected.keys() | found.keys())
    if differences:
        print(f"different: {len(differences)} of {files} files; if jobs have run since, let snakemake finish the study")
    else:
        print(f"all {files} files agree")
    return not differences


# --- what is expected ------------------------------------------------------------------------------------------------


def read_collected(path: Path) -> dict[str, Any]:
    """A study's collected records; raises InputError where they are missing, damaged or not a whole study's."""
    if not path.is_file() or path.is_symlink():
        found = "something else" if os.path.lexists(path) else "no such file"
        raise InputError(
            f"{path}: expected the collected records of a study, found {found}; "
            "name the study's folder, or let snakemake finish the study first"
        )
    remedy = "name the study's folder, or delete the file and call snakemake, which collects the records anew"
    return check_shape(read_json(path), STUDY_RECORDS, str(path), remedy)


# --- what is found ---------------------------------------------------------------------------------------------------


def entries_below(folder: Path, below: str = "") -> Iterator[tuple[str, str]]:
    """Every entry of a study's folder that could be a result: its path from there, and what kind of file it is.

    Links are not followed, so nothing outside the folder is looked at.
    """
    with os.scandir(folder / below) as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if path in (RECORD, *OTHER_ENTRIES) or is_other(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from entries_below(folder, f"{path}/")
            elif entry.is_symlink():
                yield path, LINK
            else:
                yield path, FILE if entry.is_file(follow_symlinks=False) else SPECIAL


# --- how they differ -------------------------------------------------------------------------------------------------


def entries_that_differ(expected: Mapping[str, Any], found: Mapping[str, str]) -> Iterator[str]:
    """A line for each path that only one side has, or that is no plain file."""
    for path in expected.keys() | found.keys():
        if path not in found:
            yield f"missing: {shown(path)}"
        elif path not in expected:
            yield f"added: {shown(path)} (a {found[path]} of a former state of the study, or put there by hand)"
        elif found[path] != FILE:
            yield f"changed: {shown(path)} (expected a {FILE}, found a {found[path]})"


def contents_that_differ(folder: Path, expected: Mapping[str, Any]) -> Iterator[str]:
    """A line for each file whose bytes are others than those that were written; all cores read."""
    total = sum(was["bytes"] for was in expected.values())
    with progress("verifying", total, "bytes") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        changes = pool.map(lambda path: change(folder / path, expected[path]), expected)
        for (path, was), changed in zip(expected.items(), changes, strict=True):
            bar.advance(was["bytes"])
            if changed:
                yield f"changed: {shown(path)} ({changed})"


def change(path: Path, expected: Mapping[str, Any]) -> str | None:
    """How a file's content differs from what was written, in words; None where it does not."""
    try:
        found = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found["sha256"] == expected["sha256"]:
        return None
    return f"expected {described(expected)}, found {described(found)}"


def described(content: Mapping[str, Any]) -> str:
    """A size and a checksum in words."""
    return f"{content['bytes']:,} bytes with sha256 {content['sha256'][:SHOWN_DIGITS]}"


def lists_that_differ(files: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for provenance.json itself, where its list of files is not the one that its records give."""
    paths = sorted(files.keys() | expected.keys())
    differing = [path for path in paths if files.get(path) != expected.get(path)]
    if not differing:
        return []
    return [f"changed: {RECORD} (its list of files and its records do not agree on {shown(differing[0])})"]


def shown(path: str) -> str:
    """A path on one line, whatever characters somebody gave it."""
    return path if path.isprintable() else ascii(path)
