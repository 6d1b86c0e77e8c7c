"""Sweeps over peak learning rates: the best one, its interpolation, and the edge of stability."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from lmpipe.analysis.finding import RatePoint
from lmpipe.analysis.outcomes import SeedGroup, learned_runs
from lmpipe.analysis.ranking import interpolate_rate, losses_by_rate
from lmpipe.analysis.results import ExperimentRuns, Results
from lmpipe.analysis.runs import Run, group_by
from lmpipe.study.settings import ModelConfig


@dataclass(frozen=True)
class RateSweep:
    """Outcomes of one model at several peak learning rates."""

    model: ModelConfig
    points: tuple[RatePoint, ...]
    finished: dict[float, list[float]]
    """Final losses of the full-length runs that finished, by rate."""
    unigram_entropy: float
    """Entropy of the training tokens, which a model without context reaches, in nats per token."""

    @cached_property
    def full_points(self) -> list[RatePoint]:
        """Rates whose runs have the full length and a seed that did not fail."""
        return [point for point in self.points if not point.is_short and point.losses]

    @cached_property
    def best(self) -> RatePoint | None:
        """Rate with the lowest mean loss, among those at which no seed failed."""
        safe = [point for point in self.full_points if not point.num_failed]
        return min(safe, key=lambda point: fmean(point.losses), default=None)

    @property
    def neighbours(self) -> list[RatePoint]:
        """Best rate between the next smaller and the next larger full-length one; fewer at the border of the grid."""
        grid = [point for point in self.points if not point.is_short]
        if self.best is None:
            return []
        index = grid.index(self.best)
        return grid[max(0, index - 1) : index + 2]

    @property
    def is_at_border(self) -> bool:
        """True if the best rate is the smallest or the largest one, so that a better one may be beyond."""
        return len(self.neighbours) < 3

    @property
    def interpolated(self) -> float | None:
        """Rate that `best_of` with `interpolate` takes; None if the best one has no neighbour that learned."""
        return interpolate_rate(self.finished, self.best.max_lr, self.unigram_entropy) if self.best else None

    @property
    def optimum(self) -> float | None:
        """Interpolated rate, or the best one of the grid."""
        return self.interpolated or (self.best.max_lr if self.best else None)

    @property
    def breaks_at(self) -> float | None:
        """Smallest rate above the best one at which a seed failed; None if none did."""
        start = self.best.max_lr if self.best else 0.0
        return min((point.max_lr for point in self.points if point.num_failed and point.max_lr > start), default=None)

    @property
    def stable_up_to(self) -> float | None:
        """Largest rate below the edge at which no seed failed."""
        edge = self.breaks_at or math.inf
        return max((p.max_lr for p in self.points if not p.num_failed and p.max_lr < edge), default=None)


def rate_sweep(results: Results, runs: Sequence[Run]) -> RateSweep:
    """Return the sweep of runs that differ in peak rate, seed and length; shorter ones only look for the edge."""
    full = max(run.config.training.total_tokens for run in runs)
    good = set(map(id, learned_runs(results, runs)))
    groups = group_by(runs, lambda run: (run.config.training.max_lr, run.config.training.total_tokens < full))
    points = []
    for (rate, is_short), members in sorted(groups.items(), key=lambda item: item[0]):
        losses = [run.loss for run in members if id(run) in good]
        points.append(RatePoint(rate, losses, len(members) - len(losses), len(members), is_short))
    finished = losses_by_rate(run for run in runs if run.config.training.total_tokens == full)
    return RateSweep(runs[0].config.model, tuple(points), finished, runs[0].summary.unigram_entropy)


def sweeps_by_model(results: Results, experiment: ExperimentRuns) -> dict[str, RateSweep]:
    """Return the sweeps of an experiment by the repr of their model: those models with several peak rates.

    Of each model it takes the corpus and the batch size of its first run.
    """
    sweeps = {}
    for model, runs in group_by(experiment.runs, lambda run: repr(run.config.model)).items():
        first = runs[0].config
        alike = [
            run
            for run in runs
            if (run.config.corpus, run.config.training.batch_size) == (first.corpus, first.training.batch_size)
        ]
        if len({run.config.training.max_lr for run in alike}) > 1:
            sweeps[model] = rate_sweep(results, alike)
    return sweeps


def own_sweep(results: Results, group: SeedGroup) -> RateSweep | None:
    """Return the sweep behind the peak rate of a group, or else the sweep in its experiment; None without one."""
    config = group.runs[0].config
    names = [config.lr_source.best_of] if config.lr_source else []
    for name in [*names, config.experiment]:
        experiment = results.experiment(name)
        sweep = sweeps_by_model(results, experiment).get(repr(config.model)) if experiment else None
        if sweep:
            return sweep
    return None
