"""Style of all plots: colours, axes, legends, and drawings as SVG with the numbers that they show as CSV.

Text stays text in the SVG, so that it can be searched and takes the font of the page. Equal input gives equal bytes.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter

from lmpipe.errors import REBUILD, InputError
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_number, is_number

# Palette for colour-blind readers (Okabe and Ito 2008), from cold to warm, so that an ordered sweep reads in order.
# Black and yellow are left out: one vanishes on dark pages, the other on light ones.
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7"
COLD_TO_WARM = (BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE)
# The most different colours for each number of series.
PALETTES = {
    1: (BLUE,),
    2: (BLUE, VERMILLION),
    3: (BLUE, GREEN, VERMILLION),
    4: (BLUE, SKY, ORANGE, VERMILLION),
    5: (BLUE, SKY, GREEN, ORANGE, VERMILLION),
}
# An SVG file is dark on white.
FOREGROUND, GRID, BACKGROUND = "#1b1f24", "#d8dce1", "#fffffe"
# Replacements in the report, whose style sheet defines them for light pages, dark pages and paper.
OLD_CSS_COLORS = {
    FOREGROUND: "currentColor",
    GRID: "var(--grid)",
    BACKGROUND: "none",
    BLUE: "var(--blue)",
    SKY: "var(--sky)",
    GREEN: "var(--green)",
    ORANGE: "var(--orange)",
    VERMILLION: "var(--vermillion)",
    PURPLE: "var(--purple)",
}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lmpipe",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.titlecolor": FOREGROUND,
    "axes.edgecolor": FOREGROUND,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "savefig.facecolor": BACKGROUND,
}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P")
# Narrow enough for letters to be readable if a phone's screen shrinks the plot.
WIDTH_INCHES = 4.2
# Maximum letters of a label in a legend of two columns, of a label in one column, and of a line of a note.
SHORT_LABEL, LONG_LABEL, NOTE_LINE = 21, 47, 56


def palette(num_series: int) -> tuple[str, ...]:
    """Return colours for a number of series; beyond six they repeat with other dashes."""
    return PALETTES.get(num_series, COLD_TO_WARM)


@dataclass(frozen=True)
class Drawing:
    """A plot as SVG, and the numbers that it shows as CSV."""

    svg: str
    csv: str

    @classmethod
    def of(cls, figure: Figure, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Drawing":
        """Render a figure without dates or program names, and a table with six significant digits."""
        svg, table = io.StringIO(), io.StringIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([columns, *([csv_cell(value) for value in row] for row in rows)])
        return cls(round_coordinates(svg.getvalue()), table.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Drawing":
        """Read an SVG file and the CSV file next to it; raise InputError if one is missing or damaged."""
        texts = []
        for file in (path, path.with_suffix(".csv")):
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise InputError(file, "no such file", "run snakemake to make it") from None
            except UnicodeDecodeError:
                raise InputError(file, "is not a text", REBUILD) from None
        drawing = cls(*texts)
        if "<svg" not in drawing.svg or "viewBox" not in drawing.svg or not drawing.svg.rstrip().endswith("</svg>"):
            raise InputError(path, "is not a whole SVG file", REBUILD)
        if not drawing.csv.endswith("\n") or len(set(map(len, drawing.table()))) != 1:
            raise InputError(path.with_suffix(".csv"), "is not a whole CSV file with a header", REBUILD)
        return drawing

    def table(self) -> list[list[str]]:
        """Return the header and the rows of the CSV text."""
        return list(csv.reader(io.StringIO(self.csv)))

    def save(self, path: str | Path) -> None:
        """Write the SVG file and the CSV file next to it, of the same name."""
        for target, text in ((Path(path), self.svg), (Path(path).with_suffix(".csv"), self.csv)):
            with atomic_write(target) as file:
                file.write(text)


def csv_cell(value: Any) -> Any:
    """Return a value as a cell: six significant digits, and nothing for NaN and infinity.

    >>> csv_cell(2.3456789), csv_cell(1000.0), csv_cell(float("nan")), csv_cell("rope"), csv_cell(1e-23)
    ('2.34568', '1000', '', 'rope', '1e-23')
    """
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


def round_coordinates(svg: str) -> str:
    """Round the coordinates of paths to a hundredth of a point, which shortens the plots of an experiment by 14 %.

    >>> round_coordinates('<path d="M 1.234567 20.5"/>')
    '<path d="M 1.23 20.5"/>'
    """
    return re.sub(
        r' d="[^"]*"', lambda path: re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", path[0]), svg
    )


def new_figure(num_legend_rows: int, height_inches: float = 3.1) -> tuple[Figure, Axes]:
    """Return an empty figure whose height includes its legend."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches + 0.17 * num_legend_rows), layout="constrained")
    return figure, figure.add_subplot()


def legend_columns(labels: Sequence[str]) -> int:
    """Return 2 if all labels are short, otherwise 1."""
    return 2 if max(map(len, labels)) <= SHORT_LABEL else 1


def legend_rows(labels: Sequence[str]) -> int:
    """Return the number of rows of a legend; a single series has none."""
    return math.ceil(len(labels) / legend_columns(labels)) if len(labels) > 1 else 0


def legend_below(figure: Figure, ax: Axes) -> None:
    """Put the legend below the axes, where it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    texts = [truncate(label, LONG_LABEL) for label in labels]
    columns = legend_columns(labels)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.5)


def truncate(label: str, max_length: int) -> str:
    """Return a label of at most `max_length` characters.

    >>> truncate("post_norm_tuned_max_lr=0.003", 16), truncate("silu", 16)
    ('post_norm_tuned…', 'silu')
    """
    return label if len(label) <= max_length else f"{label[: max(1, max_length - 1)]}…"


def label_axes(ax: Axes, xlabel: str, ylabel: str, title: str = "", note: str = "") -> None:
    """Label the axes; the y label is horizontal, above the axis, and the note below the x label."""
    notes = textwrap.wrap(note, NOTE_LINE)
    ax.set_xlabel("\n".join([xlabel, *notes] if xlabel else notes))
    ax.set_title("\n".join(text for text in (title, ylabel) if text), pad=8)


def scale_axis(ax: Axes, name: str, log: bool) -> None:
    """Make the `x` or `y` axis linear or logarithmic, with plain numbers at its ticks."""
    axis = ax.xaxis if name == "x" else ax.yaxis
    (ax.set_xscale if name == "x" else ax.set_yscale)("log" if log else "linear")
    axis.set_major_locator(log_locator(axis.get_view_interval()) if log else AutoLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value))))
    axis.set_minor_formatter(NullFormatter())


def log_locator(view: Iterable[float]) -> LogLocator:
    """Return ticks at 1, 2, 5 of each decade for less than two decades, otherwise at powers of ten."""
    low, high = sorted(view)
    return LogLocator(subs=(1.0, 2.0, 5.0) if low > 0 and high < 100 * low else (1.0,), numticks=9)


def number_text(value: Any) -> str:
    """Return a tick or a setting as a short text.

    >>> number_text(0.003), number_text(20000), number_text(1e-23), number_text("rope")
    ('0.003', '20,000', '10⁻²³', 'rope')
    """
    return format_number(value, 4).removeprefix("1 × ") if is_number(value) else str(value)


def finite_or_nan(value: float | None, log: bool = False) -> float:
    """Return a number that can be drawn, or NaN for a gap; a logarithmic axis takes only positive numbers."""
    return value if value is not None and math.isfinite(value) and (value > 0 or not log) else math.nan
