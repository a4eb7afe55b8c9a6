"""Charts of several runs."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs Matplotlib")

from ohem_d2.visualization.report import charts
from ohem_d2.visualization.report.charts import (
    MAX_POINTS,
    Line,
    draw_bars,
    draw_lines,
    draw_precisions,
    summarise,
)


def test_a_band_goes_from_the_lowest_to_the_highest_run_and_the_line_is_their_mean():
    x, mean, low, high = summarise([[(10, 1.0), (20, 4.0)], [(10, 3.0), (20, 4.0), (30, 5.0)]])
    assert x.tolist() == [10, 20, 30]
    assert mean.tolist() == [2, 4, 5] and low.tolist() == [1, 4, 5] and high.tolist() == [3, 4, 5]


def test_values_that_are_not_finite_are_left_out():
    x, mean, *_ = summarise([[(10, 1.0), (20, float("nan"))], [(20, float("inf")), (30, 2.0)]])
    assert x.tolist() == [10, 30] and mean.tolist() == [1, 2]


def test_of_many_points_the_mean_the_lowest_and_the_highest_stay():
    values = np.random.default_rng(0).normal(size=100_000)
    values[[77, 60_000]] = 50, -50
    x, mean, low, high = summarise([list(enumerate(values))])
    assert len(x) == len(mean) == MAX_POINTS and (np.diff(x) > 0).all()
    assert high.max() == 50 and low.min() == -50
    assert np.average(mean) == pytest.approx(values.mean(), abs=1e-4)  # parts of nearly equal sizes
    assert (low <= mean).all() and (mean <= high).all()


def lines(*runs):
    return [Line(f"arm {k}", of_arm, k) for k, of_arm in enumerate(runs)]


def test_arms_differ_in_more_than_colour():
    runs = [[[(1, 1.0), (2, 2.0)]]] * 3
    chart = draw_lines("losses", "Losses", lines(*runs), "iterations", "loss")
    root = ET.fromstring(chart.svg)
    drawn = [
        p for p in root.iter("{http://www.w3.org/2000/svg}path") if "stroke-width: 1.3" in p.get("style", "")
    ]
    styles = {(re.search("stroke-dasharray: [^;]*", p.get("style")) or [""])[0] for p in drawn}
    assert len(styles) == 3
    assert all(f"arm {k}" in chart.svg for k in range(3))


def test_a_chart_takes_the_colour_of_the_page_and_has_a_name_and_no_fixed_size():
    chart = draw_lines("losses", "Losses & <more>", lines([[(1, 1.0)]]), "iterations", "loss")
    root = ET.fromstring(chart.svg)
    assert root.get("role") == "img" and "Losses" in root.get("aria-label") and root.get("viewBox")
    assert root.get("width") is None and root.get("height") is None
    assert "currentColor" in chart.svg and "#010203" not in chart.svg
    assert chart.png.startswith(b"\x89PNG")


def test_charts_of_one_page_do_not_share_ids():
    ids = [
        set(re.findall(r' id="([mp][0-9a-f]{8,})"', draw_lines(name, "a", lines([[(1, 1.0)]]), "x", "y").svg))
        for name in ("one", "two")
    ]
    assert ids[0] and not ids[0] & ids[1]


def test_nothing_measured_is_no_chart():
    assert draw_lines("losses", "Losses", lines([], [[]]), "x", "y") is None
    assert draw_lines("losses", "Losses", [], "x", "y") is None
    assert draw_lines("losses", "Losses", lines([[(1, float("nan"))]]), "x", "y") is None


def test_bars_and_precisions_of_one_run_and_of_several():
    bars = {"a": np.array([[1.0, 2]]), "b": np.array([[1.0, 2], [3, 0]])}
    assert "localisation" in draw_bars("bars", "Bars", ["localisation", "missed"], bars, "AP").svg
    recalls = np.linspace(0, 1, 11)
    curves = {"a": np.ones((2, 11)), "b": np.zeros((1, 11)), "c": np.empty((0, 11))}
    assert "recall" in draw_precisions("precision", "Precision", recalls, curves).svg


@pytest.fixture
def axis_of(monkeypatch):
    """``axis_of(draw, ...)``: the axis of the figure that a function draws."""
    monkeypatch.setattr(charts, "_as_chart", lambda figure, name, title: figure)
    return lambda draw, *args, **kwargs: draw("name", "title", *args, **kwargs).axes[0]


def test_a_bar_is_as_high_as_the_mean_of_the_runs_and_a_line_goes_from_the_lowest_to_the_highest(axis_of):
    bars = {"one": np.array([[5.0, 7.0]]), "two": np.array([[1.0, 2.0], [3.0, 8.0], [2.0, 2.0]])}
    axis = axis_of(draw_bars, ["left", "right"], bars, "AP")
    assert [bar.get_height() for bar in axis.patches] == [5, 7, 2, 4]
    # Two bars, 0.8 wide together, around each of the places 0 and 1.
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert middles == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    (errors,) = axis.collections  # of several runs alone
    assert [line[:, 1].tolist() for line in errors.get_segments()] == [[1, 3], [2, 8]]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["left", "right"]
    assert len({bar.get_hatch() for bar in axis.patches}) == 2 and axis.get_ylabel() == "AP"


def test_runs_of_equal_values_have_a_bar_whatever_their_mean_is_rounded_to(axis_of):
    value = np.array([[1.653]] * 3)
    assert value.mean() != 1.653
    (bar,) = axis_of(draw_bars, ["left"], {"a": value}, "AP").patches
    assert bar.get_height() == pytest.approx(1.653)


def test_an_arm_without_runs_leaves_their_colours_to_the_others(axis_of):
    value = np.array([[1.0]])
    both = axis_of(draw_bars, ["left"], {"a": value, "b": value}, "AP").patches
    (alone,) = axis_of(draw_bars, ["left"], {"a": None, "b": value}, "AP").patches
    assert (alone.get_facecolor(), alone.get_x()) == (both[1].get_facecolor(), both[1].get_x())
    assert alone.get_facecolor() != both[0].get_facecolor()


def test_precision_is_drawn_as_far_as_a_recall_is_reached_by_a_line_for_each_run(axis_of):
    recalls = np.array([0.0, 0.5, 1.0])
    curves = {"a": np.array([[1, 0.5, 0.25], [0.75, 0.5, 0]]), "b": np.zeros((1, 3))}
    axis = axis_of(draw_precisions, recalls, curves)
    assert [line.get_xydata().tolist() for line in axis.lines] == [
        [[0, 1], [0.5, 0.5], [1, 0.25]],
        [[0, 0.75], [0.5, 0.5]],
        [],
    ]
    assert axis.get_legend_handles_labels()[1] == ["a", "b"]  # one for the runs of an arm
    assert axis.lines[0].get_color() == axis.lines[1].get_color() != axis.lines[2].get_color()
    assert axis.get_xlim() == (0, 1) and axis.get_ylim() == (0, 1.02)


def test_several_runs_have_a_band_and_what_is_compared_with_is_dotted_without(axis_of):
    runs = [[(1, 1.0), (2, 3.0)], [(1, 2.0), (2, 5.0)]]
    faint = Line("all", runs, 0, is_faint=True)
    axis = axis_of(draw_lines, [Line("one", runs[:1], 0), Line("two", runs, 1), faint], "iterations", "loss")
    (band,) = axis.collections
    assert band.get_datalim(axis.transData).intervaly.tolist() == [1, 5]
    assert [line.get_linestyle() for line in axis.lines] == ["-", "--", ":"]
    assert [line.get_marker() for line in axis.lines] == ["o", "s", "None"]
    assert axis.lines[1].get_ydata().tolist() == [1.5, 4]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("iterations", "loss")


def test_the_axis_begins_at_zero_unless_it_may_not(axis_of):
    line = [Line("one", [[(1, 7.0), (2, 8.0)]], 0)]
    assert axis_of(draw_lines, line, "x", "y").get_ylim()[0] == 0
    assert axis_of(draw_lines, line, "x", "y", y_from_zero=False).get_ylim()[0] > 6


def test_six_arms_have_six_colours_none_of_them_the_yellow():
    assert len({charts._colour(k) for k in range(6)}) == 6 and charts._colour(6) == charts._colour(0)
    assert max(min(colour[0], colour[1]) for colour in charts.COLOURS) < 0.85
