"""What each change of the model did to its loss, in one drawing for the first page: differences and intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile
from typing import Any, NamedTuple

from markupsafe import Markup

from lmpipe.analysis.results import is_number
from lmpipe.io.formatting import format_number

# The ablations, and the figures in which each tells its difference, as every module of an ablation names them.
ABLATIONS = ("layer_norm_ablation", "pre_norm_ablation", "no_pos_emb", "swiglu_ablation")
DIFFERENCES = {"difference": "variant", "tuned_difference": "tuned_variant"}
WIDTH, ROW, TOP, SIDE = 320, 44, 22, 12
MOST_TICKS = 6
MOST_CHARACTERS = 41  # of a name and the words behind it


class Effect(NamedTuple):
    """The difference of a variant's final loss from its baseline's; without a value, `reason` says why."""

    problem: str
    title: str
    variant: str
    value: float | None
    interval: tuple[float, float] | None
    unit: str
    reason: str

    @property
    def words(self) -> str:
        """The difference in words, with its interval where there is one."""
        if self.value is None:
            return self.reason
        bounds = f" ({signed(self.interval[0])} to {signed(self.interval[1])})" if self.interval else " (one seed)"
        return signed(self.value) + bounds


def effects_in(problems: Mapping[str, Any]) -> list[Effect]:
    """The differences that the ablations of a study found, in the order of the report; each variant once."""
    found: dict[tuple[str, str], Effect] = {}
    for problem in ABLATIONS:
        finding = problems.get(problem, {"metrics": {}})
        for name, variant_name in DIFFERENCES.items():
            figure, variant = finding["metrics"].get(name), finding["metrics"].get(variant_name)
            if figure and variant and variant["value"]:
                facts = (known(figure["value"]), bounds_of(figure), figure["unit"], figure["missing_reason"])
                name = str(variant["value"])
                found.setdefault((problem, name), Effect(problem, finding["title"], name, *facts))
    return list(found.values())


def known(value: Any) -> float | None:
    """A number that can be drawn; None for anything else."""
    return value if is_number(value) and math.isfinite(value) else None


def bounds_of(figure: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of a figure, where it has one with two ends."""
    low, high = map(known, figure["interval"] or (None, None))
    return None if low is None or high is None else (low, high)


def signed(value: float) -> str:
    """A difference with its sign.

    >>> signed(0.2034), signed(-0.05), signed(0.0)
    ('+0.203', '−0.05', '0')
    """
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{format_number(abs(value))}"


def draw(effects: Sequence[Effect]) -> Markup:
    """The differences as rows over one axis, zero marked; an SVG of its own width in CSS pixels."""
    low, high = limits(effects)
    scale = (WIDTH - 2 * SIDE) / (high - low)
    height, bottom = TOP + ROW * len(effects) + 34, TOP + ROW * len(effects)

    def across(value: float) -> float:
        return round(SIDE + (value - low) * scale, 1)

    marks = [
        Markup('<path class="{}" d="M {} {} V {}"/><text class="tick" x="{}" y="{}">{}</text>').format(
            "zero" if tick == 0 else "grid", across(tick), TOP, bottom, across(tick), bottom + 14, signed(tick)
        )
        for tick in ticks(low, high)
    ]
    rows = [effect_row(effect, TOP + ROW * index, across) for index, effect in enumerate(effects)]
    told = "; ".join(f"{effect.title}, {effect.variant}: {effect.words}" for effect in effects)
    return Markup(
        '<svg class="effects" viewBox="0 0 {} {}" role="img" aria-label="Differences of final losses from the '
        'baseline&#39;s, in {}. {}."><text class="axis" x="{}" y="12">← better</text>'
        '<text class="axis end" x="{}" y="12">worse →</text>{}{}<text class="axis" x="{}" y="{}">{}</text></svg>'
    ).format(
        WIDTH, height, effects[0].unit, told, SIDE, WIDTH - SIDE, Markup("").join(marks), Markup("").join(rows),
        SIDE, height - 4, f"difference in final loss ({effects[0].unit})",
    )  # fmt: skip


def effect_row(effect: Effect, top: float, across: Callable[[float], float]) -> Markup:
    """One variant: its name and its difference in words, and below them a dot with its interval."""
    level = top + 30
    text = Markup('<text x="{}" y="{}">{}</text><text class="end" x="{}" y="{}">{}</text>').format(
        SIDE,
        top + 16,
        shortened(effect.variant, MOST_CHARACTERS - len(effect.words)),
        WIDTH - SIDE,
        top + 16,
        effect.words,
    )
    if effect.value is None:
        return text
    bounds = effect.interval or (effect.value, effect.value)
    line = Markup('<path class="interval" d="M {} {} H {}"/>').format(across(bounds[0]), level, across(bounds[1]))
    look = "dot" if effect.interval and not bounds[0] <= 0 <= bounds[1] else "dot open"
    return (
        text + line + Markup('<circle class="{}" cx="{}" cy="{}" r="4.5"/>').format(look, across(effect.value), level)
    )


def shortened(name: str, most: int) -> str:
    """A name of so many characters at most; the table below the drawing has all of it.

    >>> shortened("post_norm_tuned_max_lr=0.003", 16), shortened("silu", 16)
    ('post_norm_tuned…', 'silu')
    """
    return name if len(name) <= most else f"{name[: max(1, most - 1)]}…"


def limits(effects: Sequence[Effect]) -> tuple[float, float]:
    """The ends of the axis: zero, every difference and every interval lie inside."""
    values = [value for effect in effects for value in (effect.value, *(effect.interval or ())) if value is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, zero among them.

    >>> ticks(-0.05, 0.23)
    [0.0, 0.05, 0.1, 0.15, 0.2]
    """
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    places = takewhile(lambda index: index * step <= high, count(math.ceil(low / step)))
    return [round(index * step, 12) + 0.0 for index in places]
