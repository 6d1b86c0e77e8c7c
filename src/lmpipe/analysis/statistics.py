"""Means over seeds with 95 % confidence intervals (Student's t), and the noise that seeds share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

CONFIDENCE = 0.95
# Two-sided 95 % point of the normal distribution, for means over many documents.
NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation over seeds, pooled over groups of runs that differ in nothing else."""

    sd: float
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


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean, t(n - 1) times the standard error; None for a single value.

    >>> mean_interval([1.0, 2.0, 3.0])
    (-0.4841..., 4.4841...)
    """
    if len(values) < 2:
        return None
    mean, half_width = fmean(values), t_quantile(len(values) - 1) * sqrt(variance(values) / len(values))
    return mean - half_width, mean + half_width


def two_sided_p(value: float, half_width: float, degrees: int) -> float:
    """Return the p-value of a t test against zero from half the 95 % interval; 0 or 1 for equal values.

    >>> round(two_sided_p(4.303, 4.303, 2), 3), two_sided_p(0.0, 0.0, 2)
    (0.05, 1.0)
    """
    from scipy.special import stdtr

    if not half_width:
        return 0.0 if value else 1.0
    return 2 * float(stdtr(degrees, -abs(value) / half_width * t_quantile(degrees)))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Return True for each test that is significant at 5 % together with the others (Holm 1979).

    >>> holm([0.03, 0.001, 0.02]), holm([0.03, 0.001, 0.03])
    ([True, True, True], [False, True, False])
    """
    significant = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > (1 - CONFIDENCE) / (len(p_values) - rank):
            break
        significant[index] = True
    return significant


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
