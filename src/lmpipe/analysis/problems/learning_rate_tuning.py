"""Problem learning_rate_tuning: plain gradient descent on a toy loss at four learning rates."""

from itertools import pairwise
from math import isnan, sqrt
from pathlib import Path

from lmpipe.analysis.finding import Finding, LinePlot, Metric, Plot, Series, Table, missing
from lmpipe.analysis.results import Results
from lmpipe.analysis.runs import read_numbers
from lmpipe.errors import InputError
from lmpipe.io.formatting import format_command, format_number, join_words

ID = "learning_rate_tuning"
TITLE = "Tuning the learning rate of a toy"
QUESTION = (
    "When SGD with a rate that decays as 1/√(step + 1) lowers the mean square of 100 weights, what becomes of the loss "
    "within ten iterations at learning rates of 1, 10, 100 and 1,000?"
)
SOURCE = "learning_rate_tuning.csv"
PLOT = "figures/learning_rate_tuning.svg"
WEIGHTS = 100

Curve = list[float | None]


def analyze(results: Results) -> Finding:
    """Return the curves and a verdict for each rate."""
    path = results.folder / SOURCE
    if not path.exists():
        return missing(f"The toy has not been trained in this study; run {format_command(path)}.")
    curves = read_curves(path)
    metrics = {
        f"final_loss_{rate:g}": Metric(
            curve[-1], "", SOURCE, missing_reason="" if curve[-1] is not None else "it overflowed"
        )
        for rate, curve in curves.items()
    }
    return Finding(
        "answered",
        metrics=metrics,
        sentences=[short_answer(curves), *(verdict_sentence(*item) for item in curves.items()), *explanation(curves)],
        tables=[losses_table(curves)],
        plots=[curves_plot(curves)],
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
        raise InputError(path, problem, "delete it and run snakemake again")
    return curves


def diverged(curve: Curve) -> bool:
    """Return True if the loss ends above its start, or is not finite."""
    return curve[-1] is None or curve[-1] > curve[0]


def short_answer(curves: dict[float, Curve]) -> str:
    """Describe the rates that work, the best one, and those that diverge."""
    working = [rate for rate, curve in curves.items() if not diverged(curve)]
    diverging = [format_number(rate) for rate, curve in curves.items() if diverged(curve)]
    fate = f"it diverges at {join_words(diverging)}" if diverging else "none of the rates diverges"
    if not working:
        return f"The loss falls at none of these rates: {fate}."
    best = min(working, key=lambda rate: curves[rate][-1])
    return (
        f"The loss falls at learning rates of {join_words([format_number(rate) for rate in working])}, "
        f"fastest at {format_number(best)}, and {fate}."
    )


def verdict_sentence(rate: float, curve: Curve) -> str:
    """Describe the course of the loss at one rate."""
    steps = len(curve) - 1
    start = f"At a rate of {format_number(rate)} the loss"
    if curve[-1] is None:
        last = max(step for step, loss in enumerate(curve) if loss is not None)
        return (
            f"{start} diverges: it is not finite any more after step {last}, where it was {format_number(curve[last])}."
        )
    if curve[-1] == 0:
        return f"{start} falls from {format_number(curve[0])} to exactly 0 in {steps} steps."
    factor = max(curve[0] / curve[-1], curve[-1] / curve[0])
    change = "diverges: it grows" if diverged(curve) else "falls"
    return (
        f"{start} {change} from {format_number(curve[0])} to {format_number(curve[-1])} in {steps} steps, "
        f"by a factor of {format_number(factor)}."
    )


def step_factor(rate: float, step: int) -> float:
    """Return the factor of update `step` (from 0) on each weight: the gradient of the mean square is 2w / WEIGHTS."""
    return 1 - 2 * rate / (WEIGHTS * sqrt(step + 1))


def explanation(curves: dict[float, Curve]) -> list[str]:
    """Explain the differences of the rates; empty unless the formula agrees with every measured step."""
    for rate, curve in curves.items():
        for step, (before, after) in enumerate(pairwise(curve)):
            expected = step_factor(rate, step) ** 2
            if before and after is not None and abs(after / before - expected) > 1e-3 * max(1, expected):
                return []
    first = join_words([f"{factor_text(rate, 0)} at {format_number(rate)}" for rate in curves])
    return [
        f"The reason is that update t, counted from 0, multiplies every weight by 1 − 2·rate/({WEIGHTS}·√(t + 1)), "
        f"which agrees with every measured step: for the first update this is {first}; above a rate of {WEIGHTS} it is "
        "beyond −1, so that the update overshoots the minimum by more than it was away from it.",
        *largest_fall(curves),
    ]


def largest_fall(curves: dict[float, Curve]) -> list[str]:
    """Describe the update that lowers the loss the most at the best rate: its factor is the nearest to 0."""
    working = [rate for rate, curve in curves.items() if not diverged(curve)]
    if not working:
        return []
    best = min(working, key=lambda rate: curves[rate][-1])
    step = min(range(len(curves[best]) - 1), key=lambda step: abs(step_factor(best, step)))
    return [
        f"At {format_number(best)}, where the loss falls the most, update {step} does the "
        "greatest part of it: its factor, "
        f"{factor_text(best, step)}, is the nearest to 0."
    ]


def factor_text(rate: float, step: int) -> str:
    """Format the factor of an update on each weight, with a minus sign."""
    return format_number(step_factor(rate, step)).replace("-", "−")


def losses_table(curves: dict[float, Curve]) -> Table:
    """Return the loss by step, one column for each rate."""
    steps = max(len(curve) for curve in curves.values())
    rows = [[step, *(curve[step] if step < len(curve) else None for curve in curves.values())] for step in range(steps)]
    return Table("Loss after so many updates", ["step", *(f"rate {format_number(rate)}" for rate in curves)], rows)


def curves_plot(curves: dict[float, Curve]) -> Plot:
    """Loss by step on a logarithmic scale."""
    series = [Series(f"rate {format_number(rate)}", list(range(len(curve))), curve) for rate, curve in curves.items()]
    title = "The toy's loss at four learning rates" if len(curves) == 4 else "The toy's loss by learning rate"
    data = LinePlot(title, "step", "loss (mean square)", series, log_y=True, markers=True)
    ends = [
        f"rate {format_number(rate)} " + ("diverges" if diverged(curve) else "falls") for rate, curve in curves.items()
    ]
    alt = f"Loss against steps on a logarithmic scale: {join_words(ends)}."
    return Plot(PLOT, "Loss of the SGD toy by step, for each learning rate (logarithmic scale).", alt, data)
