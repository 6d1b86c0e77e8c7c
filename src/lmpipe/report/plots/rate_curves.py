"""U-curves: final loss against peak learning rate, with the range in which each variant trains."""

import math
from collections.abc import Mapping
from statistics import median

from matplotlib.axes import Axes

from lmpipe.analysis.finding import RateCurve, RateCurves
from lmpipe.io.formatting import format_number
from lmpipe.report.plots.canvas import Canvas, Margins, Size, text_width, tick_width
from lmpipe.report.plots.palette import SOFT
from lmpipe.report.plots.style import Drawing, label_on_hover

COLUMNS = ("variant", "peak learning rate", "final loss", "failed seeds", "seeds", "short run")
ROW, STRIP_MARGIN = 15.0, 24.0
# Distance in points from a cross to the next that leaves room for its count.
COUNT = 24.0


def draw_rate_curves(data: RateCurves, colors: Mapping[str, str], size: Size) -> Drawing:
    """Draw medians as lines, seeds as dots, and above them a row for each variant with its stable rates."""
    losses = [loss for curve in data.curves for point in curve.points for loss in point.losses] or [0.0, 1.0]
    span = (max(losses) - min(losses)) or 1.0
    low, high = min(losses) - 0.08 * span, max(losses) + 0.08 * span
    near = [yardstick for yardstick in data.yardsticks if low - 0.2 * span <= yardstick.value <= high + 0.2 * span]
    low = min([low, *(yardstick.value for yardstick in near)])
    high = max([high, *(yardstick.value + 0.04 * span for yardstick in near)])
    strip = STRIP_MARGIN + ROW * len(data.curves)
    right = text_width([*(curve.label for curve in data.curves), *(yardstick.label for yardstick in near)])
    margins = Margins(tick_width(low, high), 12 + right, 14 + strip, 36)
    canvas = Canvas.of(size, margins, height=size.height * 0.75 + strip)
    ax = canvas.ax
    ax.set_xscale("log")
    rates = [point.max_lr for curve in data.curves for point in curve.points] or [1e-3, 1e-1]
    ax.set_xlim(min(rates) / 1.35, max(rates) * 1.35)
    ax.set_ylim(low, high)
    canvas.scale("x", log=True)
    canvas.scale("y", log=False)
    for yardstick in near:
        ax.axhline(yardstick.value, color=SOFT, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
    for curve in data.curves:
        draw_curve(ax, curve, colors[curve.variant])
    canvas.label_right([(yardstick.value, yardstick.label, SOFT) for yardstick in near])
    canvas.label_axes("peak learning rate", "")
    if size.has_text:
        draw_strip(canvas, data, colors)
    # A row for each seed that did not fail, and one for each rate at which all failed.
    rows = [
        (curve.label, point.max_lr, loss, point.num_failed, point.num_seeds, point.is_short)
        for curve in data.curves
        for point in curve.points
        for loss in point.losses or [None]
    ]
    return Drawing.of(canvas.figure, COLUMNS, rows)


def draw_curve(ax: Axes, curve: RateCurve, color: str) -> None:
    """Draw one variant: the median of each rate, and its seeds; a rate at which all seeds fail is a gap."""
    whole = [point for point in curve.points if not point.is_short]
    medians = [median(point.losses) if point.losses and not point.num_failed else math.nan for point in whole]
    ax.plot([point.max_lr for point in whole], medians, color=color, linewidth=1.6)
    for point in curve.points:
        face = "none" if point.is_short or point.num_failed else color
        name = f"{curve.label}, rate {format_number(point.max_lr, 2)}{', short run' if point.is_short else ''}"
        for loss in point.losses:
            seed = ax.plot(point.max_lr, loss, "o", color=color, markersize=3.2, markerfacecolor=face)
            label_on_hover(seed, f"{name}: {format_number(loss, 4)}")


def draw_strip(canvas: Canvas, data: RateCurves, colors: Mapping[str, str]) -> None:
    """Draw above the axes the rates at which all seeds of a variant train, its optimum, and where seeds fail."""
    ax, (width, height) = canvas.ax, canvas.axes_size
    above, beside = ax.get_xaxis_transform(), {"textcoords": "offset points", "va": "center", "annotation_clip": False}
    left, right = ax.get_xlim()
    for row, curve in enumerate(data.curves):
        y, color = 1 + (STRIP_MARGIN + ROW * (len(data.curves) - 1 - row)) / height, colors[curve.variant]
        style = {"color": color, "transform": above, "clip_on": False}
        if curve.stable_up_to:
            ax.plot([left, curve.stable_up_to], [y, y], linewidth=3, solid_capstyle="butt", alpha=0.45, **style)
        if curve.optimum:
            ax.plot([curve.optimum], [y], "D", markersize=4.5, **style)
            text = format_number(curve.optimum, 2)
            ax.annotate(
                text, (curve.optimum, y), (-6, 5), xycoords=above, ha="right", fontweight="bold", color=color, **beside
            )
        free = right
        for point in reversed([point for point in curve.points if point.num_failed]):
            ax.plot([point.max_lr], [y], "x", markersize=5, markeredgewidth=1.6, **style)
            if width * math.log(free / point.max_lr) / math.log(right / left) >= COUNT:
                text = f"{point.num_failed}/{point.num_seeds}"
                ax.annotate(text, (point.max_lr, y), (5, 0), xycoords=above, color=color, **beside)
            free = point.max_lr
        ax.annotate(curve.label, (1, y), (9, 0), xycoords="axes fraction", color=color, **beside)
    for text, offset in (
        ("◆ best · bar: all seeds train · × 2/3: 2 of 3 seeds fail", STRIP_MARGIN + ROW * len(data.curves)),
        (data.y_label, 8),
    ):
        ax.annotate(text, (0, 1), (4 - canvas.margins.left, offset), xycoords="axes fraction", color=SOFT, **beside)
