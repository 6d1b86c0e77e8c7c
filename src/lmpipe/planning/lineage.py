"""What lies behind a result: the jobs that made it, traced from record to record of provenance."""

import fnmatch
import os
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmpipe.planning.stages import rule_of
from lmpipe.provenance.job_records import CHECKSUM, Facts, ResultPath
from lmpipe.study.documents import Amount, keys, read_shape

MACHINE = keys(processor=str, cores=int | None, memory_bytes=int | None, system=str)
RECORD = keys(
    verb=str,
    seeds=list[int],
    inputs=dict[str, Any],
    outputs=dict[ResultPath, CHECKSUM],
    versions=dict[str, str],
    hardware=MACHINE,
    commit=str | None,
    changed=bool | None,
    wall_seconds=Amount,
)


class Job(NamedTuple):
    """A finished job: its record of provenance, and what it read and made.

    Both are paths below the study's folder.
    """

    record: Facts
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The rule of the workflow that it belongs to."""
        return rule_of(self.record["verb"])

    @property
    def wall_seconds(self) -> float:
        """How long it took; where it copied a run from the store, how long the training had taken."""
        return self.record.get("training_seconds") or self.record["wall_seconds"]


class Lineage:
    """The jobs of a study that left a record, and which of them made which file."""

    def __init__(self, jobs: Iterable[tuple[str, Job]]):
        self.jobs = dict(jobs)
        self.producer = {name: path for path, job in self.jobs.items() for name in job.outputs}

    @classmethod
    def read(cls, folder: str | Path, paths: Iterable[str]) -> "Lineage":
        """Read those records that are there, by their paths below a study's folder; raises InputError for damage."""
        there = [path for path in paths if os.path.exists(Path(folder) / path)]
        return cls((path, read_job(Path(folder) / path, path)) for path in there)

    def ancestors(self, files: Iterable[str]) -> list[Job]:
        """Every job that some files come from, those that made them first; no more where no record names a file."""
        found: dict[str, Job] = {}
        front = list(files)
        while front:
            producers = dict.fromkeys(self.producer[name] for name in front if name in self.producer)
            new = {path: self.jobs[path] for path in producers if path not in found}
            found |= new
            front = [name for job in new.values() for name in job.inputs]
        return list(found.values())

    def producers(self, files: Iterable[str]) -> list[Job]:
        """The jobs that made these very files."""
        return [
            self.jobs[path] for path in dict.fromkeys(self.producer[name] for name in files if name in self.producer)
        ]


def read_job(path: Path, name: str) -> Job:
    """A job by its record, whose path below the study's folder is `name`."""
    record = read_shape(path, RECORD)
    inputs, outputs = (tuple(below(name, found) for found in record[key]) for key in ("inputs", "outputs"))
    return Job(record, inputs, outputs)


def below(record: str, name: str) -> str:
    """The path below the study's folder of a file that a record names by its path from the record's folder.

    >>> below("runs/a/b/seed0/provenance.json", "../../../../tokens/stories/train.bin")
    'tokens/stories/train.bin'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(record), name))


def matching_files(lineage: Lineage, sources: Iterable[str]) -> list[str]:
    """The recorded files that some sources stand for, which may be patterns such as `runs/*/*/seed*/summary.json`."""
    patterns = list(sources)
    return [name for name in lineage.producer if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def rebuild_commands(study: str, sources: Sequence[str], producers: Sequence[Job]) -> list[str]:
    """The commands that make some results again, and nothing that they do not need; everything where all are patterns.

    An experiment's plots are made of its runs, so it is these that are made again: without what the store keeps.
    """
    rules = dict.fromkeys("train" if job.rule == "plot_experiment" else job.rule for job in producers)
    targets = [f"results/{study}/{source}" for source in sources if "*" not in source]
    command = ["snakemake", "--cores", "2", *targets, "--forcerun", *rules, "--configfile", "study.yaml"]
    return ([f"lmpipe forget results/{study}"] if "train" in rules else []) + [shlex.join(command)]


def relevant_settings(study: Mapping[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """The part of a study that decides what some jobs made."""
    rules = {job.rule for job in jobs}
    made = [name.split("/") for job in jobs for name in job.outputs]
    corpora, experiments = ({parts[1] for parts in made if parts[0] == top} for top in ("corpora", "runs"))
    wanted = {
        "corpora": bool(corpora),
        "seeds": bool(experiments),
        "model": bool(experiments) or "account_model" in rules,
        "training": bool(experiments),
        "experiments": bool(experiments),
        "accounting": "account_model" in rules,
        "samples": "generate" in rules,
    }
    chosen = {"corpora": corpora, "experiments": experiments}
    return {
        block: {name: one for name, one in value.items() if name in chosen[block]} if block in chosen else value
        for block, value in study.items()
        if wanted.get(block)
    }


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as the text of a study file."""
    return yaml.safe_dump(without_none(settings), sort_keys=False, default_flow_style=None, allow_unicode=True)


def without_none(value: Any) -> Any:
    """Settings without those that are not set."""
    if isinstance(value, Mapping):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    return [without_none(inner) for inner in value] if isinstance(value, list | tuple) else value
