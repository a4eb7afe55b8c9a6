import pytest

pytest.importorskip("scipy", reason="needs SciPy")

from ohem_d2.comparison import best_arm, describe_margin, describe_pairs, pair
from ohem_d2.comparison.pairs import Pairs


def record(arm, seed, ap):
    return {"arm": arm, "seed": seed, "figures": {"bbox/AP": ap}}


def pairs(*differences):
    return Pairs("ohem", "plain", "bbox/AP", dict(enumerate(differences)))


def test_seeds_that_both_arms_have_are_paired():
    records = [record("b", 2, 12.0), record("a", 0, 10.0), record("a", 2, 11.5), record("b", 1, 50.0)]
    records += [record("b", 0, 9.0), {"arm": "a", "seed": 1, "figures": {}}]
    assert pair(records, "b", "a").differences == {0: -1.0, 2: 0.5}


def test_the_best_arm_is_that_of_the_seeds_that_all_have():
    records = [record("a", 0, 10.0), record("b", 0, 11.0), record("a", 1, 99.0)]
    assert best_arm(records, ["a", "b"]) == "b"
    with pytest.raises(ValueError, match="^no seed has bbox/AP for all of a, c$"):
        best_arm(records, ["a", "c"])


def test_nothing_is_told_of_no_seed_or_one():
    assert describe_pairs(pairs()) == "ohem against plain: nothing can be told yet, no seed has both."
    assert describe_pairs(pairs(2.0)) == (
        "ohem against plain: nothing can be told yet, +2.0 AP is one seed; train more."
    )


def test_a_difference_that_is_told_apart_says_what_halves_its_interval():
    # 1, 2, 3, 2, 2: mean 2, standard deviation 0.7071, half of the interval 1.2417 * 0.7071 = 0.878;
    # 13 seeds halve it (test_intervals.py).
    told = describe_pairs(pairs(1, 2, 3, 2, 2))
    assert told == "ohem +2.0 [1.1, 2.9] AP over plain; 5 seeds, 8 more would halve the interval."
    told = describe_pairs(pairs(-1, -2, -3, -2, -2))
    assert told == "ohem -2.0 [-2.9, -1.1] AP below plain; 5 seeds, 8 more would halve the interval."


def test_an_interval_that_holds_zero_is_not_told_apart():
    # -1, 0, 4: mean 1, standard deviation 2.6458, t(0.975, 2) = 4.3027: 6.572 to either side. A mean
    # of 0.378 standard deviations takes about (1.96 + 0.84)^2 / 0.378^2 = 55 values, more by t.
    told = describe_pairs(pairs(-1, 0, 4))
    start = "ohem against plain: not told apart, +1.0 [-5.6, 7.6] AP; 3 seeds, roughly "
    end = " more would tell a difference of this size apart from 0 in four of five cases."
    assert told.startswith(start) and told.endswith(end)
    assert 52 <= int(told[len(start) : -len(end)]) + 3 <= 60


def test_a_difference_of_nothing_takes_more_seeds_than_can_be_trained():
    assert "3 seeds, and no number" in describe_pairs(pairs(-1, 0, 1))


def test_a_margin_is_shown_by_the_lower_end_of_the_interval():
    # [1.1, 2.9]; the ends are 1.122 and 2.878.
    assert describe_margin(pairs(1, 2, 3, 2, 2), 1) == "ohem loses less than 1 AP against plain: shown."
    down = pairs(-1, -2, -3, -2, -2)
    assert describe_margin(down, 3) == "ohem loses less than 3 AP against plain: shown."
    assert describe_margin(down, 2.5) == "That ohem loses less than 2.5 AP against plain is not shown."
    assert describe_margin(down, 1) == "ohem loses more than 1 AP against plain: shown."
    assert describe_margin(pairs(5), 1) == "That ohem loses less than 1 AP against plain cannot be told yet."
