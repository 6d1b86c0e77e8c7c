"""Canvas of a figure: its sizes on the page, its axes with margins, and labels that do not overlap."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lmpipe.io.formatting import SUPERSCRIPTS
from lmpipe.report.plots.palette import SOFT
from lmpipe.report.plots.style import number_text

POINTS_PER_PIXEL, POINTS_PER_INCH = 0.75, 72.0
# Approximate width of a character and height of a line of 9 point text.
CHARACTER, LINE = 5.6, 11.0
MAX_LABEL = 24
# Logarithmic axes over a wider range have powers of ten at their ticks.
MAX_PLAIN_RANGE = 1e8


class Size(NamedTuple):
    """Size of a figure in CSS pixels; thumbnails have no text."""

    width: int
    height: int
    has_text: bool = True

    @property
    def is_narrow(self) -> bool:
        """True for the figure of a phone."""
        return self.width < 500


WIDE, NARROW, THUMBNAIL = Size(720, 260), Size(340, 250), Size(160, 92, has_text=False)


class Margins(NamedTuple):
    """Margins around the axes, in points."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Canvas:
    """A figure with one pair of axes."""

    figure: Figure
    ax: Axes
    size: Size
    margins: Margins

    @classmethod
    def of(cls, size: Size, margins: Margins, height: float | None = None) -> "Canvas":
        """Return an empty canvas; `height` in points replaces that of the size."""
        width_points = size.width * POINTS_PER_PIXEL
        height_points = height if height and size.has_text else size.height * POINTS_PER_PIXEL
        if not size.has_text:
            margins = Margins(3, 3, 3, 3)
        figure = Figure(figsize=(width_points / POINTS_PER_INCH, height_points / POINTS_PER_INCH))
        left, bottom = margins.left / width_points, margins.bottom / height_points
        right, top = 1 - margins.right / width_points, 1 - margins.top / height_points
        ax = figure.add_axes((left, bottom, right - left, top - bottom))
        if not size.has_text:
            ax.set_axis_off()
        return cls(figure, ax, size, margins)

    @property
    def axes_size(self) -> tuple[float, float]:
        """Width and height of the axes in points."""
        box = self.ax.get_position()
        width, height = self.figure.get_size_inches() * POINTS_PER_INCH
        return box.width * width, box.height * height

    def label_axes(self, x_label: str, y_label: str) -> None:
        """Write the label of the y axis above it, and that of the x axis below its right end."""
        if self.size.has_text:
            left = {"xycoords": "axes fraction", "textcoords": "offset points", "color": SOFT}
            self.ax.annotate(y_label, (0, 1), (4 - self.margins.left, 8), **left)
            self.ax.annotate(x_label, (1, 0), (0, -26), ha="right", va="center", **left)

    def scale(self, name: str, log: bool) -> None:
        """Make the `x` or `y` axis linear or logarithmic, with at most as many ticks as there is room for."""
        axis = self.ax.xaxis if name == "x" else self.ax.yaxis
        (self.ax.set_xscale if name == "x" else self.ax.set_yscale)("log" if log else "linear")
        room = self.axes_size[0] / 44 if name == "x" else self.axes_size[1] / 26
        axis.set_major_locator(
            log_locator(axis.get_view_interval(), room) if log else MaxNLocator(max(2, int(room)), steps=(1, 2, 5, 10))
        )
        low, high = sorted(axis.get_view_interval())
        text = power_text if log and high > MAX_PLAIN_RANGE * low else tick_text
        axis.set_major_formatter(FuncFormatter(lambda value, _: text(float(value))))
        axis.set_minor_locator(NullLocator())

    def tick_values(self, values: Sequence[float]) -> None:
        """Put the ticks of a logarithmic x axis at the values of a setting, if they are few and far enough apart."""
        pixels = [float(self.ax.transData.transform((value, 1.0))[0]) for value in values]
        room = 6 + max((CHARACTER * len(tick_text(value)) for value in values), default=0.0)
        is_round = all(float(f"{value:.1e}") == float(f"{value:.6e}") for value in values)
        if len(values) > 1 and is_round and all(b - a >= room for a, b in pairwise(pixels)):
            self.ax.xaxis.set_major_locator(FixedLocator(values))

    def label_right(self, labels: Sequence[tuple[float, str, str]]) -> None:
        """Write (y, text, color) to the right of the axes, each near its height, without overlaps."""
        if not self.size.has_text:
            return
        width, height = self.axes_size
        to_axes = self.ax.transData + self.ax.transAxes.inverted()
        visible = [(float(to_axes.transform((1.0, y))[1]) * height, text, color) for y, text, color in labels]
        visible = sorted(label for label in visible if -LINE < label[0] < height + LINE)
        heights = spread([y for y, _, _ in visible], LINE, height)
        for (y, text, color), label_y in zip(visible, heights, strict=True):
            beside = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
            self.ax.annotate(shorten(text), (1, 0), (9, label_y), xycoords="axes fraction", color=color, **beside)
            if abs(label_y - y) > 3:
                x, style = (1 + 1 / width, 1 + 7 / width), {"color": color, "linewidth": 0.5, "clip_on": False}
                self.ax.plot(x, (y / height, label_y / height), transform=self.ax.transAxes, **style)


def log_locator(view: Iterable[float], room: float) -> LogLocator:
    """Return ticks at 1, 2, 5 of each decade, or at powers of ten, whichever there is room for."""
    low, high = sorted(view)
    decades = math.log10(high / low) if low > 0 else 1.0
    subs = (1.0, 2.0, 5.0) if 3 * decades < room else (1.0, 3.0) if 2 * decades < room else (1.0,)
    return LogLocator(subs=subs, numticks=max(2, int(room)))


def tick_text(value: float) -> str:
    """Return a number at a tick.

    >>> tick_text(0.003), tick_text(2000), tick_text(50000), tick_text(2e6)
    ('0.003', '2,000', '50 k', '2 M')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15 and abs(value) >= 10_000:
            return f"{number_text(value / size)} {unit}"
    return number_text(value).replace("-", "−")


def power_text(value: float) -> str:
    """Return a power of ten.

    >>> power_text(1e-7), power_text(1.0)
    ('10⁻⁷', '10⁰')
    """
    return f"10{str(round(math.log10(value))).translate(SUPERSCRIPTS)}"


def shorten(text: str, length: int = MAX_LABEL) -> str:
    """Return a label of at most `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def text_width(texts: Sequence[str]) -> float:
    """Return the width in points that labels need at most."""
    return CHARACTER * max((len(shorten(text)) for text in texts), default=0)


def tick_width(low: float, high: float) -> float:
    """Return the width in points of the ticks of an axis of values."""
    return CHARACTER * max(3, *(len(tick_text(float(f"{value:.2g}"))) for value in (low, high))) + 8


def spread(heights: Sequence[float], distance: float, limit: float) -> list[float]:
    """Return ascending heights moved apart to at least a distance, by as little as possible, below a limit.

    Labels that are too close form a group around their common mean.

    >>> spread([0, 1, 30], 10, 100), spread([99, 100], 10, 100)
    ([-4.5, 5.5, 30.0], [90.0, 100.0])
    """
    groups = [[float(height)] for height in heights]

    def around_mean(group: list[float]) -> list[float]:
        half = distance * (len(group) - 1) / 2
        middle = min(sum(group) / len(group), limit - half)
        return [middle - half + distance * index for index in range(len(group))]

    while True:
        spaced = [around_mean(group) for group in groups]
        close = next((i for i, (a, b) in enumerate(pairwise(spaced)) if b[0] - a[-1] < distance), None)
        if close is None:
            return [height for group in spaced for height in group]
        groups[close : close + 2] = [groups[close] + groups[close + 1]]


def hide_y_axis(ax: Axes) -> None:
    """Remove the ticks, the grid and the spine of the y axis."""
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
