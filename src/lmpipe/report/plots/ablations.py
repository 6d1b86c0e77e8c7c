"""Forest plot of the ablations: the difference of each variant's final loss from its baseline's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib

from lmpipe.analysis.finding import Finding
from lmpipe.io.formatting import format_number
from lmpipe.report.plots.style import BACKGROUND, BLUE, FOREGROUND, STYLE, Drawing, new_figure, truncate
from lmpipe.study.problems import ABLATIONS

ROW_LETTERS = 46


class Effect(NamedTuple):
    """Difference of a variant's final loss from its baseline's; without a value, `reason` says why."""

    problem: str
    variant: str
    title: str
    value: float | None
    interval: tuple[float, float] | None
    unit: str
    reason: str

    @property
    def text(self) -> str:
        """The difference and its interval, or the reason why there is none."""
        if self.value is None:
            return self.reason
        bounds = f" ({signed(self.interval[0])} to {signed(self.interval[1])})" if self.interval else " (one seed)"
        return signed(self.value) + bounds


def effects_in(problems: Mapping[str, Finding]) -> list[Effect]:
    """Return the differences that the ablations found, in the order of the report, each variant once."""
    return [
        Effect(problem, row.label, problems[problem].title, row.difference, row.interval, row.unit, "no seed learned")
        for problem in filter(problems.__contains__, ABLATIONS)
        for row in problems[problem].effects
    ]


def signed(value: float) -> str:
    """Return a difference with its sign.

    >>> signed(0.2034), signed(-0.05), signed(0.0)
    ('+0.203', '−0.05', '0')
    """
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{format_number(abs(value))}"


def forest_plot(effects: Sequence[Effect]) -> Drawing:
    """Draw a row for each effect: name and numbers, and below them a dot with its 95 % interval.

    A dot is filled if the interval excludes zero.
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = new_figure(0, 0.85 + 0.46 * len(effects))
        ax.axvline(0, color=FOREGROUND, linewidth=0.8, linestyle=(0, (2, 2)))
        for row, effect in enumerate(effects):
            above = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(truncate(effect.variant, ROW_LETTERS - len(effect.text)), (0, row), (2, 8), **above)
            ax.annotate(effect.text, (1, row), (0, 8), ha="right", **above)
            if effect.value is not None:
                low, high = effect.interval or (effect.value, effect.value)
                is_resolved = effect.interval is not None and not low <= 0 <= high
                ax.plot([low, high], [row, row], color=BLUE, linewidth=1.4)
                face = BLUE if is_resolved else BACKGROUND
                ax.plot([effect.value], [row], "o", color=BLUE, markersize=6, markerfacecolor=face, markeredgewidth=1.4)
        ax.set_ylim(len(effects) - 0.6, -0.75)
        ax.set_yticks([])
        ax.grid(visible=False, axis="y")
        ax.locator_params(axis="x", nbins=6)
        ax.spines["left"].set_visible(False)
        ax.set_title("← better", loc="left")
        ax.set_title("worse →", loc="right")
        ax.set_xlabel(f"difference in final loss ({effects[0].unit})")
        rows = [(effect.problem, effect.variant, effect.value, *(effect.interval or ("", ""))) for effect in effects]
        return Drawing.of(figure, ("problem", "variant", "difference", "low", "high"), rows)
