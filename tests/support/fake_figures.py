"""Figures of every kind with made-up numbers, for the tests of drawing and of the page."""

import math

from lmpipe.analysis.finding import (
    Bars,
    Effect,
    Figure,
    Forest,
    Gantt,
    Line,
    Lines,
    RateCurve,
    RateCurves,
    RatePoint,
    Span,
    Yardstick,
)

STEPS = [2**power * 1000 for power in range(12)]


def learning_curve(label: str, variant: str, final: float, style: str = "line") -> Line:
    """Return a curve that falls towards a final loss."""
    losses = [final + 5 * math.exp(-tokens / 90_000) + 0.3 * math.exp(-tokens / 900_000) for tokens in STEPS]
    return Line(label, variant, STEPS, losses, style=style)


def rate_curve(label: str, variant: str, best: float, breaks: float) -> RateCurve:
    """Return a parabola in log rate, whose seeds fail from a rate on."""
    points = []
    for power in range(-3, 7):
        rate = best * 2.0**power
        loss = 1.5 + 0.08 * power**2
        num_failed = 0 if rate < breaks else 2 if rate < 2 * breaks else 3
        losses = [loss + 0.02 * seed for seed in range(3 - num_failed)]
        points.append(RatePoint(rate, losses, num_failed, 3, is_short=power > 3))
    stable = max(point.max_lr for point in points if not point.num_failed)
    return RateCurve(
        label, variant, points, best, stable, min((p.max_lr for p in points if p.num_failed), default=None)
    )


def effect(label: str, variant: str, difference: float | None, half: float | None, num_failed: int = 0) -> Effect:
    """Return an effect whose interval has a half width."""
    interval = None if half is None or difference is None else (difference - half, difference + half)
    seeds = [] if difference is None else [difference + shift for shift in (-0.02, 0.0, 0.03)[num_failed:]]
    return Effect(label, variant, difference, interval, seeds, num_failed, 3, "nats per token", 0.014, 0.2, 0.4)


EFFECTS = [
    effect("no position embedding", "no_pos_emb", 0.95, 0.06),
    effect("post-norm", "post_norm", 0.19, None, num_failed=1),
    effect("no RMSNorm", "no_norm", 0.02, 0.04),
    effect("SiLU for SwiGLU", "silu", -0.015, 0.08),
]
YARDSTICKS = [
    Yardstick("uniform", 6.93),
    Yardstick("unigram", 5.88),
    Yardstick("bigram", 3.11),
    Yardstick("3-gram", 1.71),
    Yardstick("5-gram", 1.29),
    Yardstick("xz", 1.85),
]
FIGURES = {
    "hero": Lines(
        "training tokens",
        "validation loss (nats per token)",
        [learning_curve("stories", "stories", 1.85), learning_curve("docs", "docs", 3.6)],
        YARDSTICKS,
        [Yardstick("ablations stop here", 600_000)],
        log_x=True,
    ),
    "curves": Lines(
        "steps",
        "validation loss (nats per token)",
        [learning_curve(f"batch {size}", f"batch_{size}", 2 + 0.1 * index) for index, size in enumerate((1, 4, 16, 64))]
        + [learning_curve("", "batch_1", 2.1, "faint")],
        YARDSTICKS,
    ),
    "rates": RateCurves(
        "final validation loss (nats per token)",
        [
            rate_curve("pre-norm", "baseline", 0.014, 1.0),
            rate_curve("no RMSNorm", "no_norm", 0.012, 0.03),
            rate_curve("post-norm", "post_norm", 0.007, 0.01),
        ],
        YARDSTICKS,
    ),
    "effects": Forest("difference in final loss (nats per token)", EFFECTS),
    "memory": Bars(
        "memory (MB)",
        ["handout's list", "formula", "measured"],
        {"parameters": [1.4, 1.4, 1.4], "activations": [46.4, 15.5, 15.5], "moments": [2.8, 2.8, None]},
        stacked=True,
        horizontal=True,
    ),
    "lengths": Bars(
        "tokens", ["1", "2", "3", "4", "5+"], {"stories": [90, 300, 350, 180, 104], "docs": [95, 500, None, 330, 423]}
    ),
    "minutes": Gantt([Span(f"job {index}", f"stage {index % 8}", index * 4.0, index * 4.0 + 9) for index in range(60)]),
}


def figures() -> list[Figure]:
    """Return all figures."""
    return [Figure(name, data) for name, data in FIGURES.items()]
