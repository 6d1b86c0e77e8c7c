"""Reading a study's results folder: what the plots, the problems and the report share."""

import csv
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmpipe.files import read_json


@dataclass(frozen=True)
class Run:
    """One finished, diverged or stuck training run: its folder, config.json and summary.json."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder; raises InputError where a file is missing or damaged."""
        return cls(folder, read_json(folder / "config.json"), read_json(folder / "summary.json"))

    @property
    def name(self) -> str:
        """The run's name inside its experiment, such as `max_lr=0.003`."""
        return self.config["run"]

    @property
    def seed(self) -> int:
        """The seed of the initial weights and the batches."""
        return self.config["seed"]

    @property
    def status(self) -> str:
        """`finished`, `diverged` or `stuck`."""
        return self.summary["status"]

    @property
    def loss(self) -> float | None:
        """Loss on the whole validation split in nats per token; None where it is not finite."""
        return self.summary["validation_loss"]

    @property
    def varied(self) -> dict[str, Any]:
        """What this run sets differently from its experiment, with best_of values resolved to numbers."""
        return self.config["varied"]

    def metrics(self) -> dict[str, list[float | None]]:
        """The columns of metrics.csv; an empty cell is None."""
        with open(self.folder / "metrics.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = rows[0].keys() if rows else []
        return {column: [float(row[column]) if row[column] else None for row in rows] for column in columns}


@dataclass
class ExperimentRuns:
    """The runs of one experiment, in the order of the study file, each with its seeds."""

    name: str
    runs: list[Run] = field(default_factory=list)

    def names(self) -> list[str]:
        """The runs' names, each once, in the order of the study."""
        return list(dict.fromkeys(run.name for run in self.runs))

    def seeds_of(self, name: str) -> list[Run]:
        """The runs of one name, one for each seed, ordered by seed."""
        return sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed)

    def losses(self, name: str) -> dict[int, float]:
        """Final losses of one run by seed; only seeds that finished."""
        finished = (run for run in self.seeds_of(name) if run.status == "finished" and run.loss is not None)
        return {run.seed: run.loss for run in finished}

    def mean_loss(self, name: str) -> float | None:
        """Mean final loss over the seeds; None unless every seed finished."""
        losses = self.losses(name)
        return sum(losses.values()) / len(losses) if losses and len(losses) == len(self.seeds_of(name)) else None

    def best(self) -> str | None:
        """The name with the lowest mean final loss among those whose seeds all finished."""
        means = {name: loss for name in self.names() if (loss := self.mean_loss(name)) is not None}
        return min(means, key=means.get) if means else None


class Results:
    """A study's results folder, read on demand. `plan` maps each experiment to its (run, seed) pairs, in order."""

    def __init__(self, folder: str | Path, study: dict[str, Any], plan: dict[str, list[tuple[str, int]]]):
        self.folder = Path(folder)
        self.study = study
        self.plan = plan

    def json(self, name: str) -> Any | None:
        """A JSON result by its path below the folder; None where the study does not make it."""
        path = self.folder / name
        return read_json(path) if path.exists() else None

    @cached_property
    def corpora(self) -> dict[str, dict[str, Any]]:
        """corpus.json of every corpus of the study."""
        return {name: read_json(self.folder / "corpora" / name / "corpus.json") for name in self.study["corpora"]}

    def corpus_in_role(self, role: str) -> str | None:
        """The first corpus that stands in the place of TinyStories (`simple`) or OpenWebText (`web`)."""
        return next((name for name, corpus in self.study["corpora"].items() if corpus["role"] == role), None)

    def experiment(self, name: str) -> ExperimentRuns | None:
        """All runs of an experiment; None where the study has none of that name."""
        if name not in self.plan:
            return None
        return self._experiments[name]

    def experiments(self) -> list[ExperimentRuns]:
        """All experiments, in the order of the study."""
        return list(self._experiments.values())

    @cached_property
    def _experiments(self) -> dict[str, ExperimentRuns]:
        return {name: read_experiment(self.folder, name, runs) for name, runs in self.plan.items()}


def read_experiment(folder: str | Path, name: str, runs: list[tuple[str, int]]) -> ExperimentRuns:
    """Read the named runs of an experiment; stale folders of earlier studies are left alone."""
    base = Path(folder) / "runs" / name
    return ExperimentRuns(name, [Run.read(base / run / f"seed{seed}") for run, seed in runs])
