"""Bar charts, and the Gantt chart of a study's jobs."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.patches import Patch

from lmpipe.analysis.finding import Bars, Gantt, Span
from lmpipe.io.formatting import format_number, format_seconds
from lmpipe.report.plots.canvas import LINE, Canvas, Margins, Size, hide_y_axis, text_width, tick_width
from lmpipe.report.plots.palette import BLUE, SOFT, variants
from lmpipe.report.plots.style import Drawing, finite_or_nan, label_on_hover

MAX_GANTT = 180
OTHER = "other jobs"


def draw_bars(data: Bars, colors: Mapping[str, str], size: Size) -> Drawing:
    """Draw one bar for each label and group; a missing value is marked as "none"."""
    groups = data.groups
    legend = legend_height(list(groups), size) if len(groups) > 1 else 0.0
    per_label = 1 if data.stacked else len(groups)
    largest = max((value for values in groups.values() for value in values if value is not None), default=1.0)
    if data.horizontal:
        left, bottom = text_width(data.labels) + 10, 36.0
        height = legend + 54 + len(data.labels) * max(20.0, 13.0 * per_label + 6)
    else:
        left, bottom, height = tick_width(0.0, largest), 36.0, size.height * 0.75
    right = 44.0 if data.horizontal else 8.0
    canvas = Canvas.of(size, Margins(left, right, legend + (8 if data.horizontal else 24), bottom), height)
    ax = canvas.ax
    value_axis = "x" if data.horizontal else "y"
    canvas.scale(value_axis, data.log)
    floor = [0.0] * len(data.labels)
    for index, group in enumerate(groups):
        color = colors[variants(data)[index]] if len(groups) > 1 else BLUE
        floor = draw_group(canvas, data, group, floor, (index, len(groups)), color)
    ticks = ax.set_yticks if data.horizontal else ax.set_xticks
    ticks(range(len(data.labels)), [label if size.has_text else "" for label in data.labels])
    ax.grid(visible=False, axis="y" if data.horizontal else "x")
    if data.horizontal:
        ax.invert_yaxis()
    canvas.scale(value_axis, data.log)
    canvas.label_axes(*((data.y_label, "") if data.horizontal else ("", data.y_label)))
    if legend and size.has_text:
        draw_legend(canvas, dict(zip(groups, map(colors.get, variants(data)), strict=True)))
    rows = [(label, group, values[row]) for row, label in enumerate(data.labels) for group, values in groups.items()]
    return Drawing.of(canvas.figure, ("bar", "series", data.y_label), rows)


def draw_group(
    canvas: Canvas, data: Bars, group: str, floor: list[float], position: tuple[int, int], color: str
) -> list[float]:
    """Draw the bars of one group and write their values; return the floor of the next group."""
    values, (index, count) = data.groups[group], position
    thickness = 0.72 if data.stacked else 0.8 / count
    shift = 0.0 if data.stacked else (index - (count - 1) / 2) * thickness
    lengths = [0.0 if math.isnan(finite_or_nan(value)) else value for value in values]
    centers = [row + shift for row in range(len(lengths))]
    draw = canvas.ax.barh if data.horizontal else canvas.ax.bar
    base = {"left": floor} if data.horizontal else {"bottom": floor}
    bars = draw(centers, lengths, thickness, color=color, **base)
    for bar, label, length in zip(bars, data.labels, lengths, strict=True):
        label_on_hover([bar], f"{label}, {group}: {format_number(length)}")
    if not data.stacked and canvas.size.has_text and (data.horizontal or len(values) * count <= 16):
        for center, value in zip(centers, values, strict=True):
            text = "none" if value is None else format_number(value)
            at, offset = ((value or 0.0, center), (4, 0)) if data.horizontal else ((center, value or 0.0), (0, 3))
            align = {"va": "center"} if data.horizontal else {"ha": "center"}
            canvas.ax.annotate(text, at, offset, textcoords="offset points", annotation_clip=False, **align)
    return [below + length for below, length in zip(floor, lengths, strict=True)] if data.stacked else floor


def legend_height(names: Sequence[str], size: Size) -> float:
    """Return the height in points of a legend above the axes."""
    return LINE * 1.3 * math.ceil(len(names) / legend_columns(names, size)) + 6


def legend_columns(names: Sequence[str], size: Size) -> int:
    """Return the number of columns of a legend."""
    return max(1, min(len(names), int(size.width * 0.75 / (text_width(names) + 40))))


def draw_legend(canvas: Canvas, colors: Mapping[str, str]) -> None:
    """Draw a legend of coloured boxes above the axes."""
    canvas.figure.legend(
        handles=[Patch(color=color, label=name) for name, color in colors.items()],
        loc="upper left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=legend_columns(list(colors), canvas.size),
        handlelength=1.0,
        handleheight=0.9,
        columnspacing=1.5,
    )


def draw_gantt(data: Gantt, colors: Mapping[str, str], size: Size) -> Drawing:
    """Draw jobs over time in as few rows as ran at once; stages that took the least share one colour."""
    legend_colors = dict(colors) | ({OTHER: SOFT} if {span.group for span in data.spans} - set(colors) else {})
    rows = pack(data.spans)
    legend = legend_height(list(legend_colors), size)
    canvas = Canvas.of(size, Margins(8, 12, legend + 8, 36), legend + 56 + min(18 * max(rows, default=0), MAX_GANTT))
    ax = canvas.ax
    last = max((span.end for span in data.spans), default=1.0)
    unit, seconds = ("minutes", 60.0) if last > 180 else ("seconds", 1.0)
    for span, row in zip(data.spans, rows, strict=True):
        color = legend_colors.get(span.group, SOFT)
        wall = span.end - span.start
        bar = ax.barh([row], [wall / seconds], 0.8, left=[span.start / seconds], color=color, linewidth=0)
        label_on_hover(bar, f"{span.label}: {format_seconds(wall)}")
    ax.set_xlim(0, last / seconds)
    canvas.scale("x", log=False)
    ax.invert_yaxis()
    hide_y_axis(ax)
    canvas.label_axes(unit, "")
    if size.has_text:
        draw_legend(canvas, legend_colors)
    table = [(span.label, span.group, span.start, span.end) for span in data.spans]
    return Drawing.of(canvas.figure, ("job", "stage", "start (s)", "end (s)"), table)


def pack(spans: Sequence[Span]) -> list[int]:
    """Return a row for each span, so that spans of one row do not overlap.

    >>> pack([Span("a", "g", 0, 2), Span("b", "g", 1, 3), Span("c", "g", 2, 4)])
    [0, 1, 0]
    """
    ends: list[float] = []
    rows = dict.fromkeys(range(len(spans)), 0)
    for index in sorted(rows, key=lambda index: spans[index].start):
        free = (row for row, end in enumerate(ends) if end <= spans[index].start + 0.01)
        row = next(free, len(ends))
        ends[row : row + 1] = [spans[index].end]
        rows[index] = row
    return [rows[index] for index in range(len(spans))]
