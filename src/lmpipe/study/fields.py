"""Types of the values in a study file, and the base class of its blocks."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lmpipe.io.validation import InvalidValueError, closest_match, format_key, short_repr, show

MIN_VOCAB_SIZE = 257  # bytes and <|endoftext|>
MAX_NAME_CHARACTERS = 100
MAX_SEED = 2**32
# A dot is allowed before a digit only, as in gpt2_1.5b, so that no name looks like a file's: results contain x.json.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[0-9][A-Za-z0-9_-]*)*")
# The workflow takes a path that ends in 20 repetitions of anything for an endless loop of rules.
REPEATED_PATTERN = re.compile(r"(.+?)\1{19}")


def parse_number(value: Any) -> Any:
    """Accept number texts such as `1e-3`, which YAML reads as strings; refuse booleans, which Python counts as numbers.

    >>> parse_number("1e-3"), parse_number("4.096e5"), parse_number(7)
    (0.001, 409600.0, 7)
    """
    if isinstance(value, bool):
        raise InvalidValueError(f"is {show(value)}", "use a number")
    if isinstance(value, str):
        try:
            return int(value, 10) if value.strip().lstrip("+-").isdigit() else float(value)
        except ValueError:
            raise InvalidValueError(f"is {short_repr(value)}", "use a number") from None
    return value


def validate_name(value: Any) -> str:
    """Return a name; names become folders, parts of paths and labels of plots, so they are plain words.

    >>> validate_name("no_norm")
    'no_norm'
    """
    if not isinstance(value, str):
        if isinstance(value, list | dict) or value is None:
            raise InvalidValueError(f"is {show(value)}", "use a name")
        raise InvalidValueError(f"is {show(value)}, which is not text", "put it in quotes")
    if not NAME.fullmatch(value):
        raise InvalidValueError(
            f"is {short_repr(value)}, which is not a plain name",
            "use letters, digits, '_', '-' and, before a digit, '.'; the first is a letter or digit",
        )
    if len(value) > MAX_NAME_CHARACTERS:
        raise InvalidValueError(f"has {len(value)} characters", f"use at most {MAX_NAME_CHARACTERS}")
    if REPEATED_PATTERN.search(value):
        raise InvalidValueError(f"is {short_repr(value)}, which repeats a part 20 times", "use another name")
    return value


def validate_line(text: str) -> str:
    """Return a text of one printable line that is not blank."""
    if not text.strip():
        raise InvalidValueError("is blank", "write a few words")
    if not text.isprintable():
        raise InvalidValueError(f"is {short_repr(text)}, which is not one printable line", "write it in one line")
    return text


def to_list(value: Any) -> Any:
    """Return a single value as a list of one."""
    return value if isinstance(value, list) else [value]


def validate_unique(values: list) -> list:
    """Return a list whose members all differ."""
    if len({json.dumps(value, default=str) for value in values}) != len(values):
        raise InvalidValueError(f"is {short_repr(values)}, which repeats a value", "remove the repetition")
    return values


Integer = Annotated[int, BeforeValidator(parse_number), Field(le=2**53)]
NonNegativeInt = Annotated[Integer, Field(ge=0)]
FiniteFloat = Annotated[float, BeforeValidator(parse_number), Field(allow_inf_nan=False)]
PositiveInt = Annotated[Integer, Field(ge=1)]
# Above every published model, and low enough that the product of a few sizes is still a number of bytes.
Size = Annotated[PositiveInt, Field(le=2**24)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]
NonNegativeFloat = Annotated[FiniteFloat, Field(ge=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Name = Annotated[str, BeforeValidator(validate_name)]
Label = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(validate_line)]
Sentence = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(validate_line)]
Seed = Annotated[Integer, Field(ge=0, lt=MAX_SEED)]
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(validate_unique)]
VocabSize = Annotated[Integer, Field(ge=MIN_VOCAB_SIZE, le=2**31)]


class Settings(BaseModel):
    """A block of a study file: unknown keys are errors, and values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def check_keys(cls, value: Any) -> Any:
        """Refuse an unknown key, with the nearest known one as the remedy."""
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    near = closest_match(str(key), cls.model_fields)
                    remedy = f"did you mean {near}?" if near else f"the keys are {', '.join(cls.model_fields)}"
                    raise InvalidValueError("is not a known key", remedy, key=format_key(key))
        elif not isinstance(value, cls):
            raise InvalidValueError(f"is {show(value)}", "use a block of `key: value` lines")
        return value
