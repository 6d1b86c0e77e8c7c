import math
from statistics import mean, stdev

import pytest

from lmpipe.analysis.statistics import T_QUANTILES, Interval, describe_difference, mean_interval, paired_difference


def student_t_probability(t: float, degrees: int, steps: int = 20_000) -> float:
    """P(-t < T < t) by Simpson's rule over the density of Student's t."""
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    width = 2 * t / steps
    heights = [(1 + (-t + i * width) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(steps + 1)]
    return scale * width / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 30])
def test_quantiles_are_the_95_percent_points_of_students_t_to_three_decimals(degrees):
    below, above = (student_t_probability(T_QUANTILES[degrees - 1] + shift, degrees) for shift in (-5e-4, 5e-4))
    assert below <= 0.95 <= above


def test_quantiles_beyond_the_table_are_never_too_small():
    for count in (32, 60):
        values = [0.0, 1.0] * (count // 2)
        quantile = mean_interval(values).half_width / (stdev(values) / math.sqrt(count))
        assert student_t_probability(quantile, count - 1) >= 0.95


def test_mean_interval_of_three_values():
    values = [2.0, 2.5, 2.1]
    half_width = 4.303 * stdev(values) / math.sqrt(3)
    low, high = mean_interval(values).bounds
    assert (low + high) / 2 == pytest.approx(mean(values))
    assert (high - low) / 2 == pytest.approx(half_width)


def test_a_single_value_has_no_interval_and_resolves_nothing():
    interval = mean_interval([2.0])
    assert interval.bounds is None
    assert not interval.resolved


def test_paired_difference_uses_only_shared_seeds():
    difference = paired_difference({0: 2.5, 1: 2.6, 2: 9.0}, {0: 2.0, 1: 2.0, 3: 0.0})
    assert difference.count == 2
    assert difference.mean == pytest.approx(0.55)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairing_resolves_what_the_spread_over_seeds_hides():
    baseline = {0: 2.0, 1: 2.4, 2: 2.8}
    changed = {seed: loss + 0.05 + 0.001 * seed for seed, loss in baseline.items()}
    assert paired_difference(changed, baseline).resolved


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Interval(0.031, 0.012, 3), "higher by 0.031 nats per token (95 % interval 0.019 to 0.043, 3 seeds)"),
        (Interval(-0.031, 0.012, 3), "lower by 0.031 nats per token (95 % interval 0.019 to 0.043, 3 seeds)"),
        (Interval(0.01, 0.012, 3), "not resolved with 3 seeds (95 % interval −0.002 to +0.022 nats per token)"),
        (Interval(-0.24, math.inf, 1), "lower by 0.240 nats per token (one seed, so no interval)"),
        (Interval(0.0, math.inf, 1), "no different (one seed, so no interval)"),
        (Interval(0.0, 0.0, 3), "no different (equal with each of 3 seeds)"),
        (Interval(0.0004, 0.0001, 3), "higher by 0.00040 nats per token (95 % interval 0.00030 to 0.00050, 3 seeds)"),
    ],
)
def test_words_never_claim_more_than_the_seeds_resolve(difference, words):
    assert describe_difference(difference) == words
