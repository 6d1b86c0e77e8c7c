"""Problem learning_rate_tuning: plain gradient descent on a toy loss at four learning rates."""

from itertools import pairwise
from math import isnan, sqrt
from pathlib import Path

from pydantic import JsonValue

from lmpipe.analysis.finding import Figure, Finding, Line, Lines, missing, optional_metric
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import read_numbers
from lmpipe.errors import REBUILD, InputError
from lmpipe.io.formatting import format_number
from lmpipe.study.paths import RELATIVE

SOURCE = str(RELATIVE.sgd_toy)
WEIGHTS = 100

Curve = list[float | None]


def analyze(results: Results) -> Finding:
    """Return the loss at each rate, and the factor that explains it."""
    path = results.folder / SOURCE
    if not path.exists():
        return missing(f"The toy has not been trained in this study; run {results.command(path)}.")
    curves = read_curves(path)
    metrics = {
        f"final_loss_{rate:g}": optional_metric(curve[-1], "", SOURCE, "it overflowed")
        for rate, curve in curves.items()
    }
    # A loss of exactly 0 leaves a gap on the logarithmic axis.
    lines = [
        Line(f"rate {format_number(rate)}", f"rate {rate:g}", list(range(len(curve))), [loss or None for loss in curve])
        for rate, curve in curves.items()
    ]
    return Finding(
        "answered",
        metrics=metrics,
        facts=facts_of(curves),
        figures=[Figure("losses", Lines("step", "loss (mean square)", lines, log_y=True))],
    )


def read_curves(path: Path) -> dict[float, Curve]:
    """Return the losses of each rate by step, step 0 before any update; None for a loss that is not finite.

    Raises InputError if the file is damaged or incomplete.
    """
    table = read_numbers(path, ("learning_rate", "step", "loss"))
    groups = table.groupby("learning_rate", sort=False, dropna=False)["loss"]
    curves = {float(rate): [None if isnan(loss) else loss for loss in losses.tolist()] for rate, losses in groups}
    is_complete = len({len(curve) for curve in curves.values()}) == 1 and not any(map(isnan, curves))
    if not is_complete or not all(curve[0] for curve in curves.values()):
        problem = "does not hold equally many losses of each rate, the first above 0"
        raise InputError(path, problem, REBUILD)
    return curves


def facts_of(curves: dict[float, Curve]) -> dict[str, JsonValue]:
    """Return the rates by outcome, and the factor of the best rate's update that lowers the loss most.

    `is_explained` is true if the factor of every update agrees with the measured losses.
    """
    falling = [rate for rate, curve in curves.items() if curve[-1] is not None and curve[-1] <= curve[0]]
    best = min(falling, key=lambda rate: curves[rate][-1], default=None)
    steps = len(next(iter(curves.values()))) - 1
    jump = min(range(steps), key=lambda step: abs(step_factor(best, step))) if falling else None
    return {
        "falling": [format_number(rate) for rate in falling],
        "diverging": [format_number(rate) for rate in curves if rate not in falling],
        "best": best,
        "best_loss": curves[best][-1] if falling else None,
        "steps": steps,
        "weights": WEIGHTS,
        "is_explained": is_explained(curves),
        "jump_step": jump,
        "jump_factor": step_factor(best, jump) if falling else None,
    }


def step_factor(rate: float, step: int) -> float:
    """Return the factor of update `step` (from 0) on each weight: the gradient of the mean square is 2w / WEIGHTS."""
    return 1 - 2 * rate / (WEIGHTS * sqrt(step + 1))


def is_explained(curves: dict[float, Curve]) -> bool:
    """Return True if every measured step agrees with the factor of its update to 0.1 %."""
    for rate, curve in curves.items():
        for step, (before, after) in enumerate(pairwise(curve)):
            expected = step_factor(rate, step) ** 2
            if before and after is not None and abs(after / before - expected) > 1e-3 * max(1, expected):
                return False
    return True
