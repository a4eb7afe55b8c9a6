import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs SciPy")

from ohem_d2.comparison.costs import at_equal_cost, render_costs, value_at


def record(arm, seed, curve, seconds=1.0):
    return {"arm": arm, "seed": seed, "curve": curve, "figures": {"seconds_per_iteration": seconds}}


def test_a_curve_is_read_between_its_points_and_not_beyond():
    curve = [[100, 10.0], [200, 30.0]]
    assert [value_at(curve, at) for at in (100, 125, 200)] == [10, 15, 30]
    assert value_at(curve, 99) is None and value_at(curve, 201) is None and value_at([], 1) is None


def test_the_dearer_arm_is_read_where_it_has_cost_what_the_cheaper_one_costs_in_all():
    records = [record("plain", 0, [[100, 10.0], [200, 20.0]]), record("ohem", 0, [[100, 12.0], [200, 26.0]])]
    # plain costs 200 in all; ohem, at 1.6 an iteration, has cost that after 125: 12 + 0.25 * 14.
    assert at_equal_cost(records, {"plain": 1.0, "ohem": 1.6}) == (
        200.0,
        {"plain": {0: 20.0}, "ohem": {0: 15.5}},
    )
    # At 2.5 an iteration it is 80 iterations, before the first test.
    assert at_equal_cost(records, {"plain": 1.0, "ohem": 2.5}) == (200.0, {"plain": {0: 20.0}})
    assert at_equal_cost(records, {"ohem": 2.0}) == (400.0, {"ohem": {0: 26.0}})
    assert at_equal_cost(records, {}) == (0.0, {})


def test_the_cheapest_arm_is_read_at_its_end_whatever_the_rounding():
    for cost in np.random.default_rng(0).uniform(0.1, 2, 1000):
        _, values = at_equal_cost([record("a", 0, [[100, 1.0], [1003, 2.0]])], {"a": cost})
        assert values == {"a": {0: 2.0}}


def test_a_cost_that_no_arm_has_is_no_column():
    records = [record("a", 0, [[100, 1.0], [200, 2.0]])]
    assert render_costs(records, "a", {}).splitlines()[0] == "| arm | AP at 200 s |"


def test_the_table_has_both_costs_with_paired_differences():
    records = [record("plain", s, [[100, 10.0 + s], [200, 20.0 + s]], 0.5) for s in range(3)]
    records += [record("ohem", s, [[100, 12.0 + s], [200, 26.0 + 2 * s]], 0.8) for s in range(3)]
    table = render_costs(records, "plain", {"plain": 10.0, "ohem": 10.0}).splitlines()
    assert table[0] == "| arm | AP at 100 s | AP at 2000 GFLOP |"
    assert table[2] == "| plain | 21.0 | 21.0 |"
    # At 100 s ohem has done 125 iterations: 12 + s + 0.25 (14 + s) = 15.5 + 1.25 s, less 20 + s: -4.5, -4.25,
    # -4, of standard deviation 0.25: 2.4841 * 0.25 = 0.62. At equal operations 26 + 2 s less 20 + s: 6, 7, 8.
    assert table[3] == "| ohem | 16.8 (-4.2 [-4.9, -3.6]) | 28.0 (+7.0 [4.5, 9.5]) |"


def test_runs_that_were_tested_once_are_not_compared():
    assert "TEST.EVAL_PERIOD" in render_costs([record("a", 0, [[100, 1.0]])], "a", {})
    assert "TEST.EVAL_PERIOD" in render_costs([{"arm": "a", "seed": 0, "figures": {}}], "a", {})
