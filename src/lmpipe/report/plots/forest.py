"""Forest plot: the effect of each variant on the final loss, with its interval, its seeds and its failures."""

from collections.abc import Mapping
from statistics import median

from matplotlib.axes import Axes

from lmpipe.analysis.finding import Effect, Forest
from lmpipe.io.formatting import format_number
from lmpipe.report.plots.canvas import CHARACTER, Canvas, Margins, Size, hide_y_axis, text_width
from lmpipe.report.plots.palette import BACKGROUND, FOREGROUND, SOFT
from lmpipe.report.plots.style import Drawing, label_on_hover
from lmpipe.report.prose import format_range, format_signed

ROW = 27.0
# Rows that reach this many times farther than the median row are cut, with an arrow.
CUT = 4.0


def draw_forest(data: Forest, colors: Mapping[str, str], size: Size) -> Drawing:
    """Draw a row for each effect, its numbers at the right; on a phone they are above the row."""
    texts = [numbers_text(row) for row in data.rows]
    edges = [f"stable to {format_number(row.stable_up_to, 2)}" if row.stable_up_to else "" for row in data.rows]
    above = 14.0 if size.is_narrow and size.has_text else 0.0
    left = 8.0 if above else text_width([row.label for row in data.rows]) + 14
    right = 8.0 if above else CHARACTER * (max(map(len, [*texts, ""])) + max(map(len, [*edges, ""]))) + 30
    height = 62 + (ROW + above) * len(data.rows)
    canvas = Canvas.of(size, Margins(left, right, 26, 36), height)
    ax = canvas.ax
    limit = cut_at(data.rows)
    for index, row in enumerate(data.rows):
        draw_effect(ax, row, index, colors[row.variant], limit)
    ax.axvline(0, color=FOREGROUND, linewidth=0.8, linestyle=(0, (2, 2)))
    canvas.scale("x", log=False)
    low, high = visible_range(data.rows, limit)
    ax.set_xlim(low, high)
    ax.set_ylim(len(data.rows) - 0.5, -0.5 - above / ROW / 2)
    hide_y_axis(ax)
    canvas.label_axes(data.x_label, "")
    if size.has_text:
        label_rows(canvas, data, colors, texts, edges)
    rows = [effect_columns(row) for row in data.rows]
    return Drawing.of(canvas.figure, list(rows[0]), [list(row.values()) for row in rows])


def label_rows(canvas: Canvas, data: Forest, colors: Mapping[str, str], texts: list[str], edges: list[str]) -> None:
    """Write the names and numbers of the rows, and which direction is better."""
    ax, is_narrow = canvas.ax, canvas.size.is_narrow
    anchor = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
    for index, row in enumerate(data.rows):
        color = colors[row.variant]
        if is_narrow:
            ax.annotate(row.label, (0, index), (0, 9), color=color, **anchor)
            ax.annotate(texts[index], (1, index), (0, 9), ha="right", **anchor)
        else:
            ax.annotate(row.label, (0, index), (-10, 0), ha="right", va="center", color=color, **anchor)
            ax.annotate(texts[index], (1, index), (10, 0), va="center", **anchor)
            offset = 20 + CHARACTER * max(map(len, texts))
            ax.annotate(edges[index], (1, index), (offset, 0), va="center", color=SOFT, **anchor)
    anchor["xycoords"] = ("data", "axes fraction")
    ax.annotate("← better", (0, 1), (-5, 8), ha="right", color=SOFT, **anchor)
    ax.annotate("worse →", (0, 1), (5, 8), color=SOFT, **anchor)


def draw_effect(ax: Axes, row: Effect, y: int, color: str, limit: float) -> None:
    """Draw one effect; its diamond is filled if the difference is significant."""
    low, high = row.interval or (0.0, 0.0)
    if row.interval:
        ax.plot([max(low, -limit), min(high, limit)], [y, y], color=color, linewidth=1.6)
    for value in row.differences:
        if abs(value) <= limit:
            seed = ax.plot(value, y + 0.2, "o", color=color, markersize=2.5, alpha=0.7)
            label_on_hover(seed, f"{row.label}, one seed: {format_signed(value)}")
    if row.difference is None:
        return
    if abs(row.difference) > limit:
        at = limit if row.difference > 0 else -limit
        mark = ax.plot([at], [y], ">" if at > 0 else "<", color=color, markersize=7, clip_on=False)
    else:
        face = color if row.differs else BACKGROUND
        mark = ax.plot(
            [row.difference], [y], "D", color=color, markersize=5.5, markerfacecolor=face, markeredgewidth=1.4
        )
    label_on_hover(mark, f"{row.label}: {numbers_text(row)}")


def cut_at(rows: list[Effect]) -> float:
    """Return the largest difference that is drawn in place; farther ones become arrows."""
    extents = [max(map(abs, (*(row.interval or ()), row.difference or 0.0))) for row in rows]
    extents = [size for size in extents if size] or [1 / 1.05]
    return max(size for size in extents if size <= CUT * median(extents)) * 1.05


def visible_range(rows: list[Effect], limit: float) -> tuple[float, float]:
    """Return limits of the axis that contain zero and all that is drawn in place."""
    values = [value for row in rows for value in (*(row.interval or ()), *row.differences, row.difference or 0.0)]
    cut = [min(max(value, -limit), limit) for value in values]
    low, high = min([0.0, *cut]), max([0.0, *cut])
    margin = 0.06 * ((high - low) or 1.0)
    return low - margin, high + margin


def numbers_text(row: Effect) -> str:
    """Return the difference and its interval, or the number of failed seeds."""
    failed = f"{row.num_failed} of {row.num_seeds} failed" if row.num_failed else ""
    if row.difference is None:
        return failed or "no result"
    extra = failed or (
        f"({format_range(row.interval)})" if row.interval else "(one seed)" if row.num_seeds == 1 else ""
    )
    return f"{format_signed(row.difference)} {extra}".strip()


def effect_columns(row: Effect) -> dict[str, object]:
    """Return a row of the table of effects, by column."""
    low, high = row.interval or (None, None)
    return {
        "variant": row.label,
        "difference": row.difference,
        "low": low,
        "high": high,
        "seed differences": " ".join(f"{value:.6g}" for value in row.differences),
        "failed seeds": row.num_failed,
        "seeds": row.num_seeds,
        "peak rate": row.max_lr,
        "stable up to": row.stable_up_to,
        "breaks at": row.breaks_at,
    }
