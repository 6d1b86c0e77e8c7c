"""Findings: the metrics, sentences, tables, plots and texts of each problem, and the document `findings.json`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from lmpipe.io.documents import Document

# Element of findings.json: as strict as a Document, but a dataclass, so that problems build it by position.
element = dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
Cell = float | int | str | bool | None
Coordinates = list[float | int | None]


@element
class Metric:
    """One computed number, or a short text such as the name of a run."""

    value: Cell
    """None if the metric is undefined; `missing_reason` has the reason."""
    unit: str = ""
    """Unit of the value, such as `nats per token`; empty for ratios and names."""
    source: str = ""
    """Result file, below the study's folder, that the value was read or computed from."""
    interval: tuple[float, float] | None = None
    """95 % interval of the value, if there are several seeds."""
    missing_reason: str = ""
    """Reason why there is no value."""


@element
class Table:
    """A table of raw values; the report formats the numbers."""

    caption: str
    """One sentence above the table."""
    columns: list[str]
    """Headings, one for each column."""
    rows: list[list[Cell]]
    """Cells by row, one for each column; None is shown as a dash."""
    missing_reason: str = ""
    """Reason why some cells are None."""
    code_columns: list[str] = Field(default_factory=list)
    """Columns whose texts are code."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"has a row without {len(self.columns)} cells, one for each column")


@element
class Series:
    """One line of a line plot."""

    label: str
    """Name in the legend."""
    x: Coordinates
    """Coordinates along the x axis."""
    y: Coordinates
    """As many values as `x`; None leaves a gap."""


@element
class LinePlot:
    """Data of a plot of lines over common axes."""

    title: str
    """Heading of the plot; may be empty."""
    xlabel: str
    """Quantity and unit of the x axis."""
    ylabel: str
    """Quantity and unit of the y axis."""
    series: list[Series]
    """The lines, in the order of the legend."""
    log_x: bool = False
    """Logarithmic x axis."""
    log_y: bool = False
    """Logarithmic y axis."""
    markers: bool = False
    """Marks at each point."""
    kind: Literal["line"] = "line"
    """Distinguishes line plots from bar plots."""


@element
class BarPlot:
    """Data of a plot with one bar for each label and group."""

    title: str
    """Heading of the plot; may be empty."""
    ylabel: str
    """Quantity and unit of the bars."""
    labels: list[str]
    """Names along the axis."""
    groups: dict[str, Coordinates]
    """Values by group, one for each label; None is a missing bar."""
    stacked: bool = False
    """Bars of one label on top of each other instead of side by side."""
    horizontal: bool = False
    """Horizontal bars."""
    kind: Literal["bar"] = "bar"
    """Distinguishes bar plots from line plots."""


PlotData = Annotated[LinePlot | BarPlot, Field(discriminator="kind")]


@element
class Plot:
    """A picture of a finding: an SVG file below the study's folder."""

    path: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    """The SVG file; the .csv file of the same name has its numbers."""
    caption: str
    """Sentences below the plot."""
    alt: str
    """Alternative text for screen readers."""
    data: PlotData | None = None
    """Data that the report draws; None if another stage (plot_experiment) draws the file."""


@element
class Text:
    """A text shown verbatim: code with its output, a derivation, or a sample of prose."""

    caption: str
    """One line above the text."""
    text: str
    """Content."""
    kind: Literal["code", "prose"] = "code"
    """Line breaks and spaces of code are preserved."""


@element
class ReferenceRow:
    """A number of the write-up next to the same metric of this study."""

    label: str
    """Name of the number."""
    reference: Cell
    """The write-up's value."""
    value: Cell
    """This study's value; None if it has none."""
    missing_reason: str
    """Reason why this study has no value."""
    unit: str
    """Unit of both values."""
    setting: str
    """Setting of the write-up's number."""
    caveat: str
    """Differences in setting that keep the values from being equal."""


@element
class Reference:
    """Comparison of a finding with the write-up."""

    rows: list[ReferenceRow] = Field(default_factory=list)
    """One row for each number of the write-up."""
    note: str = ""
    """Reason why there are no rows."""


@element
class Finding:
    """Result of a study for one problem."""

    status: Literal["answered", "partial", "missing"]
    """`missing` if the study has no results for the problem."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Computed numbers by name."""
    sentences: list[str] = Field(default_factory=list)
    """The answer; the first sentence is the short answer."""
    tables: list[Table] = Field(default_factory=list)
    """Tables, in the order of the report."""
    plots: list[Plot] = Field(default_factory=list)
    """Plots, in the order of the report."""
    texts: list[Text] = Field(default_factory=list)
    """Verbatim texts, in the order of the report."""
    title: str = ""
    """Heading of the problem's section."""
    question: str = ""
    """The question that the finding answers."""
    reference: Reference = Field(default_factory=Reference)
    """The write-up's numbers for the same problem."""


class Findings(Document):
    """findings.json: the findings of a study, by problem, in the order of the report."""

    study: str
    """Name of the study."""
    problems: dict[str, Finding]
    """Findings by id of the problem or name of the experiment."""


def missing(reason: str) -> Finding:
    """Return the finding of a problem without results in this study; `reason` includes the remedy."""
    return Finding("missing", sentences=[reason])
