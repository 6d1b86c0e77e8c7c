"""Findings: the metrics, tables, figures and texts of each problem, and the document `findings.json`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue
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


def optional_metric(
    value: Cell, unit: str, source: str, missing_reason: str, interval: tuple[float, float] | None = None
) -> Metric:
    """Return a metric whose `missing_reason` counts only if the value is None."""
    return Metric(value, unit, source, interval, missing_reason if value is None else "")


@element
class Table:
    """A table of raw values; the report formats the numbers."""

    caption: str
    """One sentence above the table."""
    columns: list[str]
    rows: list[list[Cell]]
    """Cells by row, one for each column; None is shown as a dash."""
    missing_reason: str = ""
    """Reason why some cells are None."""
    code_columns: list[str] = Field(default_factory=list)
    """Columns whose texts are code."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"has a row without {len(self.columns)} cells, one for each column")


Mark = Literal["", "unknown", "repeated", "cut"]


@element
class MarkedText:
    """A generated text whose unknown words, repeated phrases and context limits are marked."""

    caption: str
    spans: list[tuple[str, Mark]]
    """Pieces of the text in order, each with its mark."""
    kind: Literal["marked"] = "marked"


@element
class Text:
    """A text shown verbatim: code with its output, a derivation, or a sample of prose."""

    caption: str
    """One line above the text."""
    text: str
    kind: Literal["code", "prose"] = "code"


@element
class ReferenceRow:
    """A number of the write-up next to the same metric of this study."""

    label: str
    reference: Cell
    value: Cell
    """This study's value; None if it has none."""
    missing_reason: str
    """Reason why this study has no value."""
    unit: str
    setting: str
    """Setting of the write-up's number."""


@element
class Reference:
    """Comparison of a finding with the write-up."""

    rows: list[ReferenceRow] = Field(default_factory=list)


# --- figures ---------------------------------------------------------------------------------------------------------


@element
class Yardstick:
    """A horizontal reference line: a loss that something simple reaches, such as a bigram table."""

    label: str
    value: float


@element
class Line:
    """One line of a line figure."""

    label: str
    variant: str
    """Key of the colour, which a variant or corpus keeps on the whole page."""
    x: Coordinates
    y: Coordinates
    """As many values as `x`; None leaves a gap."""
    low: Coordinates = Field(default_factory=list)
    """Lower edge of a band, as many as `x`; empty without a band."""
    high: Coordinates = Field(default_factory=list)
    style: Literal["line", "faint", "points"] = "line"
    """Faint lines are single seeds behind their median."""


@element
class Lines:
    """Lines over common axes."""

    x_label: str
    y_label: str
    lines: list[Line]
    """The lines; those of one variant share a colour, and at most six have labels."""
    yardsticks: list[Yardstick] = Field(default_factory=list)
    marks: list[Yardstick] = Field(default_factory=list)
    """Vertical reference lines; `value` is a coordinate along the x axis."""
    log_x: bool = False
    log_y: bool = False
    kind: Literal["lines"] = "lines"


@element
class RatePoint:
    """Final losses at one peak learning rate."""

    max_lr: float
    losses: list[float]
    """Final loss of each seed that did not fail, in nats per token."""
    num_failed: int
    """Seeds that diverged or did not learn."""
    num_seeds: int
    is_short: bool = False
    """True for a shorter run that only looks for the edge of stability."""


@element
class RateCurve:
    """Final loss of one variant against the peak learning rate."""

    label: str
    variant: str
    points: list[RatePoint]
    optimum: float | None
    """Rate of the lowest loss, interpolated where the grid allows it."""
    stable_up_to: float | None
    """Largest rate at which no seed failed."""
    breaks_at: float | None
    """Smallest rate at which a seed failed; None if none did."""


@element
class RateCurves:
    """U-curves: final loss against peak learning rate, a curve for each variant."""

    y_label: str
    curves: list[RateCurve]
    yardsticks: list[Yardstick] = Field(default_factory=list)
    kind: Literal["rate_curves"] = "rate_curves"


@element
class Effect:
    """Difference in final loss between a variant and its baseline, each at its own best rate."""

    label: str
    variant: str
    difference: float | None
    """Mean of the differences, their median if seeds failed; None if all failed."""
    interval: tuple[float, float] | None
    """95 % interval; None if a seed failed or there is only one."""
    differences: list[float]
    """Differences of the seeds that did not fail."""
    num_failed: int
    num_seeds: int
    unit: str
    max_lr: float
    stable_up_to: float | None = None
    """Largest rate at which no seed failed."""
    breaks_at: float | None = None
    """Smallest rate at which a seed failed."""
    p_value: float | None = None
    """P-value of the t test behind the interval."""
    is_significant: bool | None = None
    """True if it is significant together with the study's other ablations (Holm); None if it is not one of them."""

    @property
    def differs(self) -> bool:
        """True if the difference is significant, after the correction if there is one."""
        if self.is_significant is not None:
            return self.is_significant
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@element
class Forest:
    """Effects side by side, with their intervals and seeds."""

    x_label: str
    rows: list[Effect]
    kind: Literal["forest"] = "forest"


@element
class Bars:
    """One bar for each label and group."""

    y_label: str
    labels: list[str]
    groups: dict[str, Coordinates]
    """Values by group, one for each label; None is a missing bar."""
    variants: list[str] = Field(default_factory=list)
    """Keys of the groups' colours; empty if these are their names."""
    stacked: bool = False
    """Bars of one label on top of each other instead of side by side."""
    horizontal: bool = False
    log: bool = False
    kind: Literal["bars"] = "bars"


@element
class Span:
    """Start and end of one job."""

    label: str
    group: str
    """Stage, which has a colour."""
    start: float
    """Seconds since the first job began, as for `end`."""
    end: float


@element
class Gantt:
    """Jobs over time, packed into as many rows as ran at once."""

    spans: list[Span]
    kind: Literal["gantt"] = "gantt"


FigureData = Annotated[Lines | RateCurves | Forest | Bars | Gantt, Field(discriminator="kind")]


@element
class Figure:
    """Data of one figure; its title, subtitle and alternative text are blocks of the problem's prose template."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name inside its problem."""
    data: FigureData


@element
class Expectation:
    """Expected outcome of a run or an experiment, and the outcome found."""

    label: str
    expected: Literal["higher", "lower", "same", "diverges"]
    outcome: Literal["higher", "lower", "same", "diverges", "not resolved"] | None
    """Outcome found; None if there is no result."""
    because: str
    source: str


@element
class Finding:
    """Result of a study for one problem."""

    status: Literal["answered", "partial", "missing"]
    """`missing` if the study has no results for the problem."""
    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Computed numbers by name."""
    tables: list[Table] = Field(default_factory=list)
    """Tables, in the order of the report."""
    texts: list[Annotated[Text | MarkedText, Field(discriminator="kind")]] = Field(default_factory=list)
    """Verbatim texts, in the order of the report."""
    reference: Reference = Field(default_factory=Reference)
    """The write-up's numbers for the same problem."""
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    """Names, counts and lists that the prose template reads or branches on."""
    figures: list[Figure] = Field(default_factory=list)
    """Figures, the first of which is the card's."""
    effects: list[Effect] = Field(default_factory=list)
    """Variants against their baseline."""
    expectations: list[Expectation] = Field(default_factory=list)
    """Expectations stated in the study, with their outcomes."""
    reason: str = ""
    """Reason why a finding is missing or partial, with the remedy."""


class Findings(Document):
    """findings.json: the findings of a study, by problem, in the order of the report."""

    study: str
    """Name of the study."""
    problems: dict[str, Finding]
    """Findings by id of the problem or name of the experiment."""


def missing(reason: str) -> Finding:
    """Return the finding of a problem without results in this study; `reason` includes the remedy."""
    return Finding("missing", reason=reason)
