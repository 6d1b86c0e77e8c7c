"""The block `experiments` of a study file: settings that runs override, sweeps over them, and the resolved runs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from lmpipe.io.validation import InvalidValueError, first_violation, show
from lmpipe.study.fields import Label, Name, PositiveFloat, Seed, Seeds, Sentence, Settings, VocabSize, to_list
from lmpipe.study.problems import RESERVED_SECTIONS
from lmpipe.study.settings import ModelSettings, TrainingSettings


class BestOf(Settings):
    """Learning rate of the best finished run of another experiment, times `factor`.

    `scale: sqrt_batch_size` also multiplies it by the square root of the ratio of the batch sizes (Krizhevsky 2014,
    section 5).
    """

    best_of: Name
    """Experiment whose best run has the learning rate; its runs are on one corpus."""
    scale: Literal["sqrt_batch_size"] | None = None
    """Multiply by sqrt(batch_size / batch_size of the best run)."""
    interpolate: bool = False
    """Take the minimum of a parabola through the best rate and its two neighbours, if it is between them."""
    factor: PositiveFloat | None = None
    """Multiply by this number; in a sweep it may be a list of numbers."""

    @property
    def name(self) -> str:
        """Name of the value, a part of the name of a run.

        >>> BestOf(best_of="learning_rate", scale="sqrt_batch_size", factor=0.5).name
        'sqrt_batch_size-0.5'
        """
        if self.factor is not None:
            return f"{self.scale or 'factor'}-{self.factor!r}"
        return self.scale or f"best_of-{self.best_of}"


LearningRate = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[BestOf, Tag("best_of")],
    Discriminator(lambda value: "best_of" if isinstance(value, dict | BestOf) else "number"),
]


def optional_fields(*models: type[Settings]) -> dict[str, Any]:
    """Return the fields of models, each optional and without a default."""
    fields = {}
    for model in models:
        for key, field in model.model_fields.items():
            annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
            fields[key] = (annotation | None, None)
    return fields


# Everything that an experiment or a run may set for itself.
Overrides = create_model(
    "Overrides",
    __base__=Settings,
    __doc__="Settings that an experiment or a run changes.",
    **optional_fields(ModelSettings, TrainingSettings)
    | {
        "corpus": (Name | None, Field(None, description="Corpus to train on.")),
        "vocab_size": (VocabSize | None, Field(None, description="Token ids of the tokenizer; the corpus's own size.")),
        "max_lr": (LearningRate | None, Field(None, description="Peak learning rate, or the best of an experiment.")),
    },
)


def sweep_values(value: Any) -> Any:
    """Return the values of one swept setting; a best_of block with a list of factors becomes a list of blocks."""
    if isinstance(value, dict):
        return [{**value, "factor": factor} for factor in to_list(value["factor"])] if "factor" in value else [value]
    if not isinstance(value, list) or not value:
        raise InvalidValueError(f"is {show(value)}", "use a list of values, such as [1, 2]")
    return value


class Expect(Settings):
    """Hypothesis about a run: its final loss beside that of the run `baseline`, or of its experiment's first run.

    Of a sweep or a whole experiment, it is about the last run.
    """

    outcome: Literal["higher", "lower", "same", "diverges"]
    """Expected loss, or divergence."""
    because: Sentence
    """Reason."""
    source: Label | None = None
    """Paper that the reason is from."""


class RunSettings(Overrides):
    """Settings of a run, and a sweep over others."""

    label: Label | None = None
    """Name in the report; made from the settings if not set."""
    expect: Expect | None = None
    """Expected outcome, which the report prints beside the one found."""
    sweep: dict[
        str, Annotated[list[Any], BeforeValidator(sweep_values, json_schema_input_type=list[Any] | dict[str, Any])]
    ] = Field(default_factory=dict, json_schema_extra={"propertyNames": {"enum": list(Overrides.model_fields)}})
    """A run for each value of a setting; several settings multiply. Runs are named by their values: `max_lr=0.003`."""

    @model_validator(mode="after")
    def check_sweep(self) -> "RunSettings":
        """Require that each key of a sweep is a setting, has valid values, and is not set as well."""
        for key, values in self.sweep.items():
            try:
                for value in values:
                    Overrides.model_validate({key: value})
            except ValidationError as error:
                raise first_violation(error, {key: value}).below("sweep") from None
            if getattr(self, key) is not None:
                raise InvalidValueError("is both set and swept", "keep one of them", key=key)
        return self

    def overrides(self) -> dict[str, Any]:
        """Return the settings that are set here, by key."""
        return {key: getattr(self, key) for key in Overrides.model_fields if getattr(self, key) is not None}

    @property
    def num_grid_points(self) -> int:
        """Number of combinations of the sweep's values."""
        return math.prod(map(len, self.sweep.values()))

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the sweep's values; one empty combination without a sweep."""
        columns = []
        for key, values in self.sweep.items():
            columns.append([(key, getattr(Overrides.model_validate({key: value}), key)) for value in values])
        return [dict(combination) for combination in itertools.product(*columns)]


@dataclass(frozen=True)
class Variant:
    """One run of an experiment, for all seeds: its name, the named run that it belongs to, its point of the grid."""

    name: str
    run: str
    settings: RunSettings
    point: dict[str, Any]


def validate_experiment_name(name: str) -> str:
    """Return a name whose section of the report belongs to the experiment."""
    if name in RESERVED_SECTIONS:
        raise InvalidValueError("is the name of a section of the report without an experiment", "use another name")
    return name


ExperimentName = Annotated[Name, AfterValidator(validate_experiment_name)]


class ExperimentSettings(RunSettings):
    """An experiment: settings that all of its runs share, and the runs."""

    seeds: Seeds | None = None
    """Seeds of this experiment; the study's if not set."""
    target_loss: PositiveFloat | None = None
    """Validation loss (nats per token) that the best run should reach; no run depends on it."""
    runs: dict[Name, RunSettings] | None = None
    """Named runs, each with the settings that it changes, and optionally a sweep."""

    @model_validator(mode="after")
    def check_runs(self) -> "ExperimentSettings":
        """Refuse what would be ignored: a key that an experiment sweeps in a run, an expectation of the baseline."""
        runs = self.runs or {}
        if "baseline" in runs and runs["baseline"].expect and not runs["baseline"].sweep | self.sweep:
            problem = "is about the run that the others are compared with"
            raise InvalidValueError(problem, "state it for another run", key="runs.baseline.expect")
        for name, run in runs.items():
            for key in self.sweep:
                if getattr(run, key) is not None:
                    raise InvalidValueError(
                        "is set, but the experiment sweeps it", "keep one of them", key=f"runs.{name}.{key}"
                    )
        return self

    def variants(self) -> Iterator[Variant]:
        """Yield the runs: each named one, times the points of the grid."""
        for run_name, run in (self.runs or {"": RunSettings()}).items():
            for point in (outer | inner for outer in self.grid() for inner in run.grid()):
                name = "_".join([*filter(None, [run_name]), *override_names(point)]) or "baseline"
                yield Variant(name, run_name, run, point)

    @cached_property
    def variants_by_name(self) -> dict[str, Variant]:
        """The runs by name."""
        return {variant.name: variant for variant in self.variants()}

    @property
    def runs_for_each_seed(self) -> int:
        """Number of runs for each seed."""
        named = self.runs.values() if self.runs else [RunSettings()]
        return self.num_grid_points * sum(run.num_grid_points for run in named)


def override_names(point: dict[str, Any]) -> list[str]:
    """Return the parts of a run's name that give its point of the grid.

    >>> override_names({"batch_size": 4, "max_lr": 0.003})
    ['batch_size=4', 'max_lr=0.003']
    """
    names = []
    for key, value in point.items():
        if isinstance(value, BestOf):
            text = value.name
        elif isinstance(value, tuple):
            text = "-".join(repr(item) for item in value)
        else:
            text = value if isinstance(value, str) else repr(value)
        names.append(f"{key}={text}")
    return names


# --- the runs of an experiment ----------------------------------------------------------------------------------------


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
