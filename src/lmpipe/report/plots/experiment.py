"""Figures and table of one experiment: learning curves and final losses of all its runs."""

import math
from pathlib import Path
from statistics import median
from typing import Any

from lmpipe.analysis.finding import Bars, FigureData, Line, Lines, RateCurve, RateCurves, RatePoint
from lmpipe.analysis.results import UNITS, ExperimentRuns
from lmpipe.analysis.runs import group_by
from lmpipe.report.plots.figures import MAX_LABELS, draw
from lmpipe.report.plots.palette import Palette
from lmpipe.report.plots.style import number_text

LOSS_LABEL = "validation loss (nats per token)"


def plot_experiment(experiment: ExperimentRuns, folder: str | Path) -> None:
    """Write the figures of an experiment (SVG and CSV) and table.csv into a folder."""
    experiment.write_table(Path(folder) / "table.csv")
    for name, data in (("learning_curves", learning_curves(experiment)), ("final_loss", final_losses(experiment))):
        draw(data, Palette()).save(Path(folder) / f"{name}.svg")


def learning_curves(experiment: ExperimentRuns) -> Lines:
    """Return validation losses against training tokens: the median of each run, and its seeds as faint lines.

    The best runs have labels; runs that diverged end where they did.
    """
    lines = []
    metric = experiment.ranking_metric() or "bits_per_byte"
    means = {name: experiment.mean_loss(name, metric) for name in experiment.names()}
    labelled = sorted(means, key=lambda name: math.inf if means[name] is None else means[name])[:MAX_LABELS]
    for name in experiment.names():
        curves = [run.validation_losses() for run in experiment.seeds_of(name)]
        if len(curves) > 1:
            lines += [Line("", name, list(curve), list(curve.values()), style="faint") for curve in curves]
        shared = [tokens for tokens in curves[0] if all(tokens in curve for curve in curves)]
        losses = [median(curve[tokens] for curve in curves) for tokens in shared]
        lines.append(Line(name.replace("_", " ") if name in labelled else "", name, shared, losses))
    return Lines("training tokens", LOSS_LABEL, lines)


def final_losses(experiment: ExperimentRuns) -> FigureData:
    """Return the final losses against the swept rate or setting, otherwise a bar for each run."""
    metric = experiment.ranking_metric() or "bits_per_byte"
    y_label, settings = f"final {UNITS[metric]}", experiment.swept_settings()
    if "max_lr" in settings:
        return rate_curves(experiment, metric, y_label, next((key for key in settings if key != "max_lr"), None))
    names = experiment.names()
    if not settings:
        finals = [experiment.losses(name, metric) for name in names]
        values = [median(losses) if losses else None for losses in finals]
        return Bars(y_label, [name.replace("_", " ") for name in names], {y_label: values}, horizontal=True)
    lines = []
    for value, members in grouped(experiment, settings[1] if len(settings) > 1 else None).items():
        points = sorted((experiment.setting(name, settings[0]), loss) for name in members for loss in
                        experiment.losses(name, metric))  # fmt: skip
        medians = {x: median(loss for at, loss in points if at == x) for x, _ in points}
        label = "" if value is None else f"{settings[1].replace('_', ' ')} {number_text(value)}"
        lines.append(Line(label, str(value), list(medians), list(medians.values())))
        lines.append(Line("", str(value), [x for x, _ in points], [loss for _, loss in points], style="points"))
    return Lines(settings[0].replace("_", " "), y_label, lines, log_x=True)


def rate_curves(experiment: ExperimentRuns, metric: str, y_label: str, second: str | None) -> RateCurves:
    """Return final losses against the peak learning rate, a curve for each value of the second setting."""
    curves = []
    for value, names in grouped(experiment, second).items():
        points = sorted((rate_point(experiment, name, metric) for name in names), key=lambda point: point.max_lr)
        whole = {point.max_lr: median(point.losses) for point in points if not point.num_failed}
        label = "final loss" if value is None else f"{second.replace('_', ' ')} {number_text(value)}"
        failing = [point.max_lr for point in points if point.num_failed]
        best, stable = (min(whole, key=whole.get), max(whole)) if whole else (None, None)
        curves.append(RateCurve(label, f"value_{value}", points, best, stable, min(failing, default=None)))
    return RateCurves(y_label, curves)


def rate_point(experiment: ExperimentRuns, name: str, metric: str) -> RatePoint:
    """Return the final losses of a run's seeds at its rate."""
    runs, losses = experiment.seeds_of(name), experiment.losses(name, metric)
    num_failed = sum(run.status != "finished" for run in runs)
    return RatePoint(runs[0].setting("max_lr"), losses, num_failed, len(runs))


def grouped(experiment: ExperimentRuns, setting: str | None) -> dict[Any, list[str]]:
    """Return the runs' names by their value of a setting, in ascending order."""
    groups = group_by(experiment.names(), lambda name: setting and experiment.setting(name, setting))
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, item[0])))
