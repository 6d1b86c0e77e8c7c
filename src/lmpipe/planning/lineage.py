"""Jobs behind a result, traced through the records of provenance."""

import fnmatch
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lmpipe.planning.session import RESULTS, workflow_command
from lmpipe.planning.stages import BY_COMMAND
from lmpipe.provenance.environment import Environment
from lmpipe.provenance.job_records import JobRecord
from lmpipe.study.paths import StudyPaths

MAX_PAUSE_SECONDS = 60.0  # Snakemake starts the next job within seconds


@dataclass(frozen=True)
class Job:
    """A finished job, as its record of provenance describes it; files are paths below the study's folder."""

    rule: str
    seeds: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    environment: Environment
    wall_seconds: float
    """Time of the job, or of the training if the job copied a run from the store."""
    start: float
    """Start of the job in seconds since 1970."""
    end: float
    """End of the job in seconds since 1970."""
    is_copy: bool = False
    """True if the job copied a run from the store."""


class Lineage:
    """The jobs of a study that have a record, by the record's path, and the record that names each output."""

    def __init__(self, jobs: Mapping[str, Job]):
        self.jobs = dict(jobs)
        self.producers = {name: path for path, job in self.jobs.items() for name in job.outputs}

    @classmethod
    def read(cls, folder: Path, paths: Iterable[str]) -> "Lineage":
        """Read the records that exist, by their paths below a study's folder; raise InputError for a damaged one."""
        return cls({path: read_job(folder / path, path) for path in paths if (folder / path).exists()})

    @property
    def elapsed_seconds(self) -> float | None:
        """Time from the first job to the last, without pauses of more than MAX_PAUSE_SECONDS between calls.

        None without jobs, or if a run was copied and the record of the job that trained it, which has the same training
        time, is gone: an earlier call trained it.
        """
        trained = {job.wall_seconds for job in self.jobs.values() if not job.is_copy}
        if not self.jobs or any(job.is_copy and job.wall_seconds not in trained for job in self.jobs.values()):
            return None
        return max(end for *_, end in self.timeline())

    def timeline(self) -> list[tuple[str, Job, float, float]]:
        """Return path, job, start and end of each job, in seconds since the first one began.

        Pauses of more than MAX_PAUSE_SECONDS between calls are left out.
        """
        jobs = sorted(self.jobs.items(), key=lambda item: item[1].start)
        end = pauses = jobs[0][1].start if jobs else 0.0
        entries = []
        for path, job in jobs:
            if job.start > end + MAX_PAUSE_SECONDS:
                pauses += job.start - end
            end = max(end, job.end)
            entries.append((path, job, job.start - pauses, job.end - pauses))
        return entries

    def files(self, sources: Iterable[str]) -> list[str]:
        """Return the recorded files that match patterns such as `runs/*/*/seed*/summary.json`."""
        patterns = list(sources)
        return [name for name in self.producers if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]

    def ancestors(self, sources: Iterable[str]) -> list[Job]:
        """Return all jobs that the files of `sources` derive from, the jobs that made them first."""
        jobs: dict[str, Job] = {}
        files = self.files(sources)
        while files:
            paths = dict.fromkeys(self.producers[name] for name in files if name in self.producers)
            new = {path: self.jobs[path] for path in paths if path not in jobs}
            jobs |= new
            files = [name for job in new.values() for name in job.inputs]
        return list(jobs.values())

    def rebuild_commands(self, sources: Sequence[str], study: str) -> list[str]:
        """Return the commands that make the files of `sources` again; everything if all sources are patterns.

        Plots of an experiment are made from its runs, so that these are trained again, without the run store.
        """
        producers = [self.jobs[self.producers[name]] for name in self.files(sources)]
        rules = dict.fromkeys("train" if job.rule == "plot_experiment" else job.rule for job in producers)
        paths = StudyPaths(RESULTS / study)
        targets = [paths.root / source for source in sources if source in self.producers]
        clearing = [f"lmpipe clear-runs {paths.root}"] if "train" in rules else []
        return [*clearing, workflow_command(paths.study_file, *targets, "--forcerun", *rules)]


def read_job(path: Path, name: str) -> Job:
    """Return the job of a record, whose path below the study's folder is `name`."""
    record, folder = JobRecord.read(path), posixpath.dirname(name)
    inputs, outputs = (
        tuple(posixpath.normpath(posixpath.join(folder, file)) for file in files)
        for files in (record.inputs, record.outputs)
    )
    stage = BY_COMMAND.get(record.command)
    rule = stage.rule if stage else record.command
    start = datetime.fromisoformat(record.started_at).timestamp()
    seconds = record.train_seconds or record.wall_seconds
    return Job(
        rule, record.seeds, inputs, outputs, record, seconds, start, start + record.wall_seconds, bool(record.cache_hit)
    )
