"""Statistics against values worked out by hand and against SciPy's own tests."""

import math
import statistics

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs SciPy")
from scipy import stats

from ohem_d2.comparison import intervals
from ohem_d2.comparison.intervals import (
    bootstrap_interval,
    detectable_difference,
    half_width,
    num_for_difference,
    num_for_half_width,
    t_interval,
)


def test_students_interval_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.3027: 4.3027 / sqrt 3 = 2.4841.
    assert t_interval([1, 2, 3]) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert t_interval([1]) is None and t_interval([]) is None
    assert t_interval([2, 2, 2]) == (2, 2, 2)


def test_students_interval_is_that_of_the_paired_test_of_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 20):
        a, b = rng.normal(1, 2, n), rng.normal(0, 1, n)
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert t_interval(list(a - b))[1:] == pytest.approx((expected.low, expected.high))


def test_the_bootstrap_is_near_the_normal_interval_of_many_values_and_follows_their_skew():
    values = list(np.random.default_rng(1).normal(5, 2, 400))
    half = 1.96 * statistics.stdev(values) / 20
    mean = statistics.mean(values)
    assert bootstrap_interval(values) == pytest.approx((mean, mean - half, mean + half), abs=0.03)
    skewed = bootstrap_interval([0, 0, 0, 0, 0, 0, 0, 0, 0, 10])
    assert skewed.high - skewed.mean > skewed.mean - skewed.low


def test_the_bootstrap_of_few_or_equal_values():
    assert bootstrap_interval([1, 2]) is None
    assert bootstrap_interval([2, 2, 2]) == (2, 2, 2)
    assert bootstrap_interval([1, 2, 3, 5]) == bootstrap_interval([1, 2, 3, 5])


def test_halving_an_interval_takes_fewer_than_four_times_as_many_values():
    # t(0.975, 4) / sqrt 5 = 2.7764 / 2.2361 = 1.2417; a half of it is 0.6208.
    # t(0.975, 12) / sqrt 13 = 2.1788 / 3.6056 = 0.6043; t(0.975, 11) / sqrt 12 = 2.2010 / 3.4641 = 0.6354.
    assert half_width(1.0, 5) == pytest.approx(1.2417, abs=1e-4)
    assert num_for_half_width(1.0, half_width(1.0, 5) / 2) == 13
    assert num_for_half_width(3.0, half_width(3.0, 5) / 2) == 13
    assert num_for_half_width(1.0, half_width(1.0, 5)) == 5
    assert num_for_half_width(1.0, 1e-6) is None
    assert num_for_half_width(0.0, 0.1) == 2


@pytest.mark.parametrize("n", [2, 3, 6])
def test_what_is_detectable_is_found_in_four_of_five_comparisons(n):
    # Simulated: normal differences of this mean; how often does the interval leave out 0?
    deviation, rng = 2.0, np.random.default_rng(2)
    true = detectable_difference(deviation, n)
    drawn = rng.normal(true, deviation, (20000, n))
    low = drawn.mean(1) - stats.t.ppf(0.975, n - 1) * drawn.std(1, ddof=1) / math.sqrt(n)
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.01)
    assert num_for_difference(deviation, true * 1.001) == n == num_for_difference(deviation, -true * 1.001)
    assert num_for_difference(deviation, true * 0.999) == n + 1


def test_no_number_tells_nothing_from_nothing_and_two_do_where_nothing_spreads():
    assert num_for_difference(1.0, 0.0) is None and num_for_difference(0.0, 0.1) == 2


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(intervals, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'needs scipy: pip install "ohem_d2\[compare\]"$'):
        t_interval([1, 2])
    assert t_interval([1]) is None
