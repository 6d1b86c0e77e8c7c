"""The plots and the table of one experiment: learning curves over steps and over time, and final losses.

Beside each plot lies a CSV file of the numbers that it shows.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lmpipe.analysis.results import ExperimentRuns, Run
from lmpipe.analysis.statistics import mean_interval
from lmpipe.io.files import atomic_write
from lmpipe.report.plots.common import (
    DASHES,
    MARKERS,
    STYLE,
    legend_below,
    legend_rows,
    name_axes,
    new_figure,
    number_text,
    save,
    scale_axis,
)
from lmpipe.report.plots.palette import INK, palette

LEGEND_ENTRIES = 12
FAINT_LINES = 8
BINS = 110
NATS = "validation loss (nats per token)"
SETTINGS_IN_WORDS = {
    "max_lr": "peak learning rate",
    "batch_size": "sequences in a batch",
    "vocab_size": "vocabulary, ids",
    "context_length": "context, tokens",
    "total_tokens": "training tokens",
}
# Width of the axes and of a digit of their ticks, in points: whether labels have room is decided before they are drawn.
AXES_POINTS, DIGIT_POINTS = 240.0, 5.9


def plot_experiment(experiment: ExperimentRuns, folder: str | Path) -> None:
    """Write an experiment's loss_by_step.svg, loss_by_time.svg, final_loss.svg and table.csv into a folder."""
    folder = Path(folder)
    write_table(experiment, folder / "table.csv")
    curves = [read_curve(run) for run in experiment.runs]
    plot_curves(experiment, curves, folder / "loss_by_step.svg", by_time=False)
    plot_curves(experiment, curves, folder / "loss_by_time.svg", by_time=True)
    plot_final_loss(experiment, folder / "final_loss.svg")


def write_table(experiment: ExperimentRuns, path: str | Path) -> None:
    """Write a row for each run and seed: varied settings resolved, losses, sizes and times; unknown cells are empty."""
    rows = [run.row(experiment.varied_settings()) for run in experiment.runs]
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class Curve:
    """One run's losses as lists of (step, training seconds, loss); the train losses are means over bins of steps."""

    run: Run
    validation: list[tuple[float, float, float]]
    train: list[tuple[float, float, float]]
    end: tuple[float, float]


def read_curve(run: Run) -> Curve:
    """Read a run's metrics and thin them out to what a plot can show."""
    metrics = run.metrics()
    places = list(zip(metrics["step"], metrics["wall_seconds"], strict=True))
    places = [(step, seconds or 0.0) for step, seconds in places]
    validation = zip(places, metrics["validation_loss"], strict=True)
    train = zip(places, metrics["train_loss"], strict=True)
    return Curve(
        run,
        [(*place, loss) for place, loss in validation if loss is not None],
        binned([(*place, loss) for place, loss in train if loss is not None]),
        places[-1],
    )


def binned(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Means over at most BINS groups of neighbouring points."""
    size = max(1, math.ceil(len(points) / BINS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(fmean(column) for column in zip(*group, strict=True)) for group in groups]


@dataclass(frozen=True)
class View:
    """How curves are shown: over steps (column 0) or time (column 1), in which unit, up to which loss."""

    column: int
    unit_seconds: float
    high: float
    with_train_loss: bool

    def line(self, points: list[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
        """The coordinates of a list of (step, seconds, loss)."""
        return [point[self.column] / self.unit_seconds for point in points], [point[2] for point in points]


def plot_curves(experiment: ExperimentRuns, curves: list[Curve], path: str | Path, *, by_time: bool) -> None:
    """Draw validation losses of every run over steps or training time, with the train losses faint beneath."""
    names, looks = experiment.names(), run_looks(experiment)
    labels = {name: run_label(experiment, name) for name in names_in_legend(experiment)}
    more = [f"and {len(names) - len(labels)} more (see the table)"] if len(names) > len(labels) else []
    unit, unit_seconds = time_unit(max(curve.end[1] for curve in curves)) if by_time else ("", 1.0)
    low, high = loss_range(curves)
    view = View(int(by_time), unit_seconds, high, with_train_loss=len(names) <= FAINT_LINES)
    with matplotlib.rc_context(STYLE):
        figure, ax = new_figure(legend_rows([*labels.values(), *more]))
        for name in names:
            group = [curve for curve in curves if curve.run.name == name]
            draw_group(ax, group, looks[name], labels.get(name), view)
        lengths = [curve.end[0] for curve in curves if curve.run.status != "diverged"]
        log = not by_time and bool(lengths) and max(lengths) > 10 * min(lengths)
        scale_axis(ax, "x", log)
        if not log:
            ax.set_xlim(left=0)
        ax.set_ylim(low, high)
        name_axes(ax, f"training time ({unit})" if by_time else "steps", NATS, note=curves_note(curves, view))
        for label in more:
            ax.plot([], [], color="none", label=label)
        if len(names) > 1:
            legend_below(figure, ax)
        across = "seconds" if by_time else "step"
        save(figure, path, ("run", "seed", across, "training loss", "validation loss"), curve_rows(curves, view))


def curve_rows(curves: list[Curve], view: View) -> list[tuple[Any, ...]]:
    """The numbers of learning curves: run, seed, step or seconds, mean training loss up to there, validation loss."""
    rows = []
    for curve in curves:
        train = curve.train if view.with_train_loss else []
        points = [(point[view.column], point[2], None) for point in train]
        points += [(point[view.column], None, point[2]) for point in curve.validation]
        rows += [(curve.run.name, curve.run.seed, *point) for point in sorted(points, key=lambda point: point[0])]
    return rows


def draw_group(ax: Axes, group: list[Curve], look: dict[str, Any], label: str | None, view: View) -> None:
    """Draw the seeds of one run: their mean as a line, each seed thin, train loss faint, a cross where one diverged."""
    for curve in group:
        diverged = curve.run.status == "diverged"
        if view.with_train_loss:
            ax.plot(*view.line(curve.train), color=look["color"], linewidth=0.6, alpha=0.3)
        if len(group) > 1 or diverged:
            ax.plot(*view.line(curve.validation), **look | {"linewidth": 0.8}, alpha=0.55)
        if diverged:
            last = (curve.validation or curve.train or [(*curve.end, view.high)])[-1][2]
            xs, ys = view.line([(*curve.end, min(last, view.high))])
            ax.plot(xs, ys, "x", color=look["color"], markersize=7, markeredgewidth=1.8, clip_on=False, zorder=5)
    whole = [curve.validation for curve in group if curve.run.status != "diverged"]
    mean = [tuple(fmean(column) for column in zip(*points, strict=True)) for points in zip(*whole, strict=False)]
    ax.plot(*view.line(mean), label=label, **look)


def loss_range(curves: list[Curve]) -> tuple[float, float]:
    """Limits of the loss axis that show how the runs that ended well got there; diverged runs do not stretch it."""
    finished = [curve for curve in curves if curve.run.status == "finished" and curve.validation]
    well = finished or [curve for curve in curves if curve.validation]
    if not well:
        return 0.0, 1.0
    low = min(loss for curve in well for *_, loss in curve.validation)
    fifth = [first_after(curve, 0.15) for curve in well]
    high = max(*(curve.validation[-1][2] for curve in well), median(fifth), low + 0.1)
    margin = 0.06 * (high - low)
    return low - margin, high + 2 * margin


def first_after(curve: Curve, share: float) -> float:
    """The first validation loss at or after a share of the run's steps."""
    return next(loss for step, _, loss in curve.validation if step >= share * curve.validation[-1][0])


def curves_note(curves: list[Curve], view: View) -> str:
    """What the reader of learning curves must know: faint lines, crosses, and what lies outside."""
    parts = ["faint: training loss"] if view.with_train_loss else []
    if any(len({curve.run.seed for curve in curves if curve.run.name == one.run.name}) > 1 for one in curves):
        parts.append("thick: mean over seeds")
    if any(curve.run.status == "diverged" for curve in curves):
        parts.append("×: diverged there")
    if any(loss > view.high for curve in curves for *_, loss in (*curve.validation, *curve.train)):
        parts.append(f"losses above {view.high:.2f} lie outside")
    return "; ".join(parts)


def plot_final_loss(experiment: ExperimentRuns, path: str | Path) -> None:
    """Draw the final losses: over the swept setting, a second one as series; otherwise a row of dots for each run."""
    measure, label = experiment.ranking_metric() or "bits_per_byte", f"final {NATS}"
    if measure == "bits_per_byte":
        differ = "texts" if experiment.ranking_metric() is None else "tokens"
        label = f"final bits per byte (the runs' {differ} differ)"
    settings = experiment.swept_settings()
    with matplotlib.rc_context(STYLE):
        if settings:
            figure = final_loss_sweep(experiment, settings, measure, label)
        else:
            figure = final_loss_dots(experiment, measure, label)
        save(figure, path, ("run", "seed", "status", *settings, label), final_rows(experiment, settings, measure))


def final_rows(experiment: ExperimentRuns, settings: list[str], measure: str) -> list[tuple[Any, ...]]:
    """The numbers of final losses: run, seed, status, what is swept, and the loss of a run that finished."""
    return [
        (run.name, run.seed, run.status, *map(run.setting, settings), final_value(run, measure))
        for run in experiment.runs
    ]


def final_value(run: Run, measure: str) -> float | None:
    """The final loss of a run that finished."""
    return run.summary[measure] if run.status == "finished" else None


def final_loss_sweep(experiment: ExperimentRuns, settings: list[str], measure: str, label: str) -> Figure:
    """Final loss over one numeric setting; values of a second one are the series."""
    across = "max_lr" if "max_lr" in settings else settings[-1]
    second = next((key for key in settings if key != across), None)
    groups: dict[Any, list[str]] = {}
    for name in experiment.names():
        groups.setdefault(experiment.setting(name, second) if second else None, []).append(name)
    labels = {value: f"{second} = {number_text(value)}" if second else "" for value in groups}
    figure, ax = new_figure(legend_rows(list(labels.values())))
    finals = {name: final_values(experiment, name, measure) for name in experiment.names()}
    bottom, top = final_range(finals)
    ax.set_ylim(bottom, top)
    if not any(finals.values()):
        ax.set_yticks([])
    colours = palette(len(groups))
    for index, (value, names) in enumerate(sorted(groups.items(), key=lambda item: item[0] or 0)):
        look = {"color": colours[index % len(colours)], "marker": MARKERS[index % len(MARKERS)]}
        draw_sweep(
            ax, experiment, sorted(names, key=lambda name: experiment.setting(name, across)), across, finals, look
        )
        ax.plot([], [], label=labels[value], markersize=4.5, **look)
    mark_failures(ax, experiment, top, lambda name: experiment.setting(name, across))
    values = sorted({experiment.setting(name, across) for name in experiment.names()})
    log_x = values[0] > 0 and values[-1] >= 4 * values[0]
    scale_axis(ax, "x", log_x)
    if have_room(values, log_x):
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_minor_locator(NullLocator())
    name_axes(ax, axis_name(across), label, note=failures_note(experiment))
    if second:
        legend_below(figure, ax)
    return figure


def axis_name(setting: str) -> str:
    """What a swept setting is, with its unit, and its key in a study file.

    >>> axis_name("max_lr"), axis_name("d_model")
    ('peak learning rate (max_lr)', 'd_model')
    """
    return f"{SETTINGS_IN_WORDS[setting]} ({setting})" if setting in SETTINGS_IN_WORDS else setting


def have_room(values: Sequence[float], log: bool) -> bool:
    """Whether ticks at all of these ascending values can be read beside one another.

    >>> have_room([0.001, 0.01, 0.1], log=True), have_room([0.003536, 0.005, 1.0], log=True)
    (True, False)
    """
    places = [math.log(value) if log else value for value in values]
    unit = 0.9 * AXES_POINTS / ((places[-1] - places[0]) or 1.0)
    widths = [DIGIT_POINTS * (len(number_text(value)) + 1) for value in values]
    gaps = ((second - first) * unit for first, second in pairwise(places))
    return all(gap >= sum(pair) / 2 for gap, pair in zip(gaps, pairwise(widths), strict=True))


def draw_sweep(
    ax: Axes,
    experiment: ExperimentRuns,
    names: list[str],
    across: str,
    finals: dict[str, list[float]],
    look: dict[str, Any],
) -> None:
    """One series of a sweep: a line through the means, every seed as a dot, 95 % intervals where seeds allow."""
    finished = [name for name in names if finals[name]]
    xs = [experiment.setting(name, across) for name in finished]
    ax.plot(xs, [fmean(finals[name]) for name in finished], markersize=4.5, **look)
    for x, name in zip(xs, finished, strict=True):
        interval = mean_interval(finals[name])
        if interval.bounds:
            ax.plot([x] * interval.count, finals[name], "o", color=look["color"], markersize=2.5, alpha=0.5)
            ax.errorbar([x], [interval.mean], [interval.half_width], color=look["color"], linewidth=0.9, capsize=2)


def final_loss_dots(experiment: ExperimentRuns, measure: str, label: str) -> Figure:
    """A row for each run: seeds as rings, their mean a diamond with its 95 % interval, failures at the right edge.

    The names stand above the rows, so that long ones take no width from the axis.
    """
    names = experiment.names()
    figure, ax = new_figure(0, 0.9 + 0.36 * len(names) + 0.15)
    finals = {name: final_values(experiment, name, measure) for name in names}
    left, right = final_range(finals)
    ax.set_xlim(left, right)
    colours = palette(len(names))
    for row, name in enumerate(names):
        colour = colours[row % len(colours)]
        ax.annotate(
            run_label(experiment, name),
            (0, row),
            (3, 6),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )
        ax.plot(finals[name], [row] * len(finals[name]), "o", color=colour, markersize=5, fillstyle="none")
        if len(finals[name]) > 1:
            interval = mean_interval(finals[name])
            ax.errorbar([interval.mean], [row], xerr=[interval.half_width], color=colour, linewidth=1.2, capsize=2.5)
            ax.plot([interval.mean], [row], "D", color=colour, markersize=4.5)
        failed = [status for status in experiment.statuses(name) if status != "finished"]
        if failed:
            ax.plot([right], [row], "x", color=colour, markersize=7, markeredgewidth=1.8, clip_on=False)
            words = f"{failed[0]} ({len(failed)} of {len(experiment.statuses(name))})"
            ax.annotate(words, (right, row), (-8, 0), textcoords="offset points", ha="right", va="center")
    ax.set_yticks([])
    ax.set_ylim(len(names) - 0.5, -0.8)
    ax.grid(visible=False, axis="y")
    several = any(len(values) > 1 for values in finals.values())
    name_axes(ax, label, "", note="○ seeds; ◆ their mean with its 95 % interval" if several else "")
    return figure


def mark_failures(ax: Axes, experiment: ExperimentRuns, top: float, place: Callable[[str], float]) -> None:
    """Put a cross (diverged) or an open square (stuck) at the upper edge over the place of every failed run."""
    for name in experiment.names():
        statuses = set(experiment.statuses(name))
        if "diverged" in statuses:
            ax.plot([place(name)], [top], "x", color=INK, markersize=7, markeredgewidth=1.8, clip_on=False, zorder=5)
        elif "not_learning" in statuses:
            ax.plot([place(name)], [top], "s", color=INK, markersize=6, fillstyle="none", clip_on=False, zorder=5)


def failures_note(experiment: ExperimentRuns) -> str:
    """Explain the marks at the upper edge."""
    statuses = {run.status for run in experiment.runs}
    words = {"diverged": "× at the top: diverged", "not_learning": "□ at the top: stuck at the unigram entropy"}
    return "; ".join(text for status, text in words.items() if status in statuses)


def final_values(experiment: ExperimentRuns, name: str, measure: str) -> list[float]:
    """The final values of the seeds of one run that finished."""
    return list(experiment.losses(name, measure).values())


def final_range(finals: dict[str, list[float]]) -> tuple[float, float]:
    """Limits that hold every final value and, up to the values' own spread, the intervals; marks stand at the end."""
    known = [value for values in finals.values() for value in values] or [0.0, 1.0]
    span = max(max(known) - min(known), 0.02)
    bounds = [bound for values in finals.values() if len(values) > 1 for bound in mean_interval(values).bounds]
    low = min(known) - min(max(0.0, min(known) - min(bounds, default=math.inf)), span) - 0.08 * span
    high = max(known) + min(max(0.0, max(bounds, default=-math.inf) - max(known)), span) + 0.14 * span
    return low, high


def run_looks(experiment: ExperimentRuns) -> dict[str, dict[str, Any]]:
    """Colour and dashes of every run; in a sweep over two settings the colour tells one, the dashes the other."""
    names, settings = experiment.names(), experiment.swept_settings()
    if len(settings) == 2:
        second = next(key for key in settings if key != "max_lr")
        values = sorted({experiment.setting(name, second) for name in names})
        groups = {value: [name for name in names if experiment.setting(name, second) == value] for value in values}
    else:
        colours = len(palette(len(names)))
        groups = {index: names[index::colours] for index in range(min(colours, len(names)))}
    shades = palette(len(groups))
    return {
        name: {"color": shades[index % len(shades)], "linestyle": DASHES[position % len(DASHES)]}
        for index, members in enumerate(groups.values())
        for position, name in enumerate(members)
    }


def run_label(experiment: ExperimentRuns, name: str) -> str:
    """A run's name for people: in a sweep its settings with their numbers, otherwise the name."""
    settings = experiment.swept_settings()
    if not settings:
        return name
    return ", ".join(f"{key} {number_text(experiment.setting(name, key))}" for key in settings)


def names_in_legend(experiment: ExperimentRuns) -> list[str]:
    """All runs where they are few, otherwise those with the lowest final losses, in the study's order."""
    names = experiment.names()
    if len(names) <= LEGEND_ENTRIES:
        return names
    measure = experiment.ranking_metric()
    means = {name: experiment.mean_loss(name, measure) if measure else None for name in names}
    ranked = sorted(names, key=lambda name: math.inf if means[name] is None else means[name])
    best = set(ranked[: LEGEND_ENTRIES - 1])
    return [name for name in names if name in best]


def time_unit(longest_seconds: float) -> tuple[str, float]:
    """A unit of time that suits a plot, and its seconds."""
    if longest_seconds >= 7200:
        return "h", 3600.0
    return ("min", 60.0) if longest_seconds >= 180 else ("s", 1.0)
