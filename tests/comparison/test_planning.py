"""Planning; all times are chosen so that the sums can be done by hand."""

import json
import math

import pytest

from ohem_d2.comparison import (
    Variant,
    keep_plan,
    make_plan,
    make_runs,
    measured_spread,
    parse_duration,
    planning,
)
from ohem_d2.comparison.pairs import Pairs
from ohem_d2.comparison.planning import Plan, describe_plan, shorten

SPREAD = (2.0, "guessed")


def trial(seconds=0.5, max_iter=100, start=10.0, test=15.0, period=0):
    schedule = {"SOLVER.MAX_ITER": max_iter, "SOLVER.STEPS": [75, 90], "SOLVER.WARMUP_ITERS": 10}
    return {
        "schedule": {**schedule, "TEST.EVAL_PERIOD": period},
        "seconds_per_iteration": seconds,
        "start_seconds": start,
        "test_seconds": test,
    }


@pytest.mark.parametrize(
    "text, seconds", [("90s", 90), ("30min", 1800), ("1.5h", 5400), ("1h30min", 5400), ("2d", 172800)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "min", "30 min", "-5min", "5m", "1h30"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is no duration; valid: 90s, 30min, 2h, 1h30min, 1d$"):
        parse_duration(text)


# A run takes 10 + 100 * 0.5 + 15 = 75 s, 25 of them whatever the schedule; a seed of two arms 150 s.
# One tenth of the budget is kept back.
@pytest.mark.parametrize(
    "seconds, jobs, plan",
    [
        (1000, 1, Plan(6, 1.0, 900)),  # 900 s: 6 seeds of 150
        (1000, 2, Plan(12, 1.0, 900)),
        (1000000, 1, Plan(20, 1.0, 3000)),  # no more than 20 seeds
        (600, 1, Plan(5, 0.58, 540)),  # 540 / 5 = 108 = 50 + 0.58 * 100
        (400, 1, Plan(3, 0.7, 360)),  # five have (360 / 5 - 50) / 100 = 0.22; three 120 - 50 = 70
        (200, 1, Plan(2, 0.4, 180)),  # three have 0.1, too little; two (90 - 50) / 100
    ],
)
def test_five_seeds_come_first_then_the_whole_schedule_then_more_seeds(seconds, jobs, plan):
    made = make_plan([trial(), trial()], seconds, jobs)
    assert made == Plan(
        plan.num_seeds, plan.part, pytest.approx(plan.seconds, abs=1.01 * plan.num_seeds / jobs)
    )


def test_tests_in_between_cost_time_too():
    # Tests after 30, 60, 90 and 100 iterations: 10 + 50 + 4 * 15 = 120 s; 5 seeds 600 s.
    assert make_plan([trial(period=30)], 700) == Plan(5, 1.0, 600)


def test_cheap_tests_are_made_after_each_quarter_where_the_config_has_one_at_the_end():
    # 3 tests of 1.5 s are less than a tenth of 50 s, and 3 of 2 s are not. 10 + 50 + 4 * 1.5 = 66 s.
    cheap = trial(test=1.5)
    assert make_plan([cheap], 734, num_seeds=10) == Plan(10, 1.0, 660, quarters=True)
    assert not make_plan([cheap, trial(test=2)], 2000).quarters
    runs, trials = make_runs("base.yaml", [Variant("a")], [0]), {("", "a"): cheap}
    assert shorten(runs, trials, Plan(10, 0.5, 660, True))[0].opts[-2:] == ("TEST.EVAL_PERIOD", "13")
    assert shorten(runs, trials, Plan(10, 0.5, 660, False))[0].opts[-1] == "0"
    assert shorten(runs, {("", "a"): trial(period=10)}, Plan(10, 1.0, 660, True))[0].opts[-1] == "10"
    assert "4 test(s)" in describe_plan(Plan(1, 1.0, 66, True), trials, 1, SPREAD)


def test_tests_that_are_cheap_beside_the_whole_schedule_alone_take_nothing_from_a_part_of_it():
    # 3 tests of 33 s are less than a tenth of 1,000 s, and more than one of 500 s.
    # Of 1,000 s 900 are planned: two seeds have 450, 76 of it fixed: 374 / 2,000. Of 3,600 three have 1,080
    arms = [trial(1.0, 1000, start=5.0, test=33.0)] * 2
    assert make_plan(arms, 1000) == Plan(2, 0.18, 2 * (76 + 0.18 * 2000))
    assert make_plan(arms, 3600) == Plan(3, 0.5, 3 * 1076)
    assert make_plan(arms, 100_000).quarters


def test_more_jobs_than_runs_do_not_help():
    # Two runs of two arms at a time, though eight might be: one seed 75 s, 900 / 75 = 12, all 8 at a time
    # only from the fourth seed on: 20 seeds take 20 * 150 / 8 = 375 s.
    assert make_plan([trial(), trial()], 1000, 8).num_seeds == 20
    # Ten runs of 75 s, none longer than the budget, or the schedule is shortened: (54 - 25) / 50 = 0.58.
    assert make_plan([trial(), trial()], 60, 100).part == 0.58


def test_jobs_that_find_no_run_left_wait():
    # 10 runs of 75 s, 8 at a time: two rounds, 150 s, not 10 / 8 * 75.
    assert make_plan([trial(), trial()], 1000, 8, num_seeds=5) == Plan(5, 1.0, 150)
    # In 120 s, 108 without the reserve, each round has 54: (54 - 25) / 50 = 0.58.
    assert make_plan([trial(), trial()], 120, 8, num_seeds=5) == Plan(5, 0.58, 108)


def test_given_seeds_are_kept_and_the_schedule_is_fitted():
    assert make_plan([trial()], 1000, num_seeds=2) == Plan(2, 1.0, 150)
    assert make_plan([trial()], 100, num_seeds=2) == Plan(2, 0.4, 90)


def test_too_little_time_says_what_the_least_takes():
    # Two seeds of a tenth: 2 * 2 * (25 + 5) = 120 s, with the reserve 133 s.
    with pytest.raises(ValueError, match="^1 min, .* too short: 2 seeds of 10% of the schedule take 3 min"):
        make_plan([trial(), trial()], 60)
    assert make_plan([trial(), trial()], 134).part == 0.1


def test_the_schedule_of_every_run_is_shortened_with_its_steps():
    runs = make_runs("base.yaml", [Variant("a", ("K", "V")), Variant("b")], [0])
    trials = {("", "a"): trial(max_iter=1000, period=10), ("", "b"): trial()}
    shorter = shorten(runs, trials, Plan(5, 0.25, 100.0))
    assert shorter[0].opts == (
        *("K", "V", "SOLVER.MAX_ITER", "250", "SOLVER.STEPS", "[19, 22]", "SOLVER.WARMUP_ITERS", "3"),
        *("TEST.EVAL_PERIOD", "3"),
    )
    assert shorter[1].opts[:2] == ("SOLVER.MAX_ITER", "25") and shorter[1].opts[-1] == "0"
    whole = shorten(runs, trials, Plan(5, 1.0, 100.0))[1].opts
    assert whole[:4] == ("SOLVER.MAX_ITER", "100", "SOLVER.STEPS", "[75, 90]")


def test_the_first_plan_of_a_folder_stays(tmp_path):
    assert keep_plan(tmp_path, None) is None
    first = Plan(5, 0.5, 100.0)
    assert keep_plan(tmp_path, first) == first
    assert keep_plan(tmp_path, Plan(9, 1.0, 5.0)) == keep_plan(tmp_path, None) == first
    assert json.loads((tmp_path / "plan.json").read_text())["part"] == 0.5


def test_the_spread_is_the_widest_of_what_is_measured():
    def pairs(*differences):
        return Pairs("ohem", "plain", "bbox/AP", dict(enumerate(differences)))

    # 1, 3: standard deviation sqrt 2; 0, 0, 3: sqrt 3.
    deviation, source = measured_spread([pairs(1, 3), pairs(0, 0, 3), pairs(9)])
    assert deviation == pytest.approx(math.sqrt(3)) and source == "ohem against plain, 3 seeds so far"
    assert measured_spread([pairs(9), pairs()]) is None


def test_a_plan_says_what_it_could_tell_apart_and_from_which_spread():
    pytest.importorskip("scipy", reason="needs SciPy")
    lines = describe_plan(Plan(5, 0.5, 350.0), {("d", "a"): trial()}, 2, SPREAD).splitlines()
    assert lines[0] == "Plan: 5 seeds x 1 configs, 2 at a time, 50% of the schedule: about 6 min"
    assert lines[1] == "  d/a: 50 iterations of 0.50 s, 1 test(s) of 15 s"
    assert "shortened" in lines[2]
    # By simulation (test_intervals.py), 3.36; with t(0.975, 4) + t(0.8, 4) = 3.7174 it would be 3.325.
    assert lines[3] == (
        "  It tells a difference of 3.4 AP from none in four of five cases, if paired differences "
        "spread by 2.0 AP (guessed)"
    )
    whole = describe_plan(Plan(1, 1.0, 60.0), {("", "a"): trial()}, 1, SPREAD)
    assert whole.splitlines()[1:] == [
        "  a: 100 iterations of 0.50 s, 1 test(s) of 15 s",
        "  One seed tells nothing apart.",
    ]


def test_the_known_spread_is_that_of_the_published_runs():
    file = planning.Path(__file__).parents[2] / "benchmarks/results/bccd/results.json"
    records = json.loads(file.read_text())
    arms = dict.fromkeys(record["arm"] for record in records)
    from ohem_d2.comparison import pair

    widest = max(pair(records, a, b).deviation for a in arms for b in arms if a != b)
    assert round(widest, 1) == planning.KNOWN_SPREAD[0]
