"""Differences between arms, paired by seed, and what may be said of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .intervals import Interval, bootstrap_interval, num_for_difference, num_for_half_width, t_interval

__all__ = ["Pairs", "best_arm", "describe_interval", "describe_margin", "describe_pairs", "pair"]


@dataclass(frozen=True)
class Pairs:
    """By how much an arm is above another in one figure, seed by seed."""

    arm: str
    reference: str
    figure: str
    differences: dict[int, float]  # seed -> difference

    @property
    def values(self) -> list[float]:
        return list(self.differences.values())

    @property
    def t(self) -> Interval | None:
        return t_interval(self.values)

    @property
    def bootstrap(self) -> Interval | None:
        return bootstrap_interval(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def pair(records: Sequence[dict[str, Any]], arm: str, reference: str, figure: str = "bbox/AP") -> Pairs:
    """Pair the seeds that both arms have, of records of one data set."""
    values: dict[str, dict[int, float]] = {arm: {}, reference: {}}
    for record in records:
        if record["arm"] in values and figure in record["figures"]:
            values[record["arm"]][record["seed"]] = record["figures"][figure]
    common = sorted(values[arm].keys() & values[reference].keys())
    differences = {seed: values[arm][seed] - values[reference][seed] for seed in common}
    return Pairs(arm, reference, figure, differences)


def best_arm(records: Sequence[dict[str, Any]], arms: Sequence[str], figure: str = "bbox/AP") -> str:
    """The arm of the highest mean over the seeds that all of `arms` have; the first of equal ones, or of one.

    Raises:
        ValueError: they have no seed in common.
    """
    if len(arms) == 1:
        return arms[0]
    by_arm = {arm: {r["seed"]: r["figures"] for r in records if r["arm"] == arm} for arm in arms}
    measured = [{seed for seed, f in of_arm.items() if figure in f} for of_arm in by_arm.values()]
    common = set.intersection(*measured)
    if not common:
        raise ValueError(f"no seed has {figure} for all of {', '.join(arms)}")
    return max(arms, key=lambda arm: statistics.mean(by_arm[arm][seed][figure] for seed in common))


def describe_pairs(pairs: Pairs) -> str:
    """A sentence: the difference with its interval and what more seeds would bring, or that none is known."""
    name, num = pairs.figure.rpartition("/")[2], len(pairs.values)
    versus = f"{pairs.arm} against {pairs.reference}"
    if num == 0:
        return f"{versus}: nothing can be told yet, no seed has both."
    if pairs.t is None or pairs.deviation is None:
        return f"{versus}: nothing can be told yet, {pairs.values[0]:+.1f} {name} is one seed; train more."
    text = f"{describe_interval(pairs.t)} {name}"
    if pairs.t.low > 0 or pairs.t.high < 0:
        side = "over" if pairs.t.low > 0 else "below"
        needed = num_for_half_width(pairs.deviation, (pairs.t.high - pairs.t.low) / 4)
        more = _more(num, needed, "would halve the interval")
        return f"{pairs.arm} {text} {side} {pairs.reference}; {more}."
    needed = num_for_difference(pairs.deviation, pairs.t.mean)
    more = _more(num, needed, "would tell a difference of this size apart from 0 in four of five cases")
    return f"{versus}: not told apart, {text}; {more}."


def _more(num: int, needed: int | None, effect: str) -> str:
    """What further seeds bring, if their differences spread as those that there are."""
    if needed is None:
        return f"{num} seeds, and no number that can be trained {effect}"
    if needed <= num:  # of equal differences
        return f"{num} seeds"
    roughly = "roughly " if num < 5 else ""  # as roughly as so few tell how much they spread
    return f"{num} seeds, {roughly}{needed - num} more {effect}"


def describe_margin(pairs: Pairs, margin: float) -> str:
    """Whether an arm is shown to lose less than `margin`: the lower end of the interval is above it."""
    of = f"{margin:g} {pairs.figure.rpartition('/')[2]}"
    if pairs.t is None:
        return f"That {pairs.arm} loses less than {of} against {pairs.reference} cannot be told yet."
    if pairs.t.low > -margin:
        return f"{pairs.arm} loses less than {of} against {pairs.reference}: shown."
    if pairs.t.high < -margin:
        return f"{pairs.arm} loses more than {of} against {pairs.reference}: shown."
    return f"That {pairs.arm} loses less than {of} against {pairs.reference} is not shown."


def describe_interval(interval: Interval | None) -> str:
    """Written as +1.9 [0.4, 3.4]; "" of none."""
    return f"{interval.mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]" if interval else ""
