"""Finished training runs: config.json, summary.json and metrics.csv of one run.

pandas is imported when a table is read: `lmpipe status` reads runs without it.
"""

import io
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lmpipe.errors import BUILD, REBUILD, InputError
from lmpipe.io.validation import short_repr
from lmpipe.study.paths import CONFIG, METRICS, SUMMARY
from lmpipe.training.run_documents import RunConfig, RunSummary

if TYPE_CHECKING:
    import pandas as pd

Item, Key = TypeVar("Item"), TypeVar("Key", bound=Hashable)
METRICS_COLUMNS = ("step", "tokens", "wall_seconds", "train_loss", "validation_loss")


@dataclass(frozen=True)
class Run:
    """One training run that finished, diverged or did not learn, in runs/EXPERIMENT/NAME/seedN."""

    folder: Path
    config: RunConfig
    summary: RunSummary

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run's folder; raise InputError if a file is missing, damaged or another run's."""
        config = RunConfig.read(folder / CONFIG)
        expected, actual = folder.parts[-3:], (config.experiment, config.run, f"seed{config.seed}")
        if actual != expected:
            name = short_repr("/".join(actual))
            raise InputError(folder / CONFIG, f"is of the run {name}, not of {'/'.join(expected)}", REBUILD)
        return cls(folder, config, RunSummary.read(folder / SUMMARY))

    @property
    def name(self) -> str:
        """Name of the run in its experiment, such as `max_lr=0.003`."""
        return self.config.run

    @property
    def seed(self) -> int:
        """Seed of the initial weights and the batches."""
        return self.config.seed

    @property
    def status(self) -> str:
        """Status of the run: `finished`, `diverged` or `not_learning`."""
        return self.summary.status

    @property
    def loss(self) -> float | None:
        """Loss on the whole validation split in nats per token; None if it is not finite."""
        return self.summary.validation_loss

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run by their keys in a study file, with best_of values resolved to numbers."""
        names = {"corpus": self.config.corpus, "tokenizer": self.config.tokenizer.name}
        training, model = self.config.training.model_dump(mode="json"), self.config.model.model_dump(mode="json")
        return self.config.overrides | names | model | training

    def setting(self, key: str) -> Any:
        """Return a setting by its key in a study file (`max_lr`, `norm`, `corpus`, `vocab_size`); None if unknown."""
        return self.settings.get(key)

    def metrics(self) -> "pd.DataFrame":
        """Read metrics.csv: float columns, NaN for a value that is missing or not finite.

        Raises InputError if the file is missing, damaged or incomplete.
        """
        path = self.folder / METRICS
        table = read_numbers(path, METRICS_COLUMNS)
        last, steps = table["step"].iloc[-1], self.summary.steps
        if not last >= steps:
            raise InputError(path, f"ends at step {last:g} of {steps}", REBUILD)
        return table

    def validation_losses(self) -> dict[int, float]:
        """Return the finite validation losses by training tokens."""
        table = self.metrics()[["tokens", "validation_loss"]].dropna()
        return {int(tokens): loss for tokens, loss in table.itertuples(index=False, name=None)}


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return runs, or other items, by their key, in the order in which the keys come first."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def read_numbers(path: Path, columns: Iterable[str]) -> "pd.DataFrame":
    """Read a CSV file of numbers: float columns, NaN for a cell that is empty or not finite.

    Raises InputError if the file is missing or damaged, has no row, or lacks a value in one of `columns`.
    """
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n") or len({line.count(",") for line in text.splitlines()}) != 1:
            raise ValueError("a line is incomplete")
        table = pd.read_csv(io.StringIO(text), dtype=float, skip_blank_lines=False)
    except FileNotFoundError:
        raise InputError(path, "is missing", BUILD) from None
    except ValueError as error:
        raise InputError(path, f"is not a table of numbers: {error}", REBUILD) from None
    table = table.replace([math.inf, -math.inf], math.nan)
    for name in columns:
        if table.empty or name not in table:
            raise InputError(path, f"has no values in the column {name}", REBUILD)
    return table
