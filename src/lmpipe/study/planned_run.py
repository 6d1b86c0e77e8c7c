"""One training run of a study, with every setting resolved."""

from typing import Any

from lmpipe.study.experiments import BestOf, LearningRate
from lmpipe.study.fields import Name, Seed, Settings
from lmpipe.study.settings import ModelSettings, TrainingSettings


class PlannedTraining(TrainingSettings):
    """Training settings of a planned run; `max_lr` may be taken from the best run of another experiment."""

    max_lr: LearningRate


class PlannedRun(Settings):
    """A training run as the study asks for it: all that `train` needs to know but the machine.

    `overrides` holds the settings that distinguish the run inside its experiment.
    """

    study: str
    experiment: Name
    name: str
    seed: Seed
    corpus: str
    tokenizer: str
    overrides: dict[str, Any]
    model: ModelSettings
    training: PlannedTraining

    @property
    def id(self) -> str:
        """Name of the run in its study: `EXPERIMENT/NAME/seedN`."""
        return f"{self.experiment}/{self.name}/seed{self.seed}"

    @property
    def folder(self) -> str:
        """Folder of the run, below the results folder of its study."""
        return f"runs/{self.id}"

    @property
    def best_of(self) -> str | None:
        """Experiment whose best learning rate this run takes; None if the rate is a number."""
        return self.training.max_lr.best_of if isinstance(self.training.max_lr, BestOf) else None
