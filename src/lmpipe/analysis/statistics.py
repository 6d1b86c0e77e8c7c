"""Means and paired differences over seeds, with 95 % confidence intervals (Student's t)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    mean: float
    """Mean of the values."""
    half_width: float
    """Half the width of the interval; infinite for a single value."""
    count: int
    """Number of values."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper end; None for a single value, which has no interval."""
        return (self.mean - self.half_width, self.mean + self.half_width) if self.count > 1 else None

    @property
    def significant(self) -> bool:
        """True if the interval excludes zero."""
        return self.count > 1 and abs(self.mean) > self.half_width

    @property
    def inconclusive(self) -> bool:
        """True if the interval includes zero; False for a single value and if all values are zero."""
        return self.count > 1 and abs(self.mean) <= self.half_width != 0


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its 95 % interval, t(n - 1) times the standard error.

    >>> mean_interval([1.0, 2.0, 3.0]).bounds
    (-0.4841..., 4.4841...)
    """
    count = len(values)
    if count < 2:
        return Interval(fmean(values), inf, count)
    # Same as scipy.stats.t.ppf; scipy.special imports in a third of the time.
    from scipy.special import stdtrit

    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Interval(fmean(values), quantile * stdev(values) / sqrt(count), count)


def paired_difference(changed: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Return changed minus baseline over the seeds that both have; None if they share none."""
    seeds = sorted(changed.keys() & baseline.keys())
    return mean_interval([changed[seed] - baseline[seed] for seed in seeds]) if seeds else None
