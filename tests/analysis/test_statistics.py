import math

import numpy as np
import pytest
import scipy.stats

from lmpipe.analysis.statistics import mean_interval

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


def test_single_value_has_no_interval():
    assert mean_interval([2.0]).bounds is None
