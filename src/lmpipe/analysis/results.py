"""Reading a study's results folder: what the plots, the problems and the report share."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmpipe.data.documents import CorpusInfo
from lmpipe.errors import InputError
from lmpipe.io.hints import make_again, make_first
from lmpipe.io.validation import short_repr
from lmpipe.study.documents import read_shape
from lmpipe.training.run_config import BestRun, GridPoint, RunConfig
from lmpipe.training.run_store import RunSummary

# What runs are ranked by, with its unit.
UNITS = {"validation_loss": "nats per token", "bits_per_byte": "bits per byte"}
# Prefixes of the metrics that compare a corpus, and the text of the write-up that it stands for.
ROLE_DATASETS = {"simple": "TinyStories", "web": "OpenWebText"}
METRICS_COLUMNS = ("step", "tokens", "wall_seconds", "train_loss", "validation_loss")
# The columns of a table of runs that come from summary.json, in their order.
SUMMARY_COLUMNS = (
    "validation_loss",
    "best_validation_loss",
    "perplexity",
    "bits_per_byte",
    "steps",
    "tokens",
    "parameters",
    "train_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "device",
    "threads",
    "precision",
    "diverged_step",
)


@dataclass(frozen=True)
class Run:
    """One finished, diverged or stuck training run: its folder, config.json and summary.json."""

    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder, EXPERIMENT/NAME/seedN; raises InputError for missing, damaged and other runs' files."""
        path = folder / "config.json"
        config = RunConfig.read(path).model_dump(mode="json")
        place, found = folder.parts[-3:], (config["experiment"], config["run"], f"seed{config['seed']}")
        if found != place:
            told = short_repr("/".join(found))
            raise InputError(f"{path}: expected the run {'/'.join(place)}, found {told}; {make_again(path)}")
        return cls(folder, config, RunSummary.read(folder / "summary.json").model_dump(mode="json"))

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
        """`finished`, `diverged` or `not_learning`."""
        return self.summary["status"]

    @property
    def loss(self) -> float | None:
        """Loss on the whole validation split in nats per token; None where it is not finite."""
        return self.summary["validation_loss"]

    @property
    def varied(self) -> dict[str, Any]:
        """What this run sets differently from its experiment, with best_of values resolved to numbers."""
        return self.config["overrides"]

    def setting(self, key: str) -> Any:
        """A setting as this run resolved it, by its key in a study file (`max_lr`, `norm`, `corpus`, `vocab_size`)."""
        for block in (self.config["training"], self.config["model"], self.config):
            if key in block:
                return block[key]
        return self.varied.get(key)

    def metrics(self) -> dict[str, list[float | None]]:
        """The columns of metrics.csv; an empty cell, or a value that is not finite, is None.

        Raises InputError where the file is missing, damaged or cut off.
        """
        path = self.folder / "metrics.csv"
        columns = read_table(path, METRICS_COLUMNS)
        last, steps = columns["step"][-1], self.summary["steps"]
        if last is None or last < steps:
            raise InputError(f"{path}: expected rows up to step {steps}, found {last} as the last; {make_again(path)}")
        return columns

    def validation_curve(self, column: str = "step") -> list[tuple[float, float]]:
        """Pairs of (step or wall_seconds, validation loss in nats per token) at each evaluation with a finite loss."""
        metrics = self.metrics()
        pairs = zip(metrics[column], metrics["validation_loss"], strict=True)
        return [(x, loss) for x, loss in pairs if x is not None and loss is not None]

    def row(self, settings: Iterable[str] = ()) -> dict[str, Any]:
        """One line of a table of runs: name, seed, status, the given settings, and what the summary measured."""
        head = {"run": self.name, "seed": self.seed, "status": self.status}
        middle = {key: self.setting(key) for key in settings}
        return head | middle | {column: self.summary.get(column) for column in SUMMARY_COLUMNS}


def finite_or_none(cell: str) -> float | None:
    """A cell of metrics.csv as a number.

    >>> finite_or_none("2.5"), finite_or_none(""), finite_or_none("nan")
    (2.5, None, None)
    """
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None


def read_table(path: Path, columns: Iterable[str]) -> dict[str, list[float | None]]:
    """The columns of a CSV file of numbers; an empty cell, or a value that is not finite, is None.

    Raises InputError where the file is missing or damaged, has no row, or lacks one of `columns`.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        table = {name: [finite_or_none(cell) for cell in cells] for name, *cells in zip(header, *rows, strict=True)}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {make_first(path)}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a table of numbers, found {error}; {make_again(path)}") from None
    if lacking := [name for name in columns if not table.get(name)]:
        raise InputError(f"{path}: {lacking[0]}: expected a column of numbers, found none; {make_again(path)}")
    return table


def is_number(value: Any) -> bool:
    """Whether a setting is a plain number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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

    def by_corpus(self) -> dict[str, "ExperimentRuns"]:
        """The runs on each corpus, as experiments of their own, in the order of the study."""
        corpora = dict.fromkeys(run.config["corpus"] for run in self.runs)
        return {
            corpus: ExperimentRuns(self.name, [run for run in self.runs if run.config["corpus"] == corpus])
            for corpus in corpora
        }

    def ranking_metric(self, names: Iterable[str] | None = None) -> str | None:
        """What the named runs, or all, can be ranked by; None where their texts differ, so that nothing ranks them.

        `validation_loss` where they predict the same tokens, `bits_per_byte` where these differ on one corpus.
        """
        chosen = set(self.names() if names is None else names)
        configs = [run.config for run in self.runs if run.name in chosen]
        if len({config["tokens"]["valid"]["sha256"] for config in configs}) <= 1:
            return "validation_loss"
        return "bits_per_byte" if len({config["corpus"] for config in configs}) == 1 else None

    def losses(self, name: str, measure: str = "validation_loss") -> dict[int, float]:
        """Final losses of one run by seed, in the unit of the measure; only seeds that finished."""
        finished = (run for run in self.seeds_of(name) if run.status == "finished")
        return {run.seed: run.summary[measure] for run in finished if run.summary[measure] is not None}

    def mean_loss(self, name: str, measure: str = "validation_loss") -> float | None:
        """Mean final loss over the seeds, in the unit of the measure; None unless every seed finished."""
        losses = self.losses(name, measure)
        return sum(losses.values()) / len(losses) if losses and len(losses) == len(self.seeds_of(name)) else None

    def best(self) -> str | None:
        """The name with the lowest mean final loss among those whose seeds all finished; None across corpora."""
        return self.best_among(self.names())

    def best_among(self, names: Iterable[str]) -> str | None:
        """The best of the given names by what ranks them; None where nothing does, or none finished with every seed."""
        names = list(names)
        measure = self.ranking_metric(names)
        means = {name: self.mean_loss(name, measure) for name in names} if measure else {}
        finished = {name: mean for name, mean in means.items() if mean is not None}
        return min(finished, key=finished.get) if finished else None

    def setting(self, name: str, key: str) -> Any:
        """A resolved setting of the runs of one name."""
        return self.seeds_of(name)[0].setting(key)

    def statuses(self, name: str) -> list[str]:
        """The statuses of the runs of one name, by seed."""
        return [run.status for run in self.seeds_of(name)]

    def varied_settings(self) -> list[str]:
        """The settings in which runs of this experiment differ, in the order in which the study varies them."""
        keys = dict.fromkeys(key for run in self.runs for key in run.varied)
        return [key for key in keys if len({repr(run.setting(key)) for run in self.runs}) > 1]

    def swept_settings(self) -> list[str]:
        """The one or two numeric settings that span this experiment; empty where its runs are no such grid."""
        keys = self.varied_settings()
        everywhere = all(key in run.varied and is_number(run.setting(key)) for key in keys for run in self.runs)
        return keys if everywhere and len(keys) in (1, 2) else []


class CorpusInfos(dict):
    """corpus.json by corpus; raises InputError for one that is missing."""

    def __init__(self, infos: dict[str, dict[str, Any]], paths: dict[str, Path]):
        super().__init__(infos)
        self.paths = paths

    def __missing__(self, corpus: str) -> dict[str, Any]:
        raise InputError(self.paths[corpus], "no such file", "run snakemake to make it")


class Results:
    """A study's results folder, read on demand. `plan` maps each experiment to its (run, seed) pairs, in order."""

    def __init__(self, folder: str | Path, study: dict[str, Any], plan: dict[str, list[tuple[str, int]]]):
        self.folder = Path(folder)
        self.study = study
        self.plan = plan
        self._read: dict[str, ExperimentRuns] = {}

    def json(self, name: str, kind: Any) -> Any | None:
        """A JSON result of a shape by its path below the folder; None where the study does not make it."""
        path = self.folder / name
        return read_shape(path, kind) if path.exists() else None

    @cached_property
    def corpora(self) -> "CorpusInfos":
        """corpus.json of every corpus that exists; a missing one raises InputError when it is asked for."""
        paths = {name: self.folder / "corpora" / name / "corpus.json" for name in self.study["corpora"]}
        infos = {name: CorpusInfo.read(path) for name, path in paths.items() if path.exists()}
        return CorpusInfos(infos, paths=paths)

    def corpora_in_role(self, role: str) -> list[str]:
        """The corpora that stand in the place of TinyStories (`simple`) or OpenWebText (`web`)."""
        return [
            name for name, corpus in self.study["corpora"].items() if corpus.get("stands_for") == ROLE_DATASETS[role]
        ]

    def corpus_in_role(self, role: str) -> str | None:
        """The first of the corpora in a role, which speaks for it; None where there is none."""
        return next(iter(self.corpora_in_role(role)), None)

    def experiment(self, name: str) -> ExperimentRuns | None:
        """All runs of an experiment; None where the study has none of that name."""
        if name not in self.plan:
            return None
        if name not in self._read:
            self._read[name] = read_experiment(self.folder, name, self.plan[name])
            for run in self._read[name].runs:
                if run.config["corpus"] not in self.study["corpora"]:
                    path = run.folder / "config.json"
                    raise InputError(f"{path}: corpus: expected one of the study's, found others; {make_again(path)}")
        return self._read[name]

    def experiments(self) -> list[ExperimentRuns]:
        """All experiments, in the order of the study."""
        return [self.experiment(name) for name in self.plan]

    def runs(self) -> list[Run]:
        """Every run of every experiment, in the order of the study."""
        return [run for experiment in self.experiments() for run in experiment.runs]


def read_experiment(folder: str | Path, experiment: str, runs: list[tuple[str, int]]) -> ExperimentRuns:
    """Read the named runs of an experiment; stale folders of earlier studies are left alone."""
    base = Path(folder) / "runs" / experiment
    return ExperimentRuns(experiment, [Run.read(base / run / f"seed{seed}") for run, seed in runs])


def select_best(experiment: ExperimentRuns) -> BestRun:
    """The best finished grid point of a sweep by its mean final loss over the seeds: what best.json says.

    Raises InputError where no point finished with every seed, or where they are on different corpora, since nothing can
    be taken from such a sweep.
    """
    measure = experiment.ranking_metric()
    if measure is None:
        raise InputError(
            f"experiments.{experiment.name}: expected runs on one corpus, found {', '.join(experiment.by_corpus())}, "
            "whose losses do not compare; take the rate from an experiment on one of them"
        )
    best = experiment.best()
    if best is None:
        raise InputError(
            f"experiments.{experiment.name}: no grid point finished with all its seeds; add lower learning rates to it"
        )
    return BestRun(
        **grid_point(experiment, best).model_dump(),
        experiment=experiment.name,
        seeds=[run.seed for run in experiment.seeds_of(best)],
        ranked_by=measure,
        candidates=[grid_point(experiment, name) for name in experiment.names()],
    )


def grid_point(experiment: ExperimentRuns, name: str) -> GridPoint:
    """Return one run of a sweep with its mean losses; None unless every seed finished."""
    runs = experiment.seeds_of(name)
    training = runs[0].config["training"]
    return GridPoint(
        run=name,
        max_lr=training["max_lr"],
        batch_size=training["batch_size"],
        **{measure: experiment.mean_loss(name, measure) for measure in UNITS},
        statuses=[run.status for run in runs],
    )
