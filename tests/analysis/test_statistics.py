import math

import numpy as np
import pytest
import scipy.stats

from lmpipe.analysis.problems.run_summary import describe_difference
from lmpipe.analysis.statistics import Interval, mean_interval, paired_difference

# Two-sided 95 % points of Student's t for 1, 2, 3, 10 and 30 degrees of freedom, from a printed table.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 10: 2.228, 30: 2.042}


@pytest.mark.parametrize(("degrees", "quantile"), T_TABLE.items())
def test_half_width_uses_the_quantiles_of_students_t(degrees, quantile):
    values = np.random.default_rng(degrees).normal(2.0, 0.1, degrees + 1)
    standard_error = values.std(ddof=1) / math.sqrt(len(values))
    assert mean_interval(list(values)).half_width / standard_error == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("count", [2, 3, 5, 32, 60])
def test_mean_interval_equals_scipy_one_sample_interval(count):
    values = np.random.default_rng(count).normal(2.0, 0.1, count)
    reference = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(list(values)).bounds == pytest.approx((reference.low, reference.high), rel=1e-12)


def test_paired_difference_equals_scipy_paired_interval():
    changed, baseline = np.random.default_rng(0).normal(2.0, 0.1, (2, 4))
    reference = scipy.stats.ttest_rel(changed, baseline).confidence_interval(0.95)
    difference = paired_difference(dict(enumerate(changed)), dict(enumerate(baseline)))
    assert difference.mean == pytest.approx(float(np.mean(changed - baseline)), rel=1e-12)
    assert difference.bounds == pytest.approx((reference.low, reference.high), rel=1e-12)


def test_single_value_has_no_interval_and_is_not_significant():
    interval = mean_interval([2.0])
    assert interval.bounds is None
    assert not interval.significant
    assert not interval.inconclusive


def test_paired_difference_uses_only_shared_seeds():
    difference = paired_difference({0: 2.5, 1: 2.6, 2: 9.0}, {0: 2.0, 1: 2.0, 3: 0.0})
    assert difference.count == 2
    assert difference.mean == pytest.approx(0.55)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairing_resolves_a_difference_below_the_spread_over_seeds():
    baseline = {0: 2.0, 1: 2.4, 2: 2.8}
    changed = {seed: loss + 0.05 + 0.001 * seed for seed, loss in baseline.items()}
    assert paired_difference(changed, baseline).significant
    assert not mean_interval([changed[seed] - 2.4 for seed in changed]).significant


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
def test_description_claims_no_more_than_the_interval(difference, words):
    assert describe_difference(difference) == words
