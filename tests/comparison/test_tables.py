import pytest

import ohem_d2.comparison.intervals
from ohem_d2.comparison import render_changes, render_table


def a_run(arm, ap50, detections=100, **more):
    return {
        "arm": arm, "figures": {"bbox/AP50": ap50, "fg_per_bg": 0.5}, "environment": {"torch": "2"},
        "test_settings": {"TEST.DETECTIONS_PER_IMAGE": detections}, **more,
    }  # fmt: skip


def row(table, arm):
    return [
        cell.strip()
        for cell in next(line for line in table.splitlines() if line.startswith(f"| {arm}")).split("|")
    ]


def test_a_cell_is_the_mean_and_students_interval_over_seeds():
    pytest.importorskip("scipy", reason="needs SciPy, which knows the interval")
    # 80, 82, 84: mean 82, standard deviation 2, t(0.975, 2) = 4.303: 4.303 * 2 / sqrt 3 = 4.97.
    table = render_table([a_run("ohem", v) for v in (80, 82, 84)])
    assert row(table, "ohem")[2:5] == ["3", "82.0 ± 5.0", "0.50 ± 0.00"]


def test_one_seed_has_no_interval_and_what_was_not_measured_stays_empty():
    other = a_run("plain", 70)
    other["figures"]["bbox/AP75"] = 60
    table = render_table([a_run("ohem", 80), other])
    assert row(table, "arm")[2:6] == ["seeds", "AP50", "AP75", "trained fg : bg"]
    assert row(table, "ohem")[2:6] == ["1", "80.0", "", "0.50"]


def test_a_column_is_left_out_by_its_name():
    runs = [a_run("ohem", 80)]
    assert row(render_table(runs, ["AP50"]), "arm")[2:] == ["seeds", "trained fg : bg", ""]
    with pytest.raises(ValueError, match="no column 'AP5'; valid: AP, AP50,"):
        render_table(runs, ["AP5"])


def test_different_tests_on_purpose_may_differ_but_not_within_one():
    runs = [
        a_run("plain", 80, 100),
        a_run("plain +B", 84, 200, test="+B"),
        a_run("ohem +B", 85, 200, test="+B"),
    ]
    assert row(render_table(runs), "ohem +B")[3] == "85.0"
    with pytest.raises(ValueError, match="is 200 for plain.*300 for third"):
        render_table([*runs, a_run("third", 85, 300, test="+B")])


def test_arms_that_were_tested_differently_get_no_table():
    with pytest.raises(ValueError, match="TEST.DETECTIONS_PER_IMAGE is 100 for plain and 2000 for ohem"):
        render_table([a_run("plain", 80), a_run("ohem", 84, detections=2000)])


def test_without_scipy_one_seed_has_a_table_and_several_say_what_to_install(monkeypatch):
    monkeypatch.setattr(ohem_d2.comparison.intervals, "find_spec", lambda name: None)
    assert row(render_table([a_run("ohem", 80)]), "ohem")[3] == "80.0"
    with pytest.raises(ImportError, match=r'needs scipy: pip install "ohem_d2\[compare\]"$'):
        render_table([a_run("ohem", 80), a_run("ohem", 82)])


def test_changes_are_paired_by_seed():
    pytest.importorskip("scipy", reason="needs SciPy, which knows the interval")
    values = {"plain": (70, 80, 60), "ohem": (72, 81, 63)}
    runs = [a_run(arm, v, seed=s) for arm, of in values.items() for s, v in enumerate(of)]
    for run in runs:
        run["figures"].update({"bbox/AP": 1.0, "bbox/AP75": 2.0})
    # Changes 2, 1, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.303: 4.303 / sqrt 3 = 2.48.
    table = render_changes({"": runs[::-1]}, [("plain", "ohem"), ("ohem", "plain")])
    assert row(table, "plain -> ohem")[2:5] == ["3", "+0.0 [0.0, 0.0]", "+2.0 [-0.5, 4.5]"]
    assert row(table, "ohem -> plain")[4] == "-2.0 [-4.5, 0.5]"
    with pytest.raises(ValueError, match=r"no arm 'naive'; valid: plain, ohem"):
        render_changes({"": runs}, [("plain", "naive")])
    with pytest.raises(ValueError, match=r"no pairs: plain has seeds \[0, 1, 2\], ohem \[0, 1\]"):
        render_changes({"": runs[:-1]}, [("plain", "ohem")])


def test_changes_on_several_data_sets_name_them():
    figures = {"bbox/AP": 40.0, "bbox/AP50": 70.0, "bbox/AP75": 30.0}
    runs = [a_run("plain", 0, seed=0, figures=figures), a_run("ohem", 0, seed=0, figures=figures)]
    better = [runs[0], {**runs[1], "figures": {**figures, "bbox/AP50": 71.0}}]
    table = render_changes({"dense": better, "sparse": runs}, [("plain", "ohem")])
    assert row(table, "data")[2:4] == ["change", "seeds"]
    assert row(table, "dense")[2:-1] == ["plain -> ohem", "1", "+0.0", "+1.0", "+0.0"]
    assert row(table, "sparse")[5] == "+0.0"
