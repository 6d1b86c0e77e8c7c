"""Editions of the CS336 handout: names of the problems, shapes to account for, and values to compare with.

They are data files, study/editions/NAME.yaml; `handout` of a study file names one of them, or none.
"""

from functools import cache
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, model_validator

from lmpipe.io.validation import InvalidValueError
from lmpipe.study.fields import Fraction, Label, Name, PositiveFloat, PositiveInt, Settings
from lmpipe.study.problems import PROBLEMS
from lmpipe.study.settings import ModelConfig

FOLDER = Path(__file__).parent / "editions"
EDITIONS = ("cs336-2026", "cs336-2025")


class AdamWQuestion(Settings):
    """Problem adamw_accounting: memory and time of training one of the edition's shapes on one device in float32.

    `device_memory_gb` is in GB (1e9 bytes), `utilization` the share of the peak rate that the training reaches (model
    FLOPs utilization), `unit` that of the answer.
    """

    model: Name
    feed_forward: Literal["swiglu", "silu"]
    device: Label
    flops_per_second: PositiveFloat
    device_memory_gb: PositiveFloat
    utilization: Fraction
    steps: PositiveInt
    batch_size: PositiveInt
    unit: Literal["days", "hours"]


class ReferenceValue(Settings):
    """Value that an edition states for a metric of a problem; a text may be the longest token."""

    problem: Name
    metric: Name
    label: Label
    value: int | float | str
    unit: str
    setting: str = ""


class OriginalText(Settings):
    """Training text of the write-up, which a corpus of the study may stand for, and the size of its tokenizer."""

    train_sha256: str
    train_bytes: PositiveInt
    unique_pretokens: PositiveInt
    vocab_size: PositiveInt


class Edition(Settings):
    """One edition of the handout, the values that it states, and those of its public write-up.

    `renamed` has the names of problems where they differ from lmpipe's, `models` the shapes of the accounting problems.
    """

    title: Label
    renamed: dict[Name, Name] = Field(default_factory=dict)
    models: dict[Name, ModelConfig]
    adamw: AdamWQuestion
    values: list[ReferenceValue]
    texts: dict[Name, OriginalText] = Field(default_factory=dict)
    write_up: list[ReferenceValue] = Field(default_factory=list)

    @model_validator(mode="after")
    def check_names(self) -> Self:
        """Require that values and names are of problems, and that the question's shape is one of the edition's."""
        unknown = {*self.renamed, *(value.problem for value in [*self.values, *self.write_up])} - PROBLEMS.keys()
        if unknown or self.adamw.model not in self.models:
            problem = f"names {', '.join(sorted(unknown) or [self.adamw.model])}, which it does not have"
            raise InvalidValueError(problem, "correct it")
        return self

    @property
    def problems(self) -> dict[str, str]:
        """Names of the problems in this edition by their id, in the order of the handout."""
        return {problem: self.renamed.get(problem, problem) for problem in PROBLEMS}


@cache
def read_edition(name: str) -> Edition:
    """Return an edition by its name in a study file."""
    return Edition.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def write_up() -> Edition:
    """Return the edition whose public write-up, a solution of the assignment, the findings are compared with."""
    return read_edition("cs336-2025")


def edition_of(handout: str) -> Edition | None:
    """Return the edition of a study's `handout`; None without one."""
    return None if handout == "none" else read_edition(handout)


def edition_models(handout: str) -> dict[str, ModelConfig]:
    """Return the shapes to account for, those of every edition, its own first; none without a handout."""
    names = sorted(EDITIONS, key=lambda name: name != handout) if handout != "none" else []
    return {name: model for edition in names for name, model in read_edition(edition).models.items()}


def adamw_question(handout: str, model: str) -> AdamWQuestion:
    """Return the question that a model's memory and time answer: its own edition's, or else the study's."""
    default = EDITIONS[0] if handout == "none" else handout
    return read_edition(next((name for name in EDITIONS if model in read_edition(name).models), default)).adamw
