"""Findings of a study: metrics, tables, plots and texts of one problem."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One number (or short text) of a finding.

    `source` is the result file, below the study's folder, that it was read or computed from; `interval` a 95 %
    interval. None as value means undefined; then `reason` says why.
    """

    value: float | int | str | bool | None
    unit: str = ""
    source: str = ""
    interval: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Table:
    """A table of raw values; the report formats numbers, aligns and makes it sortable.

    None is shown as a dash, and `missing` says why there are some. `code` names the columns whose texts are code.
    """

    caption: str
    columns: list[str]
    rows: list[list[Any]]
    missing: str = ""
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """An SVG below the study's folder, with its caption and a text that stands in for it."""

    path: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Text:
    """A piece of text shown as it is: code with its output, a derivation, or a sample of prose."""

    caption: str
    text: str
    kind: Literal["code", "prose"] = "code"


@dataclass
class Finding:
    """What a study found for one problem. `sentences` answer the question; the first one is the short answer."""

    status: Literal["answered", "partial", "absent"]
    figures: dict[str, Figure] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def absent(reason: str) -> Finding:
    """The finding of a problem that this study has no results for, with the reason and remedy as its sentence."""
    return Finding("absent", sentences=[reason])
