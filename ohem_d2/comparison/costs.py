"""AP of arms at equal cost: after equal seconds, and after equal operations of forward and backward pass."""

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .intervals import t_interval
from .pairs import describe_interval
from .tables import markdown_table

__all__ = ["at_equal_cost", "render_costs", "value_at"]

_LEGEND = (
    "AP where each arm has cost as much as the cheapest whole training, between tests by straight lines; in "
    "brackets the paired difference. Costs are of training alone, operations those of an untrained model. An "
    "arm that is cut off is inside its schedule, before the learning rate has fallen: a schedule of that "
    "length of its own would end higher."
)
_ONE_TEST = (
    "Not compared at equal cost: the runs were tested once; TEST.EVAL_PERIOD has them tested in between."
)


def value_at(curve: Sequence[Sequence[float]], iteration: float) -> float | None:
    """A curve's value between its points; None before the first and after the last."""
    iterations, values = zip(*curve) if curve else ((), ())
    if not curve or not iterations[0] <= iteration <= iterations[-1]:
        return None
    return float(np.interp(iteration, iterations, values))


def at_equal_cost(
    records: Sequence[dict[str, Any]], cost: Mapping[str, float]
) -> tuple[float, dict[str, dict[int, float]]]:
    """The values of all runs at the cost of the cheapest arm.

    Args:
        records: of ``results.json``, of one data set.
        cost: arm -> cost of an iteration; arms that have none are left out.

    Returns:
        that cost, and arm -> seed -> AP, without those not tested around it.
    """
    known = [r for r in records if r["arm"] in cost and r.get("curve")]
    if not known:
        return 0.0, {}
    whole = min(cost[r["arm"]] * r["curve"][-1][0] for r in known)
    values: dict[str, dict[int, float]] = {}
    for record in known:
        end, iteration = record["curve"][-1][0], whole / cost[record["arm"]]
        value = value_at(record["curve"], end if math.isclose(iteration, end) else iteration)
        if value is not None:
            values.setdefault(record["arm"], {})[record["seed"]] = value
    return whole, values


def render_costs(records: Sequence[dict[str, Any]], reference: str, gflop: Mapping[str, float]) -> str:
    """One row per arm: AP at equal seconds and at equal operations, and the difference to `reference`.

    A sentence instead, where the runs were tested only once.
    """
    arms = list(dict.fromkeys(record["arm"] for record in records))
    if all(len(record.get("curve", ())) < 2 for record in records):
        return _ONE_TEST
    seconds = {arm: _mean_seconds([r for r in records if r["arm"] == arm]) for arm in arms}
    costs = {
        "{:.0f} s": at_equal_cost(records, {arm: s for arm, s in seconds.items() if s is not None}),
        "{:.0f} GFLOP": at_equal_cost(records, {arm: gflop[arm] for arm in arms if arm in gflop}),
    }
    costs = {form: (whole, values) for form, (whole, values) in costs.items() if values}
    header = ["arm", *(f"AP at {form.format(whole)}" for form, (whole, _) in costs.items())]
    rows = [[arm, *(_cell(values, arm, reference) for _, values in costs.values())] for arm in arms]
    return f"{markdown_table(header, rows)}\n\n{textwrap.fill(_LEGEND, 120)}"


def _mean_seconds(records: Sequence[dict[str, Any]]) -> float | None:
    known = [
        r["figures"]["seconds_per_iteration"] for r in records if "seconds_per_iteration" in r["figures"]
    ]
    return statistics.mean(known) if known else None


def _cell(values: Mapping[str, Mapping[int, float]], arm: str, reference: str) -> str:
    of_arm, others = values.get(arm, {}), values.get(reference, {})
    if not of_arm:
        return ""
    differences = [of_arm[seed] - others[seed] for seed in sorted(of_arm.keys() & others.keys())]
    told = describe_interval(t_interval(differences)) if arm != reference else ""
    return f"{statistics.mean(of_arm.values()):.1f}" + (f" ({told})" if told else "")
