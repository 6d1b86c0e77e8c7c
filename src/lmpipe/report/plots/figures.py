"""Drawing of the figures of findings, each kind with one function; equal data give equal bytes."""

import math
from typing import Any, assert_never

import matplotlib
from matplotlib.axes import Axes

from lmpipe.analysis.finding import Bars, FigureData, Forest, Gantt, Line, Lines, RateCurves, Yardstick
from lmpipe.report.plots.bars import draw_bars, draw_gantt
from lmpipe.report.plots.canvas import WIDE, Canvas, Margins, Size, text_width, tick_text, tick_width
from lmpipe.report.plots.forest import draw_forest
from lmpipe.report.plots.palette import FOREGROUND, SOFT, Palette, variants
from lmpipe.report.plots.rate_curves import draw_rate_curves
from lmpipe.report.plots.style import STYLE, Drawing, finite_or_nan, label_on_hover

MAX_LABELS = 6
# Losses of the first part of a training, which would flatten the rest, may lie above the axes.
EARLY = 0.05
DASHED = (0, (4, 2))
LINE_STYLES: dict[str, dict[str, Any]] = {
    "line": {"linewidth": 1.8},
    "faint": {"linewidth": 0.8, "alpha": 0.4},
    "points": {"linestyle": "", "marker": "o", "markersize": 3.5},
}


def draw(data: FigureData, palette: Palette, size: Size = WIDE) -> Drawing:
    """Draw a figure at a size."""
    colors = palette.of(variants(data))
    with matplotlib.rc_context(STYLE):
        match data:
            case Lines():
                return draw_lines(data, colors, size)
            case RateCurves():
                return draw_rate_curves(data, colors, size)
            case Forest():
                return draw_forest(data, colors, size)
            case Bars():
                return draw_bars(data, colors, size)
            case Gantt():
                return draw_gantt(data, colors, size)
            case unknown:
                assert_never(unknown)


def draw_lines(data: Lines, colors: dict[str, str], size: Size) -> Drawing:
    """Draw lines with labels at their ends, yardsticks as dashed lines across and marks as lines upwards."""
    low, high = y_range(data)
    labelled = [line for line in data.lines if line.label and line.style != "faint"][:MAX_LABELS]
    right = text_width([line.label for line in labelled] + [yardstick.label for yardstick in data.yardsticks])
    margins = Margins(tick_width(low, high), 12 + right, 24, 36)
    canvas = Canvas.of(size, margins)
    ax = canvas.ax
    if data.log_x:
        ax.set_xscale("log")
    if data.log_y:
        ax.set_yscale("log")
    for line in data.lines:
        draw_line(ax, line, colors[line.variant], data)
    for yardstick in data.yardsticks:
        ax.axhline(yardstick.value, color=SOFT, linewidth=0.8, linestyle=DASHED, zorder=1)
    ax.set_ylim(low, high)
    ax.margins(x=0.02)
    if not data.log_x and min(coordinates(data, "x"), default=1) >= 0:
        ax.set_xlim(left=0)
    canvas.scale("x", data.log_x)
    canvas.scale("y", data.log_y)
    if data.log_x:
        canvas.tick_values(sorted({x for x in coordinates(data, "x") if x > 0}))
    for mark in data.marks:
        draw_mark(canvas, mark)
    labels = [(end[1], line.label, colors[line.variant]) for line in labelled if (end := last_point(line))]
    canvas.label_right([*labels, *((yardstick.value, yardstick.label, SOFT) for yardstick in data.yardsticks)])
    canvas.label_axes(data.x_label, data.y_label)
    columns = ("series", data.x_label, data.y_label)
    return Drawing.of(canvas.figure, columns, [(line.label, x, y) for line in data.lines for x, y in points(line)])


def draw_line(ax: Axes, line: Line, color: str, data: Lines) -> None:
    """Draw one line with its band, labelled with its end, or with each point of a line without strokes.

    Points that a logarithmic axis cannot show leave gaps.
    """
    x = [finite_or_nan(value, data.log_x) for value in line.x]
    y = [finite_or_nan(value, data.log_y) for value in line.y]
    pieces = [(x, y)] if line.style != "points" else zip(x, y, strict=True)
    ends = [last_point(line)] if line.style != "points" else points(line)
    for piece, end in zip(pieces, ends, strict=True):
        artists = ax.plot(*piece, color=color, **LINE_STYLES[line.style])
        if end:
            name = line.label or line.variant.replace("_", " ")
            label_on_hover(artists, f"{name}: {tick_text(end[1])} at {tick_text(end[0])}")
    if line.low:
        edges = [[finite_or_nan(value, data.log_y) for value in edge] for edge in (line.low, line.high)]
        ax.fill_between(x, *edges, color=color, alpha=0.15, linewidth=0)


def draw_mark(canvas: Canvas, mark: Yardstick) -> None:
    """Draw a vertical line with its label at the side that has more room, below a yardstick at the upper end."""
    ax = canvas.ax
    ax.axvline(mark.value, color=FOREGROUND, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    if canvas.size.has_text:
        x = (ax.transData + ax.transAxes.inverted()).transform((mark.value, 0.0))[0]
        align, offset = ("right", -4) if x > 0.5 else ("left", 4)
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        ax.annotate(mark.label, (mark.value, 1), (offset, -10), ha=align, va="top", **at)


def points(line: Line) -> list[tuple[float | None, float | None]]:
    """Return the coordinates of a line's points."""
    return list(zip(line.x, line.y, strict=True))


def last_point(line: Line) -> tuple[float, float] | None:
    """Return the last point of a line."""
    return next(((x, y) for x, y in reversed(points(line)) if x is not None and y is not None), None)


def coordinates(data: Lines, axis: str) -> list[float]:
    """Return all finite coordinates of the lines along one axis."""
    values = [
        value for line in data.lines for value in (*getattr(line, axis), *(line.low + line.high if axis == "y" else ()))
    ]
    return [value for value in values if value is not None and math.isfinite(value)]


def y_range(data: Lines) -> tuple[float, float]:
    """Return limits of the y axis: the first losses of a training do not stretch it, near yardsticks do."""
    values = coordinates(data, "y") or [0.0, 1.0]
    if data.log_y:
        positive = [value for value in values if value > 0] or [1.0]
        return min(positive) / 1.5, max(positive) * 1.5
    low, high = min(values), max(values)
    starts = [start for line in data.lines if (start := value_after(line, EARLY)) is not None]
    if not data.log_x and "loss" in data.y_label and len(starts) == len(data.lines) and starts:
        high = max(*starts, *[end[1] for line in data.lines if (end := last_point(line))])
    span = (high - low) or abs(high) or 1.0
    references = [yardstick.value for yardstick in data.yardsticks]
    near = [value for value in references if value == 0 or low - 0.6 * span <= value <= high + 0.6 * span]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.05 * ((high - low) or 1.0)
    is_share = low >= 0 and low < 3 * margin
    return (0.0 if is_share else low - margin), high + margin


def value_after(line: Line, share: float) -> float | None:
    """Return the first y coordinate after a share of the line's length."""
    pairs = [(x, y) for x, y in points(line) if x is not None and y is not None and math.isfinite(y)]
    return next((y for x, y in pairs if x >= share * pairs[-1][0]), None) if len(pairs) > 2 else None
