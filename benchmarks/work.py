"""What was computed in a study's folder: told by the files that were made anew, never by the jobs that ran.

A verb that computes writes its results anew: under the same name stands another file. Training alone writes elsewhere,
into the store of runs, from where its files are copied: trained steps are counted in the store, and the copies not.
"""

import csv
import fnmatch
import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmpipe.provenance.job_records import OTHER_ENTRIES, is_other, is_record
from lmpipe.study.paths import METRICS, SUMMARY, WEIGHTS

# The summary is written last: once it is there, the others are final.
STORED = (SUMMARY, METRICS, WEIGHTS)
# What is the same bytes each time; other results hold times, or what follows from them.
REPEATED = (
    "corpora/*.txt",
    "pretokens/*.npz",
    "tokenizers/*/merges.txt",
    "tokenizers/*/tokenizer.json",
    "tokenizers/*/vocab.json",
    "tokens/*.bin",
    "tokens/*/train.json",
    "tokens/*/valid.json",
    "experiments/*/best.json",
    "runs/*/config.json",
    "runs/*/metrics.csv",
    "runs/*/model.safetensors",
    "samples/*.json",
)
TIME_COLUMNS = {"wall_seconds"}
# An inode and its time of change, in nanoseconds: of a file that was replaced, at least one is another.
Stamp = tuple[int, int]


def stamp(path: Path) -> Stamp | None:
    """Which file stands under a name now; None for a folder, and where there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return (state.st_ino, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def stamps(folder: Path) -> dict[str, Stamp]:
    """Which file stands under each name below a study's folder now."""
    found = {path.relative_to(folder).as_posix(): stamp(path) for path in folder.rglob("*")}
    return {name: file for name, file in found.items() if file}


def finished_runs(folder: Path) -> dict[str, list[Stamp]]:
    """The runs of a study's store that are finished, by their digests, with the stamps of their files."""
    files = {run.name: [stamp(run / name) for name in STORED] for run in folder.glob("store/*")}
    return {digest: found for digest, found in files.items() if all(found)}


@dataclass(frozen=True)
class Work:
    """What was computed in a study's folder between two moments.

    `trained` has the steps of each run that was trained, by the first name that it has; `merges` and `encoded_bytes`
    those of each tokenizer; `made` are all results that were written, but for training's and the records.
    """

    trained: dict[str, int]
    merges: dict[str, int]
    encoded_bytes: dict[str, int]
    made: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.trained or self.made)


def work_since(before: dict[str, Stamp], folder: Path) -> Work:
    """What was computed in a study's folder since its `stamps` were taken."""
    new = {name for name, stamp in stamps(folder).items() if before.get(name) != stamp}
    made = frozenset(name for name in new if not is_elsewhere(name))
    encoded: dict[str, int] = {}
    for name in fnmatch.filter(made, "tokens/*.json"):
        tokenizer = Path(name).parent.name
        encoded[tokenizer] = encoded.get(tokenizer, 0) + read(folder / name)["text_bytes"]
    return Work(
        trained={
            run_of(folder, name): read(folder / name)["steps"] for name in fnmatch.filter(new, f"store/*/{SUMMARY}")
        },
        merges={Path(name).parent.name: lines_of(folder / name) for name in fnmatch.filter(made, "*/merges.txt")},
        encoded_bytes=encoded,
        made=made,
    )


def is_elsewhere(name: str) -> bool:
    """Whether a file tells nothing of what was computed, or of what is counted in the store."""
    path = Path(name)
    return path.parts[0] in (*OTHER_ENTRIES, "runs") or is_record(path.name) or is_other(path.name)


def run_of(folder: Path, summary: str) -> str:
    """The run, such as `learning_rate/max_lr=0.01/seed0`, that has a summary of the store."""
    content = (folder / summary).read_bytes()
    found = sorted(path for path in folder.glob(f"runs/*/*/*/{SUMMARY}") if path.read_bytes() == content)
    return found[0].parent.relative_to(folder / "runs").as_posix() if found else summary


def lines_of(path: Path) -> int:
    """How many lines a text has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def read(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def differences(expected: Path, found: Path) -> list[str]:
    """The names of files that only one of two studies has, or that are not the same bytes though they should be."""
    names = [{name for name in stamps(folder) if not name.startswith(OTHER_ENTRIES)} for folder in (expected, found)]
    both = sorted(names[0] & names[1])
    repeated = [name for name in both if any(fnmatch.fnmatch(name, pattern) for pattern in REPEATED)]
    compared = [name for name in repeated if not is_record(name.split("/")[-1])]
    return sorted(names[0] ^ names[1]) + [name for name in compared if not is_same(expected / name, found / name)]


def is_same(first: Path, second: Path) -> bool:
    """Whether two files are the same bytes; of metrics, but for the columns with times."""
    contents = [path.read_bytes() for path in (first, second)]
    if first.name == METRICS:
        contents = [without_times(content.decode()) for content in contents]
    return contents[0] == contents[1]


def without_times(metrics: str) -> list[dict[str, str]]:
    """The rows of a metrics.csv without the columns that hold times."""
    rows = csv.DictReader(io.StringIO(metrics, newline=""))
    return [{name: cell for name, cell in row.items() if name not in TIME_COLUMNS} for row in rows]
