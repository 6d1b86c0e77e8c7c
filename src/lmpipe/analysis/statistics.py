"""Means and paired differences over seeds, with 95 % intervals (Student's t), and the words for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf, log10, sqrt
from statistics import fmean, stdev

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; the last one serves for all beyond it, where
# the true ones are a little smaller.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
               2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
               2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values and the half width of its 95 % interval (infinite for a single value)."""

    mean: float
    half_width: float
    count: int

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper end; None for a single value, which has no interval."""
        return (self.mean - self.half_width, self.mean + self.half_width) if self.count > 1 else None

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.count > 1 and abs(self.mean) > self.half_width

    @property
    def unresolved(self) -> bool:
        """Whether several values leave the direction open; equal ones, which are all zero, do not."""
        return self.count > 1 and abs(self.mean) <= self.half_width != 0


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its 95 % interval.

    >>> mean_interval([1.0, 2.0, 3.0]).bounds
    (-0.4843..., 4.4843...)
    """
    count = len(values)
    if count < 2:
        return Interval(fmean(values), inf, count)
    quantile = T_QUANTILES[min(count - 1, len(T_QUANTILES)) - 1]
    return Interval(fmean(values), quantile * stdev(values) / sqrt(count), count)


def paired_difference(changed: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Changed minus baseline over the seeds that both have; None where they share none."""
    seeds = sorted(changed.keys() & baseline.keys())
    return mean_interval([changed[seed] - baseline[seed] for seed in seeds]) if seeds else None


def describe_difference(difference: Interval, unit: str = "nats per token") -> str:
    """A difference in words, which never claim more than its seeds resolve.

    >>> describe_difference(Interval(0.031, 0.012, 3))
    'higher by 0.031 nats per token (95 % interval 0.019 to 0.043, 3 seeds)'
    """
    low, high = difference.bounds or (difference.mean, difference.mean)
    places = decimals(max(abs(low), abs(high)))
    if difference.unresolved:
        bounds = f"{low:+.{places}f} to {high:+.{places}f}".replace("-", "−")
        return f"not resolved with {difference.count} seeds (95 % interval {bounds} {unit})"
    if difference.mean == 0:
        seeds = "one seed, so no interval" if difference.count == 1 else f"equal with each of {difference.count} seeds"
        return f"no different ({seeds})"
    if difference.mean < 0:
        low, high = -high, -low
    size = f"{'higher' if difference.mean > 0 else 'lower'} by {abs(difference.mean):.{places}f} {unit}"
    if difference.bounds is None:
        return f"{size} (one seed, so no interval)"
    return f"{size} (95 % interval {low:.{places}f} to {high:.{places}f}, {difference.count} seeds)"


def decimals(largest: float) -> int:
    """Decimals that show at least two digits of the largest of some numbers, and three places.

    >>> decimals(1.5), decimals(0.0004)
    (3, 5)
    """
    return max(3, 1 - floor(log10(largest))) if largest else 3
