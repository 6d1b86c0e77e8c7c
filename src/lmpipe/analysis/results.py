"""Results of a study as tables: its runs, its experiments, and the JSON documents that its stages wrote."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lmpipe.analysis.run_table import run_row
from lmpipe.analysis.runs import Run, group_by
from lmpipe.data.documents import CorpusInfo, NgramBudget, Yardsticks
from lmpipe.errors import REBUILD, InputError
from lmpipe.io.documents import Document
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import code_span, is_number
from lmpipe.planning.session import workflow_command
from lmpipe.study.paths import CONFIG, RELATIVE, StudyPaths
from lmpipe.study.schema import Study

# Metrics that runs are ranked by, with their units.
UNITS = {"validation_loss": "nats per token", "bits_per_byte": "bits per byte"}
# Prefixes of the metrics that compare a corpus, and the text of the write-up that it stands for.
ROLE_DATASETS = {"simple": "TinyStories", "web": "OpenWebText"}
# Columns of an experiment's table that come from summary.json, in their order.
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
    "detected_step",
)
MAX_BUDGET_RATIO = 2.0  # of the tokens of a yardstick and those of a run that it measures
Doc = TypeVar("Doc", bound=Document)


@dataclass(frozen=True)
class ExperimentRuns:
    """The runs of one experiment in the order of the study file, one for each name and seed."""

    name: str
    runs: list[Run]

    def names(self) -> list[str]:
        """Return the runs' names, each once, in the order of the study."""
        return list(dict.fromkeys(run.name for run in self.runs))

    def seeds_of(self, name: str) -> list[Run]:
        """Return the runs of one name, one for each seed, ordered by seed."""
        return sorted((run for run in self.runs if run.name == name), key=lambda run: run.seed)

    def by_corpus(self) -> dict[str, "ExperimentRuns"]:
        """Return the runs on each corpus as an experiment, in the order of the study."""
        runs = group_by(self.runs, lambda run: run.config.corpus)
        return {corpus: ExperimentRuns(self.name, members) for corpus, members in runs.items()}

    def ranking_metric(self) -> str | None:
        """Return the metric that ranks the runs; None if their texts differ, so that none does.

        It is `validation_loss` if they predict the same tokens, and `bits_per_byte` if these differ on one corpus.
        """
        configs = [run.config for run in self.runs]
        if len({config.tokens.valid.sha256 for config in configs}) <= 1:
            return "validation_loss"
        return "bits_per_byte" if len({config.corpus for config in configs}) == 1 else None

    def losses(self, name: str, metric: str = "validation_loss") -> list[float]:
        """Return the final values of one run in the metric's unit, by seed; only of seeds that finished."""
        values = [getattr(run.summary, metric) for run in self.seeds_of(name) if run.status == "finished"]
        return [value for value in values if value is not None]

    def mean_loss(self, name: str, metric: str = "validation_loss") -> float | None:
        """Return the mean final value over the seeds, in the metric's unit; None unless every seed finished."""
        losses = self.losses(name, metric)
        return sum(losses) / len(losses) if losses and len(losses) == len(self.seeds_of(name)) else None

    def best(self) -> str | None:
        """Return the run with the lowest mean final loss among those whose seeds all finished; None across corpora."""
        metric = self.ranking_metric()
        means = {name: self.mean_loss(name, metric) for name in self.names()} if metric else {}
        finished = {name: mean for name, mean in means.items() if mean is not None}
        return min(finished, key=finished.get) if finished else None

    def setting(self, name: str, key: str) -> Any:
        """Return a resolved setting of the runs of one name."""
        return self.seeds_of(name)[0].setting(key)

    def varied_settings(self) -> list[str]:
        """Return the settings in which runs of this experiment differ, in the order of the study's sweeps."""
        keys = dict.fromkeys(key for run in self.runs for key in run.config.overrides)
        return [key for key in keys if len({repr(run.setting(key)) for run in self.runs}) > 1]

    def swept_settings(self) -> list[str]:
        """Return the one or two numeric settings that form the grid; empty if the runs are not a grid."""
        keys = self.varied_settings()
        is_grid = all(key in run.config.overrides and is_number(run.setting(key)) for key in keys for run in self.runs)
        return keys if is_grid and len(keys) in (1, 2) else []

    def write_table(self, path: str | Path) -> None:
        """Write a CSV file with a row for each run and seed: varied settings, losses, sizes and times."""
        import pandas as pd

        varied = self.varied_settings()
        rows = [run_row(run) | {key: run.setting(key) for key in varied} for run in self.runs]
        columns = dict.fromkeys(["run", "seed", "status", *varied, *SUMMARY_COLUMNS])
        # Cells keep their Python types (dtype object), so that a mixed column prints as it was written.
        table = pd.DataFrame(rows, columns=list(columns), dtype=object)
        with atomic_write(path) as file:
            table.to_csv(file, index=False, lineterminator="\n")


class Results:
    """A study's results folder, read on demand; `run_keys` maps each experiment to its runs, as (name, seed) pairs."""

    def __init__(self, folder: str | Path, study: Study, run_keys: Mapping[str, list[tuple[str, int]]]):
        self.folder = Path(folder)
        self.paths = StudyPaths(self.folder)
        self.study = study
        self.run_keys = dict(run_keys)
        self._experiments: dict[str, ExperimentRuns] = {}
        self._documents: dict[Path, Any] = {}

    def document(self, kind: type[Doc], source: str | Path) -> Doc | None:
        """Read a document, once, by its path from the results folder; None if it is missing."""
        path = self.folder / source
        if path not in self._documents:
            self._documents[path] = kind.read(path) if path.exists() else None
        return self._documents[path]

    @cached_property
    def corpora(self) -> dict[str, CorpusInfo]:
        """Contents of corpus.json of every corpus that exists."""
        paths = {name: self.paths.corpus_info(name) for name in self.study.corpora}
        return {name: CorpusInfo.read(path) for name, path in paths.items() if path.exists()}

    def yardsticks(self, corpus: str) -> Yardsticks | None:
        """Return the losses of simple models on a corpus; None if they have not been computed."""
        return self.document(Yardsticks, RELATIVE.yardsticks(corpus))

    def yardstick(self, run: Run) -> NgramBudget | None:
        """Return the n-gram losses for the budget of training tokens nearest to a run's.

        None for another tokenizer, and for a run much shorter than all budgets, which is not measured by their losses.
        """
        yardsticks = self.yardsticks(run.config.corpus)
        if yardsticks is None or not yardsticks.budgets or yardsticks.tokenizer != run.config.tokenizer.name:
            return None
        tokens = run.config.training.total_tokens
        nearest = min(yardsticks.budgets, key=lambda budget: abs(math.log(budget.train_tokens / tokens)))
        return nearest if nearest.train_tokens <= MAX_BUDGET_RATIO * tokens else None

    def corpus_in_role(self, role: str) -> str | None:
        """Return the first corpus that stands for TinyStories (`simple`) or OpenWebText (`web`); None without one."""
        corpora = self.study.corpora.items()
        return next((name for name, corpus in corpora if corpus.stands_for == ROLE_DATASETS[role]), None)

    def experiment(self, name: str) -> ExperimentRuns | None:
        """Return all runs of an experiment; None if the study has none of that name."""
        if name not in self.run_keys:
            return None
        if name not in self._experiments:
            self._experiments[name] = read_experiment(self.folder, name, self.run_keys[name])
            for run in self._experiments[name].runs:
                if run.config.corpus not in self.study.corpora:
                    problem = f"corpus is {run.config.corpus}, which is not in the study"
                    raise InputError(run.folder / CONFIG, problem, REBUILD)
        return self._experiments[name]

    def experiments(self) -> list[ExperimentRuns]:
        """Return all experiments, in the order of the study."""
        return [self.experiment(name) for name in self.run_keys]

    def runs(self) -> list[Run]:
        """Return every run of every experiment, in the order of the study."""
        return [run for experiment in self.experiments() for run in experiment.runs]

    def command(self, target: str | Path) -> str:
        """Return the command, as code, that makes a result by its path, or a group of results by its name."""
        return code_span(workflow_command(self.paths.study_file, target))


def read_experiment(folder: str | Path, experiment: str, runs: list[tuple[str, int]]) -> ExperimentRuns:
    """Read the named runs of an experiment; folders that earlier studies left behind are ignored."""
    paths = StudyPaths(Path(folder))
    return ExperimentRuns(experiment, [Run.read(paths.run(experiment, run, seed)) for run, seed in runs])
