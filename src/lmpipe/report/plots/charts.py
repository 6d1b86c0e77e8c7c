"""Line and bar plots of findings."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes

from lmpipe.analysis.finding import BarPlot, LinePlot, PlotData
from lmpipe.report.plots.style import (
    DASHES,
    MARKERS,
    STYLE,
    Drawing,
    finite_or_nan,
    label_axes,
    legend_below,
    legend_rows,
    new_figure,
    palette,
    scale_axis,
)


def draw(data: PlotData) -> Drawing:
    """Draw the plot of a finding."""
    with matplotlib.rc_context(STYLE):
        return line_plot(data) if isinstance(data, LinePlot) else bar_plot(data)


def line_plot(data: LinePlot) -> Drawing:
    """Draw lines over common axes; missing points, and points that a log axis cannot show, leave gaps."""
    figure, ax = new_figure(legend_rows([series.label for series in data.series]))
    colours = palette(len(data.series))
    for index, series in enumerate(data.series):
        ax.plot(
            [finite_or_nan(x, data.log_x) for x in series.x],
            [finite_or_nan(y, data.log_y) for y in series.y],
            color=colours[index % len(colours)],
            linestyle=DASHES[index // len(colours) % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)] if data.markers else None,
            markersize=4,
            label=series.label,
        )
    scale_axis(ax, "x", data.log_x)
    scale_axis(ax, "y", data.log_y)
    label_axes(ax, data.xlabel, data.ylabel, data.title)
    if len(data.series) > 1:
        legend_below(figure, ax)
    rows = [(series.label, x, y) for series in data.series for x, y in zip(series.x, series.y, strict=True)]
    return Drawing.of(figure, ("series", data.xlabel, data.ylabel), rows)


def bar_plot(data: BarPlot) -> Drawing:
    """Draw one bar for each label and group; a missing value is marked as "none"."""
    num_labels, num_groups = len(data.labels), len(data.groups)
    bars_per_label = 1 if data.stacked else max(1, 0.6 * num_groups)
    height = 1.0 + 0.26 * num_labels * bars_per_label if data.horizontal else 3.3
    figure, ax = new_figure(legend_rows(list(data.groups)), height)
    colours = palette(num_groups)
    thickness = 0.75 if data.stacked else 0.8 / num_groups
    floor = [0.0] * num_labels
    for index, (group, values) in enumerate(data.groups.items()):
        shift = 0.0 if data.stacked else (index - (num_groups - 1) / 2) * thickness
        positions = [position + shift for position in range(num_labels)]
        lengths = [0.0 if math.isnan(finite_or_nan(value)) else value for value in values]
        style = {"color": colours[index % len(colours)], "label": group}
        if data.horizontal:
            ax.barh(positions, lengths, thickness, left=floor, **style)
        else:
            ax.bar(positions, lengths, thickness, bottom=floor, **style)
        if data.stacked:
            floor = [below + length for below, length in zip(floor, lengths, strict=True)]
        else:
            mark_missing(ax, positions, values, data.horizontal)
    (ax.set_yticks if data.horizontal else ax.set_xticks)(range(num_labels), data.labels)
    scale_axis(ax, "x" if data.horizontal else "y", log=False)
    ax.grid(visible=False, axis="y" if data.horizontal else "x")
    if data.horizontal:
        ax.invert_yaxis()
    label_axes(ax, *((data.ylabel, "") if data.horizontal else ("", data.ylabel)), data.title)
    if num_groups > 1:
        legend_below(figure, ax)
    rows = [
        (label, group, values[row]) for row, label in enumerate(data.labels) for group, values in data.groups.items()
    ]
    return Drawing.of(figure, ("bar", "series", data.ylabel), rows)


def mark_missing(ax: Axes, positions: Sequence[float], values: Sequence[float | None], horizontal: bool) -> None:
    """Write "none" in place of each bar without a value."""
    for position, value in zip(positions, values, strict=True):
        if not math.isnan(finite_or_nan(value)):
            continue
        if horizontal:
            ax.annotate(" none", (0, position), xycoords=("axes fraction", "data"), va="center")
        else:
            ax.annotate("none", (position, 0), xycoords=("data", "axes fraction"), ha="center", va="bottom")
