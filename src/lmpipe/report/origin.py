"""Origin of the results of a card: its jobs, their environment, and the commands that make the results again."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmpipe.io.formatting import format_bytes, format_seconds, join_words
from lmpipe.planning.lineage import Job, Lineage
from lmpipe.provenance.environment import Environment


@dataclass(frozen=True)
class StageJobs:
    """Finished jobs of one stage: number, seeds, and total wall time."""

    stage: str
    count: int
    seeds: list[int]
    time: str


@dataclass(frozen=True)
class Origin:
    """Jobs that made the results of a card, their environment, and the commands that make the results again."""

    stages: list[StageJobs]
    facts: dict[str, str]
    commands: list[str]


def origin(lineage: Lineage, sources: Sequence[str], study: str) -> Origin | None:
    """Return the jobs behind the sources of a card's metrics; None without a record of provenance."""
    jobs = lineage.ancestors(sources)
    if not jobs:
        return None
    environments = [job.environment for job in jobs]
    versions = join_by_key([environment.versions for environment in environments])
    facts = {
        "commit": join_unique(map(commit, environments)),
        "machine": join_unique(map(machine, environments)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return Origin(stage_jobs(jobs), facts, lineage.rebuild_commands(sources, study))


def stage_jobs(jobs: Iterable[Job]) -> list[StageJobs]:
    """Return jobs by stage, in the order in which the stages first appear."""
    by_stage: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_stage[job.rule].append(job)
    return [
        StageJobs(
            stage,
            len(members),
            sorted({seed for job in members for seed in job.seeds}),
            format_seconds(sum(job.wall_seconds for job in members)),
        )
        for stage, members in by_stage.items()
    ]


def machine(environment: Environment) -> str:
    """Return a machine in one line."""
    hardware = environment.hardware
    memory = f", {format_bytes(hardware.memory_bytes)} of memory" if hardware.memory_bytes else ""
    return f"{hardware.processor}, {hardware.cores} cores{memory}, {hardware.system}"


def commit(environment: Environment) -> str:
    """Return the commit of the code, and if files differ from it."""
    if environment.commit is None:
        return "not a git checkout"
    return environment.commit[:12] + (" with local changes" if environment.dirty else "")


def join_by_key(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the distinct values of each key of several mappings, joined.

    >>> join_by_key([{"torch": "2.9", "numpy": "2.3"}, {"torch": "2.8"}])
    {'torch': '2.9 and 2.8', 'numpy': '2.3'}
    """
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    return {name: join_unique([mapping[name] for mapping in mappings if name in mapping]) for name in names}


def join_unique(texts: Iterable[str]) -> str:
    """Return distinct texts, joined; "no training run" without any."""
    return join_words(list(dict.fromkeys(texts))) or "no training run"
