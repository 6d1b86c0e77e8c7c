"""Validation errors as sentences of this project: the path of a key, the problem, and the remedy.

pydantic finds the errors; none of its wording reaches a user.
"""

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from os import PathLike
from reprlib import Repr
from typing import Any

from pydantic import ValidationError

from lmpipe.errors import InputError

MAX_KEY_CHARACTERS = 100
CORRECT = "correct the value"

# What a value has to be, by pydantic's name of the error; {} is the bound.
BLOCK, LIST, INTEGER = "a block of `key: value` lines", "a list, such as [1, 2]", "a whole number"
EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), INTEGER),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), LIST),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), BLOCK),
    "finite_number": "a finite number",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "bytes_type": "bytes",
    "none_required": "null",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
}


class InvalidValueError(ValueError):
    """Something wrong in a validated block: `problem` continues the sentence that the path of the value begins.

    `key` is the dotted path of the wrong key inside the block, empty for the whole block; `expected` is a noun phrase
    for valid values.

    >>> str(InvalidValueError("is 7, which does not divide d_model = 64", "use 1, 2, 4 or 8", key="num_heads"))
    'num_heads is 7, which does not divide d_model = 64; use 1, 2, 4 or 8'
    """

    def __init__(self, problem: str, remedy: str, key: str = "", expected: str = ""):
        super().__init__(f"{key} {problem}; {remedy}".lstrip())
        self.problem, self.remedy, self.key, self.expected = problem, remedy, key, expected

    def below(self, parent: str) -> "InvalidValueError":
        """Return the same for the block that has the validated value at the key `parent`."""
        return InvalidValueError(self.problem, self.remedy, join_path(parent, self.key), self.expected)

    def at(self, where: str | PathLike[str]) -> InputError:
        """Return the same as an error for the user; `where` names the file or option."""
        return InputError(where, f"{self.key} {self.problem}".lstrip(), self.remedy)

    def damage(self, where: str | PathLike[str], remedy: str) -> InputError:
        """Return the same as an error of a file that no user writes."""
        problem = f"{self.key} {self.problem}".lstrip()
        return InputError(where, f"{problem}, not {self.expected}" if self.expected else problem, remedy)


class ShortRepr(Repr):
    """Representation of any value in a few printable characters."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxother, self.maxstring = 3, 80, 80

    def repr_date(self, day: datetime.date, level: int) -> str:
        """Return a date as YAML writes it, which reads one from 2024-01-01 without quotes."""
        return day.isoformat()

    def repr_int(self, number: int, level: int) -> str:
        """Return a number; Python itself writes none of more than 4,300 digits."""
        return repr(number) if abs(number) < 10**40 else "a number of more than 40 digits"

    def repr_instance(self, value: Any, level: int) -> str:
        """Return any other value, such as an array, in one line."""
        return " ".join(super().repr_instance(value, level).split())


short_repr = ShortRepr().repr


def first_violation(error: ValidationError, value: Any) -> InvalidValueError:
    """Return the first error of a validation of `value`, and how many more there are."""
    errors = error.errors(include_url=False)
    paths = [key_path(item["loc"], value, missing=item["type"] == "missing") for item in errors]
    # A union reports each of its members; together they list the allowed values.
    members = [item for item, path in zip(errors, paths, strict=True) if path == paths[0]]
    violation = explain(members).below(paths[0])
    if more := len(errors) - len(members):
        violation.remedy += f" (and {more} more)"
    return violation


def explain(errors: Sequence[dict[str, Any]]) -> InvalidValueError:
    """Return the fault of a value; `errors` has one for each member of a union."""
    first = errors[0]
    value, kind, key = first["input"], first["type"], ""
    if kind == "missing":
        return InvalidValueError("is missing", "add it")
    if kind == "extra_forbidden":
        return InvalidValueError("is not a known key", "remove it")
    if kind == "value_error":
        error = first["ctx"]["error"]
        return error if isinstance(error, InvalidValueError) else InvalidValueError(f"is {show(value)}", CORRECT)
    if kind in ("too_short", "too_long"):
        limit = first["ctx"].get("min_length", first["ctx"].get("max_length"))
        problem = f"has {count_values(len(value))}" if value else "is empty"
        return InvalidValueError(problem, f"use at {'least' if kind == 'too_short' else 'most'} {count_values(limit)}")
    if kind == "json_invalid":
        position = re.search(r"line \d+ column \d+", str(first["ctx"]["error"]))
        return InvalidValueError(f"is not valid JSON{f' ({position[0]})' if position else ''}", CORRECT)
    if kind.startswith("union_tag"):
        key = first["ctx"]["discriminator"].strip("'")
        if kind == "union_tag_not_found":
            return InvalidValueError("is missing", "add it", key)
        value = first["ctx"]["tag"]
    words = re.findall(r"'([^']*)'", first.get("ctx", {}).get("expected", ""))
    near = closest_match(value, words) if isinstance(value, str) else None
    expected = " or ".join(dict.fromkeys(map(expectation, errors)))
    remedy = f"did you mean {near}?" if near else f"use {expected}" if expected else CORRECT
    return InvalidValueError(f"is {show(value)}", remedy, key, expected)


def require_type(where: str, value: Any, types: type | tuple[type, ...], expected: str) -> None:
    """Raise InputError unless a value from Python code has one of the types; `expected` is a noun phrase for them."""
    if not isinstance(value, types):
        raise InputError(where, f"is {short_repr(value)}", f"pass {expected}")


def count_values(count: int) -> str:
    """Return `1 value`, `2 values` and so on."""
    return f"{count} value{'' if count == 1 else 's'}"


def expectation(error: dict[str, Any]) -> str:
    """Return the valid values, as a noun phrase, by an error of pydantic."""
    context = {key: bound(value) for key, value in error.get("ctx", {}).items()}
    return EXPECTED.get(error["type"], "").format(**context)


def bound(value: Any) -> str:
    """Return a bound or the words of a Literal as a sentence shows them."""
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    words = re.findall(r"'([^']*)'", str(value))
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else str(value).replace("'", "")


def show(value: Any) -> str:
    """Return a value as a study file writes it, shortened.

    >>> show(None), show(True), show("a")
    ('empty', 'true', "'a'")
    """
    if value is None:
        return "empty"
    return json.dumps(value) if isinstance(value, bool) else short_repr(value)


def key_path(location: tuple[str | int, ...], config: Any, missing: bool) -> str:
    """Return the dotted path of a key; the names that pydantic adds for the members of a union are left out.

    That of a corpus is its source, which may also be a key of it.

    >>> config = {"corpora": {"mine": {"source": "files", "files": ["x"]}}}
    >>> key_path(("corpora", "mine", "files", "files", 0), config, missing=False)
    'corpora.mine.files.0'
    """
    path, block, source = "", config, None
    for index, key in enumerate(location):
        if source is not None and key == source:
            source = None
            continue
        if (isinstance(block, dict) and key in block) or (
            isinstance(block, list | tuple) and isinstance(key, int) and key < len(block)
        ):
            block = block[key]
            source = block.get("source") if isinstance(block, dict) else None
            path = join_path(path, format_key(key))
        elif missing and index == len(location) - 1:
            path = join_path(path, format_key(key))
    return path


def join_path(parent: str, key: str) -> str:
    """Return the dotted path of a key below another; either may be empty."""
    return ".".join(filter(None, (parent, key)))


def format_key(key: str | int) -> str:
    """Return a key as it is in the file, or its short representation if it is long or not printable."""
    text = str(key)
    return text if text.isprintable() and len(text) <= MAX_KEY_CHARACTERS else short_repr(text)


def closest_match(word: str, names: Iterable[str]) -> str | None:
    """Return the name that a misspelt word most likely means, by the whole name or its beginning; None if none is near.

    >>> closest_match("warmpu", ["total_tokens", "warmup_fraction"])
    'warmup_fraction'
    """
    beginnings = {name[: len(word)]: name for name in names} | {name: name for name in names}
    matches = get_close_matches(word, beginnings, n=1, cutoff=0.6)
    return beginnings[matches[0]] if matches else None
