"""Grammar of the stories: a small template language, and the templates, lists and tables in story_text/*.yaml.

story_text/plots.yaml describes the language. `parse` compiles a template to a tuple of literal text, symbols (fields)
and lists of alternatives; everything that is read from the files is compiled once and cached.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TEXT_FOLDER = Path(__file__).parent / "story_text"
CONTINUATION = re.compile(r"\n +")
TOKEN = re.compile(r"\{([^{}]+)\}|([\[\]|])|([^\[\]{}|]+)")
LONE_I = re.compile(r"\bi\b")

Template = tuple  # of str (literal text), Symbol (a field) and list[Template] (alternatives)


class Symbol(NamedTuple):
    """A field of a template: the key it is bound to, the group it is drawn from, its tag, and its capitalization."""

    key: str
    group: str
    tag: str
    capital: bool


@dataclass(frozen=True)
class Group:
    """Entries that a field is drawn from: the rows of a table, or of a list (one column without a name)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Template | str, ...], ...]
    common_first: bool = True
    bound: bool = False


class Plot(NamedTuple):
    """A plot: the alternatives of each beat (None for a possible paragraph break), its morals, its need of a friend."""

    beats: tuple[tuple[Template, ...] | None, ...]
    morals: tuple[Template, ...]
    knows_friend: bool


class Subplot(NamedTuple):
    """A small second subject: the alternatives of its introduction, its middle and its end."""

    start: tuple[Template, ...]
    middle: tuple[Template, ...]
    end: tuple[Template, ...]


# --- the template language


@cache
def parse(template: str) -> Template:
    """Compile a template.

    >>> parse("a {color@kite} [kite|ball]")
    ('a ', Symbol(key='color@kite', group='color', tag='@kite', capital=False), ' ', [('kite',), ('ball',)])
    """
    stack: list[list[list]] = [[[]]]  # the open alternatives, innermost last; each a list of parts
    for match in TOKEN.finditer(LONE_I.sub("I", template)):
        name, mark, literal = match.groups()
        if name:
            stack[-1][-1].append(parse_symbol(name))
        elif mark == "[":
            stack.append([[]])
        elif mark == "|" and len(stack) > 1:
            stack[-1].append([])
        elif mark == "]" and len(stack) > 1:
            options = stack.pop()
            stack[-1][-1].append([tuple(pieces) for pieces in options])
        else:
            stack[-1][-1].append(literal or mark)
    return tuple(stack[0][0])


def parse_symbol(text: str) -> Symbol:
    """Return the field that is written between braces."""
    key = text[0].lower() + text[1:]
    name, at, tag = key.partition("@")
    return Symbol(key, name.partition(".")[0], at + tag, capital=text[0].isupper())


def parse_cell(text: str) -> Template | str:
    """Compile an entry of a list or table; an entry without fields stays a plain string."""
    pieces = parse(" ".join(text.split()))
    return pieces[0] if len(pieces) == 1 and type(pieces[0]) is str else pieces


def parse_options(lines: list[str]) -> tuple[Template, ...]:
    """Compile alternative templates; a dash is the empty one."""
    return tuple(parse(line.removeprefix("-")) for line in lines)


# --- the files


def read_text(name: str) -> dict[str, Any]:
    """Read one file of story_text/."""
    # libyaml reads all five files in 4 ms, PyYAML's own loader needs 20 times as long.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((TEXT_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), loader)


def split_lines(text: str) -> list[str]:
    """Split a text into lines; an indented line continues the line before it."""
    return CONTINUATION.sub(" ", text.strip("\n")).split("\n")


def word_list(text: str) -> Group:
    """Compile a list of entries with commas between them; the first ones are drawn most often."""
    return Group(("",), tuple((parse_cell(item),) for item in text.split(",")))


def table(text: str) -> Group:
    """Compile a table with semicolons between its columns; the column `name` is the entry itself."""
    header, *entries = split_lines(text)
    columns = tuple("" if name == "name" else f".{name}" for name in header.split("; "))
    rows = tuple(tuple(parse_cell(cell) for cell in entry.split("; ")) for entry in entries)
    return Group(columns, rows, common_first=False, bound=True)


@cache
def plots() -> dict[str, Plot]:
    """Return all plots by their names."""
    return {
        name: Plot(
            tuple(
                None if beat == "*" else parse_options(split_lines(beat))
                for beat in re.split(r"\n\n+", entry["beats"].strip("\n"))
            ),
            parse_options(split_lines(entry["morals"])),
            entry.get("knows_friend", False),
        )
        for name, entry in read_text("plots").items()
    }


@cache
def subplots(is_animal: bool) -> tuple[Subplot, ...]:
    """Return the subplots that a child, or a young animal, can have as a hero."""
    entries = read_text("subplots")
    entries = entries["any_hero"] if is_animal else entries["any_hero"] | entries["child_hero"]
    return tuple(
        Subplot(*(parse_options(split_lines(entry[name])) for name in Subplot._fields)) for entry in entries.values()
    )


@cache
def groups(is_animal: bool) -> dict[str, Group]:
    """Return everything that fields are drawn from, in the world of children or in that of animals."""
    tables = read_text("tables")
    tables = tables["child_hero"] | tables["animal_hero"] if is_animal else tables["child_hero"]
    lists = {name: word_list(text) for name, text in read_text("words").items()}
    phrases = {
        name: Group(("",), tuple((parse_cell(line),) for line in split_lines(text)), common_first=False)
        for name, text in read_text("phrases").items()
    }
    return lists | phrases | {name: table(text) for name, text in tables.items()}
