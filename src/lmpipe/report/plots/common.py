"""Plots as SVG: the general line and bar plots, and what all plots of lmpipe share.

Text stays text, so that it can be searched and follows the page's font. The same input gives the same bytes. Beside
NAME.svg lies NAME.csv, the numbers that it shows.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter

from lmpipe.analysis.finding import BarPlot, Findings, LinePlot
from lmpipe.analysis.results import is_number
from lmpipe.io.files import atomic_write
from lmpipe.io.formatting import format_number
from lmpipe.report.plots.palette import GRID, INK, PAPER, palette

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lmpipe",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
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
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P")
# So narrow that the letters can still be read where a phone's screen shrinks the plot.
WIDTH_INCHES = 4.2
# Letters that fit into one of two columns of a legend, into one of its rows, and into a line of a note.
SHORT_LABEL, LONG_LABEL, NOTE_LINE = 21, 47, 56
Rows = Sequence[Sequence[Any]]


def draw_plots(findings: Findings, folder: Path) -> None:
    """Draw the plots whose data the findings of a study hold, as SVG files below its folder."""
    for finding in findings.problems.values():
        for plot in finding.plots:
            match plot.data:
                case LinePlot() as data:
                    draw_lines(folder / plot.path, data)
                case BarPlot() as data:
                    draw_bar_groups(folder / plot.path, data)
                case None:  # another stage draws it
                    pass


def draw_lines(path: Path, data: LinePlot) -> None:
    """Draw a line plot of a finding."""
    series = {one.label: (one.x, one.y) for one in data.series}
    options = {"log_x": data.log_x, "log_y": data.log_y, "markers": data.markers}
    line_plot(path, series, data.xlabel, data.ylabel, title=data.title, **options)


def draw_bar_groups(path: Path, data: BarPlot) -> None:
    """Draw a bar plot of a finding."""
    options = {"stacked": data.stacked, "horizontal": data.horizontal}
    bar_plot(path, data.labels, data.groups, data.ylabel, title=data.title, **options)


def line_plot(
    path: str | Path,
    series: Mapping[str, tuple[Sequence[float | None], Sequence[float | None]]],
    xlabel: str,
    ylabel: str,
    *,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = False,
    hlines: Mapping[str, float] | None = None,
    note: str = "",
) -> None:
    """Draw lines over common axes; points that are None, not finite, or not positive on a log axis leave a gap.

    `hlines` are labelled horizontal marks; `note` stands under the x label.
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = new_figure(legend_rows(list(series)))
        colours = palette(len(series))
        for index, (label, (xs, ys)) in enumerate(series.items()):
            ax.plot(
                [drawable(x, log_x) for x in xs],
                [drawable(y, log_y) for y in ys],
                color=colours[index % len(colours)],
                linestyle=DASHES[index // len(colours) % len(DASHES)],
                marker=MARKERS[index % len(MARKERS)] if markers else None,
                markersize=4,
                label=label,
            )
        for label, y in (hlines or {}).items():
            mark_level(ax, y, label)
        scale_axis(ax, "x", log_x)
        scale_axis(ax, "y", log_y)
        name_axes(ax, xlabel, ylabel, title, note)
        if len(series) > 1:
            legend_below(figure, ax)
        rows = [(label, x, y) for label, (xs, ys) in series.items() for x, y in zip(xs, ys, strict=True)]
        save(figure, path, ("series", xlabel, ylabel), rows)


def bar_plot(
    path: str | Path,
    labels: Sequence[str],
    groups: Mapping[str, Sequence[float | None]],
    ylabel: str,
    *,
    title: str = "",
    horizontal: bool = False,
    log: bool = False,
    stacked: bool = False,
) -> None:
    """Draw one bar for each label and group; a missing value is written as "none" where its bar would stand."""
    with matplotlib.rc_context(STYLE):
        height = 1.0 + 0.26 * len(labels) * (1 if stacked else max(1, 0.6 * len(groups))) if horizontal else 3.3
        figure, ax = new_figure(legend_rows(list(groups)), height)
        colours = palette(len(groups))
        thickness = 0.75 if stacked else 0.8 / len(groups)
        floor = [0.0] * len(labels)
        for index, (group, values) in enumerate(groups.items()):
            shift = 0.0 if stacked else (index - (len(groups) - 1) / 2) * thickness
            places = [place + shift for place in range(len(labels))]
            colour = colours[index % len(colours)]
            draw_bars(ax, places, values, floor, thickness, colour, group, horizontal)
            if stacked:
                floor = [below + (value or 0.0) for below, value in zip(floor, values, strict=True)]
            else:
                mark_missing(ax, places, values, horizontal)
        (ax.set_yticks if horizontal else ax.set_xticks)(range(len(labels)), labels)
        scale_axis(ax, "x" if horizontal else "y", log)
        ax.grid(visible=False, axis="y" if horizontal else "x")
        if horizontal:
            ax.invert_yaxis()
        name_axes(ax, ylabel if horizontal else "", "" if horizontal else ylabel, title)
        if len(groups) > 1:
            legend_below(figure, ax)
        rows = [(label, group, values[row]) for row, label in enumerate(labels) for group, values in groups.items()]
        save(figure, path, ("bar", "series", ylabel), rows)


def draw_bars(
    ax: Axes,
    places: Sequence[float],
    values: Sequence[float | None],
    floor: Sequence[float],
    thickness: float,
    colour: str,
    label: str,
    horizontal: bool,
) -> None:
    """Draw one group's bars; a value that is missing has none."""
    known = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    if horizontal:
        ax.barh(places, known, thickness, left=floor, color=colour, label=label)
    else:
        ax.bar(places, known, thickness, bottom=floor, color=colour, label=label)


def mark_missing(ax: Axes, places: Sequence[float], values: Sequence[float | None], horizontal: bool) -> None:
    """Write "none" where a bar has no value."""
    for place, value in zip(places, values, strict=True):
        if value is not None and math.isfinite(value):
            continue
        if horizontal:
            ax.annotate(" none", (0, place), xycoords=("axes fraction", "data"), va="center")
        else:
            ax.annotate("none", (place, 0), xycoords=("data", "axes fraction"), ha="center", va="bottom")


def new_figure(rows_of_legend: int, height: float = 3.1) -> tuple[Figure, Axes]:
    """An empty plot whose height leaves room for its legend."""
    figure = Figure(figsize=(WIDTH_INCHES, height + 0.17 * rows_of_legend), layout="constrained")
    return figure, figure.add_subplot()


def legend_columns(labels: Sequence[str]) -> int:
    """Two columns where the labels are short enough for both to fit."""
    return 2 if max(map(len, labels)) <= SHORT_LABEL else 1


def legend_rows(labels: Sequence[str]) -> int:
    """Rows of the legend of these labels; a single series needs none."""
    return math.ceil(len(labels) / legend_columns(labels)) if len(labels) > 1 else 0


def legend_below(figure: Figure, ax: Axes) -> None:
    """Put the legend under the axes, where it hides nothing."""
    handles, labels = ax.get_legend_handles_labels()
    columns = legend_columns(labels)
    shown = [label if len(label) <= LONG_LABEL else f"{label[: LONG_LABEL - 1]}…" for label in labels]
    figure.legend(handles, shown, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.5)


def name_axes(ax: Axes, xlabel: str, ylabel: str, title: str = "", note: str = "") -> None:
    """Name the axes; the y label stands level over its axis, where it can be read without turning the head."""
    notes = textwrap.wrap(note, NOTE_LINE)
    ax.set_xlabel("\n".join([xlabel, *notes] if xlabel else notes))
    ax.set_title("\n".join(text for text in (title, ylabel) if text), pad=8)


def mark_level(ax: Axes, y: float, label: str) -> None:
    """A labelled horizontal mark."""
    ax.axhline(y, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    ax.annotate(label, (1, y), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right")


def scale_axis(ax: Axes, which: str, log: bool) -> None:
    """Set one axis linear or logarithmic, with plain numbers at its ticks."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log" if log else "linear")
    axis.set_major_locator(log_locator(axis.get_view_interval()) if log else AutoLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number_text(float(value))))
    axis.set_minor_formatter(NullFormatter())


def log_locator(view: Iterable[float]) -> LogLocator:
    """Ticks at 1, 2, 5 of each decade where few decades are shown, otherwise at powers of ten."""
    low, high = sorted(view)
    return LogLocator(subs=(1.0, 2.0, 5.0) if low > 0 and high < 100 * low else (1.0,), numticks=9)


def number_text(value: Any) -> str:
    """A tick or a setting in short; texts stay as they are.

    >>> number_text(0.003), number_text(20000), number_text(1e-23), number_text("rope")
    ('0.003', '20,000', '10⁻²³', 'rope')
    """
    return format_number(value, 4).removeprefix("1 × ") if is_number(value) else str(value)


def drawable(value: float | None, log: bool) -> float:
    """A number that can be drawn, or NaN for a gap."""
    return value if value is not None and math.isfinite(value) and (value > 0 or not log) else math.nan


def save(figure: Figure, path: str | Path, columns: Sequence[str], rows: Rows) -> None:
    """Write a figure as SVG without dates, names of programs, or digits that nobody can see, and its numbers as CSV."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    with atomic_write(path) as file:
        file.write(re.sub(r' d="[^"]*"', lambda found: shorten(found.group()), drawn.getvalue()))
    write_csv(Path(path).with_suffix(".csv"), columns, rows)


def write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """Write a table; a cell without a finite value is empty, and digits beyond the sixth are left out."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *([csv_cell(value) for value in row] for row in rows)])


def csv_cell(value: Any) -> Any:
    """A value as a cell.

    >>> csv_cell(2.3456789), csv_cell(1000.0), csv_cell(float("nan")), csv_cell("rope"), csv_cell(1e-23)
    ('2.34568', '1000', '', 'rope', '1e-23')
    """
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""


def shorten(outline: str) -> str:
    """A path's coordinates with two decimals (a hundredth of a point).

    >>> shorten(' d="M 1.234567 20.5"')
    ' d="M 1.23 20.5"'
    """
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}", outline)
