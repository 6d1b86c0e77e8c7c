"""What is wrong with a study or a file, in one line: the place, what was expected, what was found, what to do."""

from reprlib import Repr
from typing import Any

from pydantic import ValidationError

MAX_KEY_CHARACTERS = 100


class ShortRepr(Repr):
    """How a message shows what was found: in a few words, however much it is, and in characters that can be seen."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxother, self.maxstring = 3, 80, 80

    def repr_int(self, number: int, level: int) -> str:
        """A number; Python itself writes none of more than 4,300 digits."""
        return repr(number) if abs(number) < 10**40 else "a number of more than 40 digits"


short_repr = ShortRepr().repr


def format_validation_error(error: ValidationError, config: Any) -> str:
    """The first error of a validation in one line, with its key path, and how many more there are."""
    errors = error.errors(include_url=False)
    first = errors[0]
    place = key_path(first["loc"], config, missing=first["type"] == "missing")
    message = format_error(first)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(f"{place + ': ' if place else ''}{message}{more}".split())


def key_path(location: tuple[str | int, ...], config: Any, missing: bool) -> str:
    """The path of keys in the file; names that pydantic adds for the member of a union are left out.

    >>> key_path(("corpora", "mine", "url", "files", 0), {"corpora": {"mine": {"files": ["x"]}}}, missing=False)
    'corpora.mine.files.0'
    """
    path, here = [], config
    for position, part in enumerate(location):
        inside = isinstance(here, dict) and part in here
        if inside or (isinstance(here, list) and isinstance(part, int) and part < len(here)):
            here = here[part]
            path.append(format_key(part))
        elif missing and position == len(location) - 1:
            path.append(format_key(part))
    return ".".join(path)


def format_key(key: str | int) -> str:
    """A key as a path shows it: as it stands in the file, where that can be shown."""
    text = str(key)
    return text if text.isprintable() and len(text) <= MAX_KEY_CHARACTERS else short_repr(text)


def format_error(error: dict[str, Any]) -> str:
    """One error in our words: what was expected, what was found, what to do."""
    kind, found = error["type"], error["input"]
    if kind == "missing":
        return "missing; add it (config/README.md shows a complete study)"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "too_short":
        return f"expected at least {error['ctx']['min_length']}, found {len(found)}; add what is missing"
    if kind.startswith("union_tag"):
        source = found.get("source") if isinstance(found, dict) else found
        return f"expected source: stories, docstrings or url, found {short_repr(source)}; set source"
    expected = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"expected {expected}, found {short_repr(found)}; correct the value"
