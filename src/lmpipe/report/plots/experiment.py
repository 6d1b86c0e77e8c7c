"""Plots and table of one experiment: learning curves over steps and over time, and final losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lmpipe.analysis.results import ExperimentRuns
from lmpipe.analysis.runs import Run
from lmpipe.analysis.statistics import mean_interval
from lmpipe.report.plots.style import (
    DASHES,
    FOREGROUND,
    MARKERS,
    STYLE,
    Drawing,
    label_axes,
    legend_below,
    legend_rows,
    new_figure,
    number_text,
    palette,
    scale_axis,
)

MAX_LEGEND_ENTRIES = 12
MAX_RUNS_WITH_TRAIN_LOSS = 8
MAX_POINTS = 110
LOSS_LABEL = "validation loss (nats per token)"
SETTING_LABELS = {
    "max_lr": "peak learning rate",
    "batch_size": "sequences in a batch",
    "vocab_size": "vocabulary, ids",
    "context_length": "context, tokens",
    "total_tokens": "training tokens",
}
# Approximate width of the axes and of a digit of their ticks, in points, to decide if all ticks have room.
AXES_POINTS, DIGIT_POINTS = 240.0, 5.9
CROSS = {"markersize": 7, "markeredgewidth": 1.8, "clip_on": False, "zorder": 5}


def plot_experiment(experiment: ExperimentRuns, folder: str | Path) -> None:
    """Write the plots of an experiment (SVG and CSV) and table.csv into a folder."""
    experiment.write_table(Path(folder) / "table.csv")
    for name, drawing in draw_experiment(experiment).items():
        drawing.save(Path(folder) / f"{name}.svg")


def draw_experiment(experiment: ExperimentRuns) -> dict[str, Drawing]:
    """Return the plots of an experiment by name: loss_by_step, loss_by_time and final_loss."""
    curves = [read_curve(run) for run in experiment.runs]
    with matplotlib.rc_context(STYLE):
        return {
            "loss_by_step": draw_curves(experiment, curves, by_time=False),
            "loss_by_time": draw_curves(experiment, curves, by_time=True),
            "final_loss": draw_final_loss(experiment),
        }


@dataclass(frozen=True)
class Curve:
    """Losses of one run as lists of (step, training seconds, loss); training losses are means over bins of steps."""

    run: Run
    validation: list[tuple[float, float, float]]
    train: list[tuple[float, float, float]]
    last_point: tuple[float, float]


def read_curve(run: Run) -> Curve:
    """Read the metrics of a run, reduced to the points that a plot can show."""
    table = run.metrics().fillna({"wall_seconds": 0.0})
    validation, train = (
        list(table[["step", "wall_seconds", loss]].dropna().itertuples(index=False, name=None))
        for loss in ("validation_loss", "train_loss")
    )
    return Curve(run, validation, bin_means(train), tuple(table[["step", "wall_seconds"]].iloc[-1].tolist()))


def bin_means(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Return means over at most MAX_POINTS groups of neighbouring points."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(fmean(column) for column in zip(*group, strict=True)) for group in groups]


@dataclass(frozen=True)
class AxisView:
    """Axes of learning curves: over steps (column 0) or time (column 1), its unit, and the highest visible loss."""

    column: int
    unit_seconds: float
    high: float
    with_train_loss: bool

    def coordinates(self, points: list[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
        """Return the coordinates of points of (step, seconds, loss)."""
        return [point[self.column] / self.unit_seconds for point in points], [point[2] for point in points]


def draw_curves(experiment: ExperimentRuns, curves: list[Curve], *, by_time: bool) -> Drawing:
    """Draw validation losses of every run over steps or training time, with faint training losses."""
    names, styles = experiment.names(), run_styles(experiment)
    labels = {name: run_label(experiment, name) for name in names_in_legend(experiment)}
    omission = [f"and {len(names) - len(labels)} more (see the table)"] if len(names) > len(labels) else []
    unit, unit_seconds = time_unit(max(curve.last_point[1] for curve in curves)) if by_time else ("", 1.0)
    low, high = loss_range(curves)
    view = AxisView(int(by_time), unit_seconds, high, with_train_loss=len(names) <= MAX_RUNS_WITH_TRAIN_LOSS)
    figure, ax = new_figure(legend_rows([*labels.values(), *omission]))
    for name in names:
        draw_seeds(ax, [curve for curve in curves if curve.run.name == name], styles[name], labels.get(name), view)
    lengths = [curve.last_point[0] for curve in curves if curve.run.status != "diverged"]
    log = not by_time and bool(lengths) and max(lengths) > 10 * min(lengths)
    scale_axis(ax, "x", log)
    if not log:
        ax.set_xlim(left=0)
    ax.set_ylim(low, high)
    label_axes(ax, f"training time ({unit})" if by_time else "steps", LOSS_LABEL, note=curves_note(curves, view))
    for label in omission:
        ax.plot([], [], color="none", label=label)
    if len(names) > 1:
        legend_below(figure, ax)
    columns = ("run", "seed", "seconds" if by_time else "step", "training loss", "validation loss")
    return Drawing.of(figure, columns, curve_rows(curves, view))


def curve_rows(curves: list[Curve], view: AxisView) -> list[tuple[Any, ...]]:
    """Return rows of run, seed, step or seconds, mean training loss, validation loss."""
    rows = []
    for curve in curves:
        train = curve.train if view.with_train_loss else []
        points = [(point[view.column], point[2], None) for point in train]
        points += [(point[view.column], None, point[2]) for point in curve.validation]
        rows += [(curve.run.name, curve.run.seed, *point) for point in sorted(points, key=lambda point: point[0])]
    return rows


def draw_seeds(ax: Axes, curves: list[Curve], style: dict[str, Any], label: str | None, view: AxisView) -> None:
    """Draw the seeds of one run: mean as a line, seeds thin, training loss faint, a cross where one diverged."""
    for curve in curves:
        diverged = curve.run.status == "diverged"
        if view.with_train_loss:
            ax.plot(*view.coordinates(curve.train), color=style["color"], linewidth=0.6, alpha=0.3)
        if len(curves) > 1 or diverged:
            ax.plot(*view.coordinates(curve.validation), **style | {"linewidth": 0.8}, alpha=0.55)
        if diverged:
            last = (curve.validation or curve.train or [(*curve.last_point, view.high)])[-1][2]
            xs, ys = view.coordinates([(*curve.last_point, min(last, view.high))])
            ax.plot(xs, ys, "x", color=style["color"], **CROSS)
    whole = [curve.validation for curve in curves if curve.run.status != "diverged"]
    mean = [tuple(fmean(column) for column in zip(*points, strict=True)) for points in zip(*whole, strict=False)]
    ax.plot(*view.coordinates(mean), label=label, **style)


def loss_range(curves: list[Curve]) -> tuple[float, float]:
    """Return limits of the loss axis that show the second part of finished runs; diverged runs do not stretch it."""
    finished = [curve for curve in curves if curve.run.status == "finished" and curve.validation]
    well = finished or [curve for curve in curves if curve.validation]
    if not well:
        return 0.0, 1.0
    low = min(loss for curve in well for *_, loss in curve.validation)
    # The first loss of each run after 15 % of its steps.
    early = [
        next(loss for step, _, loss in curve.validation if step >= 0.15 * curve.validation[-1][0]) for curve in well
    ]
    high = max(*(curve.validation[-1][2] for curve in well), median(early), low + 0.1)
    margin = 0.06 * (high - low)
    return low - margin, high + 2 * margin


def curves_note(curves: list[Curve], view: AxisView) -> str:
    """Return the legend of faint lines, crosses, and losses outside the axes."""
    notes = ["faint: training loss"] if view.with_train_loss else []
    if len({(curve.run.name, curve.run.seed) for curve in curves}) > len({curve.run.name for curve in curves}):
        notes.append("thick: mean over seeds")
    if any(curve.run.status == "diverged" for curve in curves):
        notes.append("×: diverged there")
    if any(loss > view.high for curve in curves for *_, loss in (*curve.validation, *curve.train)):
        notes.append(f"losses above {view.high:.2f} lie outside")
    return "; ".join(notes)


def draw_final_loss(experiment: ExperimentRuns) -> Drawing:
    """Draw the final losses: over the swept setting, a second one as series; otherwise a row of dots for each run."""
    measure, label = experiment.ranking_metric() or "bits_per_byte", f"final {LOSS_LABEL}"
    if measure == "bits_per_byte":
        differ = "texts" if experiment.ranking_metric() is None else "tokens"
        label = f"final bits per byte (the runs' {differ} differ)"
    settings = experiment.swept_settings()
    arguments = (experiment, measure, label)
    figure = sweep_figure(*arguments, settings) if settings else dots_figure(*arguments)
    return Drawing.of(figure, ("run", "seed", "status", *settings, label), final_rows(experiment, settings, measure))


def final_rows(experiment: ExperimentRuns, settings: list[str], measure: str) -> list[tuple[Any, ...]]:
    """Return rows of run, seed, status, swept settings, and the loss if the run finished."""
    return [
        (
            run.name,
            run.seed,
            run.status,
            *map(run.setting, settings),
            getattr(run.summary, measure) if run.status == "finished" else None,
        )
        for run in experiment.runs
    ]


def sweep_figure(experiment: ExperimentRuns, measure: str, label: str, settings: list[str]) -> Figure:
    """Return a figure of the final loss over one numeric setting; values of a second one are the series."""
    across = "max_lr" if "max_lr" in settings else settings[-1]
    second = next((key for key in settings if key != across), None)
    groups: dict[Any, list[str]] = {}
    for name in experiment.names():
        groups.setdefault(experiment.setting(name, second) if second else None, []).append(name)
    labels = {value: f"{second} = {number_text(value)}" if second else "" for value in groups}
    figure, ax = new_figure(legend_rows(list(labels.values())))
    finals = {name: experiment.finished_values(name, measure) for name in experiment.names()}
    bottom, top = final_range(finals)
    ax.set_ylim(bottom, top)
    if not any(finals.values()):
        ax.set_yticks([])
    colours = palette(len(groups))
    positions = {name: experiment.setting(name, across) for name in experiment.names()}
    for index, (value, names) in enumerate(sorted(groups.items(), key=lambda item: item[0] or 0)):
        style = {"color": colours[index % len(colours)], "marker": MARKERS[index % len(MARKERS)]}
        draw_sweep(ax, {name: positions[name] for name in sorted(names, key=positions.get)}, finals, style)
        ax.plot([], [], label=labels[value], markersize=4.5, **style)
    mark_failures(ax, experiment, top, positions)
    values = sorted(set(positions.values()))
    log_x = values[0] > 0 and values[-1] >= 4 * values[0]
    scale_axis(ax, "x", log_x)
    if ticks_fit(values, log_x):
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_minor_locator(NullLocator())
    label_axes(ax, axis_name(across), label, note=failures_note(experiment))
    if second:
        legend_below(figure, ax)
    return figure


def axis_name(setting: str) -> str:
    """Return the name of a swept setting with its key in a study file.

    >>> axis_name("max_lr"), axis_name("d_model")
    ('peak learning rate (max_lr)', 'd_model')
    """
    return f"{SETTING_LABELS[setting]} ({setting})" if setting in SETTING_LABELS else setting


def ticks_fit(values: Sequence[float], log: bool) -> bool:
    """Return True if ticks at all of these ascending values are readable next to each other.

    >>> ticks_fit([0.001, 0.01, 0.1], log=True), ticks_fit([0.003536, 0.005, 1.0], log=True)
    (True, False)
    """
    positions = [math.log(value) if log else value for value in values]
    unit = 0.9 * AXES_POINTS / ((positions[-1] - positions[0]) or 1.0)
    widths = [DIGIT_POINTS * (len(number_text(value)) + 1) for value in values]
    gaps = ((second - first) * unit for first, second in pairwise(positions))
    return all(gap >= sum(pair) / 2 for gap, pair in zip(gaps, pairwise(widths), strict=True))


def draw_sweep(ax: Axes, positions: dict[str, float], finals: dict[str, list[float]], style: dict[str, Any]) -> None:
    """Draw one series of a sweep: a line through the means, each seed as a dot, 95 % intervals of several seeds."""
    finished = {name: position for name, position in positions.items() if finals[name]}
    ax.plot(finished.values(), [fmean(finals[name]) for name in finished], markersize=4.5, **style)
    for name, x in finished.items():
        interval = mean_interval(finals[name])
        if interval.bounds:
            ax.plot([x] * interval.count, finals[name], "o", color=style["color"], markersize=2.5, alpha=0.5)
            ax.errorbar([x], [interval.mean], [interval.half_width], color=style["color"], linewidth=0.9, capsize=2)


def dots_figure(experiment: ExperimentRuns, measure: str, label: str) -> Figure:
    """Return a figure with a row for each run: seeds as rings, mean and 95 % interval, failures at the right edge.

    The names are above the rows, so that long ones take no width from the axis.
    """
    names = experiment.names()
    figure, ax = new_figure(0, 1.05 + 0.36 * len(names))
    finals = {name: experiment.finished_values(name, measure) for name in names}
    left, right = final_range(finals)
    ax.set_xlim(left, right)
    colours = palette(len(names))
    for row, name in enumerate(names):
        colour = colours[row % len(colours)]
        above = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        ax.annotate(run_label(experiment, name), (0, row), (3, 6), **above)
        ax.plot(finals[name], [row] * len(finals[name]), "o", color=colour, markersize=5, fillstyle="none")
        if len(finals[name]) > 1:
            interval = mean_interval(finals[name])
            ax.errorbar([interval.mean], [row], xerr=[interval.half_width], color=colour, linewidth=1.2, capsize=2.5)
            ax.plot([interval.mean], [row], "D", color=colour, markersize=4.5)
        failed = [status for status in experiment.statuses(name) if status != "finished"]
        if failed:
            ax.plot([right], [row], "x", color=colour, **CROSS)
            text = f"{failed[0]} ({len(failed)} of {len(experiment.statuses(name))})"
            ax.annotate(text, (right, row), (-8, 0), textcoords="offset points", ha="right", va="center")
    ax.set_yticks([])
    ax.set_ylim(len(names) - 0.5, -0.8)
    ax.grid(visible=False, axis="y")
    several = any(len(values) > 1 for values in finals.values())
    label_axes(ax, label, "", note="○ seeds; ◆ their mean with its 95 % interval" if several else "")
    return figure


def mark_failures(ax: Axes, experiment: ExperimentRuns, top: float, positions: dict[str, float]) -> None:
    """Put a cross (diverged) or an open square (not_learning) at the upper edge above each failed run."""
    for name in experiment.names():
        statuses = set(experiment.statuses(name))
        if "diverged" in statuses:
            ax.plot([positions[name]], [top], "x", color=FOREGROUND, **CROSS)
        elif "not_learning" in statuses:
            ax.plot([positions[name]], [top], "s", color=FOREGROUND, **CROSS | {"markersize": 6}, fillstyle="none")


def failures_note(experiment: ExperimentRuns) -> str:
    """Return the legend of the marks at the upper edge."""
    statuses = {run.status for run in experiment.runs}
    notes = {"diverged": "× at the top: diverged", "not_learning": "□ at the top: stuck at the unigram entropy"}
    return "; ".join(text for status, text in notes.items() if status in statuses)


def final_range(finals: dict[str, list[float]]) -> tuple[float, float]:
    """Return limits around all values, and around their intervals up to the spread of the values."""
    points = list(chain(*finals.values())) or [0.0, 1.0]
    span = max(max(points) - min(points), 0.02)
    bounds = [bound for values in finals.values() if len(values) > 1 for bound in mean_interval(values).bounds]
    low = min(points) - min(max(0.0, min(points) - min(bounds, default=math.inf)), span) - 0.08 * span
    high = max(points) + min(max(0.0, max(bounds, default=-math.inf) - max(points)), span) + 0.14 * span
    return low, high


def run_styles(experiment: ExperimentRuns) -> dict[str, dict[str, Any]]:
    """Return colour and dashes of each run; in a sweep over two settings, one is the colour and one the dashes."""
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
    """Return the label of a run: in a sweep its settings with their numbers, otherwise its name."""
    settings = experiment.swept_settings()
    if not settings:
        return name
    return ", ".join(f"{key} {number_text(experiment.setting(name, key))}" for key in settings)


def names_in_legend(experiment: ExperimentRuns) -> list[str]:
    """Return all runs if they are few, otherwise those with the lowest final losses, in the order of the study."""
    names = experiment.names()
    if len(names) <= MAX_LEGEND_ENTRIES:
        return names
    measure = experiment.ranking_metric()
    means = {name: experiment.mean_loss(name, measure) if measure else None for name in names}
    ranked = sorted(names, key=lambda name: math.inf if means[name] is None else means[name])
    best = set(ranked[: MAX_LEGEND_ENTRIES - 1])
    return [name for name in names if name in best]


def time_unit(longest_seconds: float) -> tuple[str, float]:
    """Return a unit of time for an axis, and its length in seconds."""
    if longest_seconds >= 7200:
        return "h", 3600.0
    return ("min", 60.0) if longest_seconds >= 180 else ("s", 1.0)
