"""Intervals of a mean, and how many values a given interval takes. All confidences are 95%."""

import math
import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

__all__ = [
    "Interval",
    "bootstrap_interval",
    "check_scipy",
    "detectable_difference",
    "half_width",
    "num_for_difference",
    "num_for_half_width",
    "t_interval",
]

MAX_NUM = 1000  # of seeds that anyone would train
_POWER = 0.8  # of five comparisons four find what is there


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def check_scipy() -> None:
    """Raise ImportError, saying what to install, unless there is scipy: without it there are no intervals."""
    if find_spec("scipy") is None:
        raise ImportError('the interval over seeds needs scipy: pip install "ohem_d2[compare]"')


def half_width(deviation: float, num: int) -> float:
    """Half of Student's interval of the mean of `num` >= 2 values of standard deviation `deviation`.

    Raises:
        ImportError: there is no scipy.
    """
    return _t(0.975, num - 1) * deviation / math.sqrt(num)


def t_interval(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean, half = statistics.mean(values), half_width(statistics.stdev(values), len(values))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(values: Sequence[float]) -> Interval | None:
    """The bias-corrected and accelerated bootstrap of the mean (BCa); None of fewer than three values.

    Of few values it is too narrow, and is there to be compared with Student's. Of equal values it is their
    mean. The resampling is the same on every call.
    """
    if len(values) < 3:
        return None
    mean = statistics.mean(values)
    if len(set(values)) == 1:
        return Interval(mean, mean, mean)
    check_scipy()
    from scipy.stats import bootstrap  # slow to import

    found = bootstrap([np.asarray(values)], np.mean, rng=np.random.default_rng(0)).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def num_for_half_width(deviation: float, half: float) -> int | None:
    """The least number of values for an interval of at most `half` to either side; None: too many.

    Student's quantile falls with the number: half of the width takes fewer than four times the values where
    they are few.
    """
    return next((n for n in range(2, MAX_NUM) if half_width(deviation, n) <= half), None)


def detectable_difference(deviation: float, num: int) -> float:
    """The difference that is told apart from 0 in four of five comparisons of `num` >= 2 pairs.

    Args:
        deviation: standard deviation of a paired difference.
        num: pairs.
    """
    check_scipy()
    from scipy.optimize import brentq

    most = 2 * (_t(0.975, num - 1) + _t(0.8, num - 1))
    shift = brentq(lambda shift: _power(shift, num) - _POWER, 0, most)
    return float(shift) * deviation / math.sqrt(num)


def num_for_difference(deviation: float, difference: float) -> int | None:
    """The least number of pairs that tells `difference` apart from 0 in four of five comparisons.

    None: too many.
    """
    if deviation == 0:
        return 2
    shift = abs(difference) / deviation
    return next((n for n in range(2, MAX_NUM) if _power(shift * math.sqrt(n), n) >= _POWER), None)


def _power(shift: float, num: int) -> float:
    """How often Student's test of `num` values finds a mean that is `shift` standard errors above 0."""
    check_scipy()
    from scipy.stats import nct

    return float(nct.sf(_t(0.975, num - 1), num - 1, shift))


def _t(probability: float, degrees: int) -> float:
    check_scipy()
    from scipy.stats import t as student_t  # slow to import, and one seed needs none

    return float(student_t.ppf(probability, degrees))
