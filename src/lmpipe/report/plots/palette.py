"""Colours of the figures: a variant keeps its colour on the whole page, in light and in dark.

An SVG file has the colours of a light page; in the report a style sheet defines them for light pages, dark pages and
paper. All are dark enough for text on white (WCAG 2.2, 4.5 to 1); lines have labels, so that no reader needs the hue.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import assert_never

from lmpipe.analysis.finding import Bars, Figure, Forest, Gantt, Lines, RateCurves

FOREGROUND, SOFT, GRID, BACKGROUND = "#1b1f24", "#59626c", "#d8dce1", "#fffffe"
# Hues of variants without an order.
BLUE, VERMILLION, GREEN, PURPLE, OCHRE, TEAL = "#0067a8", "#bf4400", "#00784f", "#a23e80", "#8f6500", "#007886"
HUES = (BLUE, VERMILLION, GREEN, PURPLE, OCHRE, TEAL)
# From cold to warm, for the values of a setting.
RAMP = ("#2a5fa6", "#5a4fa1", "#8a3f97", "#b0357b", "#c2403e", "#b35a01")
# Names of the custom properties in report.css.
CSS_COLORS = {FOREGROUND: "currentColor", BACKGROUND: "none", SOFT: "var(--soft)", GRID: "var(--grid)"}
CSS_COLORS |= zip(
    HUES, map("var(--{})".format, ("blue", "vermillion", "green", "purple", "ochre", "teal")), strict=True
)
CSS_COLORS |= {color: f"var(--ramp-{index})" for index, color in enumerate(RAMP)}
# Variants of most studies; the main run on stories is the baseline's model.
KNOWN = {
    "baseline": BLUE,
    "stories": BLUE,
    "docs": OCHRE,
    "post_norm": VERMILLION,
    "no_norm": GREEN,
    "no_pos_emb": PURPLE,
    "nope": PURPLE,
    "silu": TEAL,
}


class Palette:
    """Colours by variant; the figures that it has seen decide those of variants that are not in KNOWN."""

    def __init__(self, figures: Iterable[Figure] = ()):
        self.colors: dict[str, str] = {}
        for figure in figures:
            self.of(variants(figure.data))

    def of(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the colours of the variants of one figure; new variants get colours that the figure lacks."""
        distinct = list(dict.fromkeys(names))
        if ramp := numbered(distinct):
            return ramp
        known = self.colors | {name: KNOWN[name] for name in distinct if name in KNOWN}
        for name in distinct:
            used = [known[other] for other in distinct if other in known]
            if name not in known:
                known[name] = min(HUES, key=lambda hue: (used.count(hue), HUES.index(hue)))
        self.colors = known
        return {name: known[name] for name in distinct}


def numbered(names: list[str]) -> dict[str, str] | None:
    """Return colours from cold to warm if the names differ in a number at their end, otherwise None.

    >>> numbered(["batch_4", "batch_64"]), numbered(["baseline", "silu"])
    ({'batch_4': '#2a5fa6', 'batch_64': '#b35a01'}, None)
    """
    matches = [re.fullmatch(r"(.*?)[ _=]?(\d+(?:\.\d+)?(?:e-?\d+)?)", name) for name in names]
    if len(names) < 2 or not all(matches) or len({match[1] for match in matches}) > 1:
        return None
    ordered = sorted(names, key=lambda name: float(matches[names.index(name)][2]))
    step = (len(RAMP) - 1) / (len(names) - 1)
    return {name: RAMP[round(index * step)] for index, name in enumerate(ordered)}


def variants(data: Lines | RateCurves | Forest | Bars | Gantt) -> list[str]:
    """Return the keys of the colours of a figure."""
    match data:
        case Lines():
            return [line.variant for line in data.lines]
        case RateCurves():
            return [curve.variant for curve in data.curves]
        case Forest():
            return [row.variant for row in data.rows]
        case Bars():
            return data.variants or list(data.groups)
        case Gantt():
            totals: Counter[str] = Counter()
            for span in data.spans:
                totals[span.group] += span.end - span.start
            return [group for group, _ in totals.most_common(len(HUES) - 1)]  # stages that take the most time
        case unknown:
            assert_never(unknown)
