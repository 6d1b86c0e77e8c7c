"""Work of a call of the workflow, derived from the files that it replaced and not from the jobs that ran.

A command writes its results as new files. Training writes to the store, from which files are copied to the run's
folder: trained steps are counted in the store, copies are not counted.
"""

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmpipe.provenance.job_records import is_non_result, is_record
from lmpipe.study.paths import SUMMARY

Stamp = tuple[int, int]  # inode and modification time in ns: a replaced file differs in at least one
# Entries at the top of a results folder that are not counted: no results, or copies from the store.
NOT_COUNTED = ("store", "benchmarks", "study.yaml", "session.json", "runs", "SHA256SUMS")


def stamps(folder: Path) -> dict[str, Stamp]:
    """Inode and modification time of every file below a folder, by its path from it."""
    times = {}
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            times[path.relative_to(folder).as_posix()] = (status.st_ino, status.st_mtime_ns)
    return times


@dataclass(frozen=True)
class Work:
    """Work in a results folder between two moments.

    `trained` maps each trained run to its steps, `merges` each trained tokenizer to its merges, `encoded_bytes` each
    tokenizer to the bytes it encoded; `results` are all replaced results but those of training and the records.
    """

    trained: dict[str, int]
    merges: dict[str, int]
    encoded_bytes: dict[str, int]
    results: frozenset[str]


def work_since(before: dict[str, Stamp], folder: Path) -> Work:
    """Return the work done in a results folder since the snapshot `before` of `stamps`."""
    new = {name for name, stamp in stamps(folder).items() if before.get(name) != stamp}
    results = frozenset(name for name in new if is_counted(name))
    encoded: dict[str, int] = {}
    for name in fnmatch.filter(results, "tokens/*.json"):
        tokenizer = Path(name).parent.name
        encoded[tokenizer] = encoded.get(tokenizer, 0) + read(folder / name)["text_bytes"]
    summaries = fnmatch.filter(new, f"store/*/{SUMMARY}")
    merges = fnmatch.filter(results, "*/merges.txt")
    return Work(
        trained={run_of(folder, name): read(folder / name)["steps"] for name in summaries},
        merges={Path(name).parent.name: len((folder / name).read_text("utf-8").splitlines()) for name in merges},
        encoded_bytes=encoded,
        results=results,
    )


def is_counted(name: str) -> bool:
    """Return whether a file is a result that is not copied from the store."""
    path = Path(name)
    return path.parts[0] not in NOT_COUNTED and not is_record(path.name) and not is_non_result(path.name)


def run_of(folder: Path, summary: str) -> str:
    """Return the run, such as `learning_rate/max_lr=0.01/seed0`, that has a summary of the store."""
    content = (folder / summary).read_bytes()
    copies = sorted(path for path in folder.glob(f"runs/*/*/*/{SUMMARY}") if path.read_bytes() == content)
    return copies[0].parent.relative_to(folder / "runs").as_posix() if copies else summary


def read(path: Path) -> Any:
    """Return the value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def planned_jobs(output: str) -> dict[str, int]:
    """Return how many jobs of each rule the output of a call plans; the names of targets are rules, too."""
    return {rule: int(jobs) for rule, jobs in re.findall(r"^(\w+) +([0-9]+)$", output, re.MULTILINE) if rule != "total"}
