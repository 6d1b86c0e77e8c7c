"""Means over seeds with 95 % confidence intervals (Student's t), and the noise that seeds share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean, variance

CONFIDENCE = 0.95
# Two-sided 95 % point of the normal distribution, for means over many documents.
NORMAL_QUANTILE = 1.96


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


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation over seeds, pooled over groups of runs that differ in nothing else."""

    sd: float
    """Pooled standard deviation."""
    degrees: int
    """Degrees of freedom: seeds beyond the first of each group."""

    def difference_half_width(self, *counts: int) -> float:
        """Return half the 95 % interval of a difference between two means over `counts` seeds (n of both, or two ns).

        It is also the smallest difference that is significant (Fisher's least significant difference).
        """
        first, second = counts * 2 if len(counts) == 1 else counts
        return t_quantile(self.degrees) * self.sd * sqrt(1 / first + 1 / second)


def t_quantile(degrees: int) -> float:
    """Return the two-sided 95 % point of Student's t.

    >>> round(t_quantile(2), 3)
    4.303
    """
    # Same as scipy.stats.t.ppf; scipy.special imports in a third of the time.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its 95 % interval, t(n - 1) times the standard error.

    >>> mean_interval([1.0, 2.0, 3.0]).bounds
    (-0.4841..., 4.4841...)
    """
    count = len(values)
    if count < 2:
        return Interval(fmean(values), inf, count)
    return Interval(fmean(values), t_quantile(count - 1) * sqrt(variance(values) / count), count)


def pooled_noise(groups: Iterable[Sequence[float]]) -> SeedNoise | None:
    """Return the pooled standard deviation of groups of at least two values; None without any.

    >>> pooled_noise([[1.0, 3.0], [5.0, 5.0], [7.0]])
    SeedNoise(sd=1.0, degrees=2)
    """
    samples = [values for values in groups if len(values) > 1]
    degrees = sum(len(values) - 1 for values in samples)
    if not degrees:
        return None
    return SeedNoise(sqrt(sum((len(values) - 1) * variance(values) for values in samples) / degrees), degrees)
