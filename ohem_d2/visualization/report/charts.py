"""The charts of a report, by Matplotlib: SVG whose text takes the colour of the page, and PNG.

Arms differ in colour, marker and kind of line, so that they are told apart without colours.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..pictures import PALETTE
from .page import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Line", "draw_bars", "draw_lines", "draw_precisions"]

MARKERS, LINES = "os^DvPX", ("-", "--", "-.", ":")
# Without the yellow, which is hard to see on white.
COLOURS = [tuple(channel / 255 for channel in PALETTE[k]) for k in (4, 0, 2, 3, 5, 1)]
MAX_POINTS = 300  # of a line; more are averaged
# Of texts and axes: in the SVG it becomes the colour of the page's text.
_TEXT = "#010203"
_STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a class may have a $ in its name
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _TEXT),
}


@dataclass(frozen=True)
class Line:
    """A line of a chart: what several runs have in common, and a band from their lowest to their highest."""

    name: str
    runs: Sequence[Sequence[tuple[float, float]]]  # points (x, y) of each run, x ascending
    style: int  # lines of one arm have the same
    is_faint: bool = False  # for what others are compared with: dotted


def draw_lines(
    name: str, title: str, lines: Sequence[Line], x: str, y: str, y_from_zero: bool = True
) -> Chart | None:
    """Lines with the mean over runs, and a band from the lowest to the highest; None without any point."""
    with _figure() as figure:
        axis = figure.subplots()
        for line in lines:
            _draw_line(axis, line)
        if not axis.lines:
            return None
        axis.set(xlabel=x, ylabel=y)
        if y_from_zero:
            axis.set_ylim(0, None)
        return _as_chart(figure, name, title)


def draw_bars(
    name: str, title: str, groups: Sequence[str], bars: Mapping[str, np.ndarray | None], y: str
) -> Chart:
    """Bars of several names side by side.

    Args:
        name: of the file.
        title: of the chart.
        groups: (n,) labels below the bars.
        bars: name -> values (runs, n): the height is their mean; from the lowest to the highest goes a line.
            None: nothing is drawn; the name keeps its colour.
        y: label of the axis.
    """
    with _figure() as figure:
        axis, width = figure.subplots(), 0.8 / max(len(bars), 1)
        for k, (label, values) in enumerate(bars.items()):
            if values is None:
                continue
            places = np.arange(len(groups)) + (k + 0.5) * width - 0.4
            mean = values.mean(axis=0)
            axis.bar(places, mean, width, color=_colour(k), hatch=("", "//", "..", "xx")[k % 4], label=label)
            if len(values) > 1:
                # The mean of equal numbers may differ from them in the last bit.
                reach = np.maximum([mean - values.min(axis=0), values.max(axis=0) - mean], 0)
                axis.errorbar(places, mean, reach, fmt="none", ecolor=_TEXT, elinewidth=1)
        axis.set_xticks(range(len(groups)), groups, rotation=20, ha="right")
        axis.set_ylabel(y)
        return _as_chart(figure, name, title)


def draw_precisions(name: str, title: str, recalls: np.ndarray, curves: Mapping[str, np.ndarray]) -> Chart:
    """Precision against recall of each arm: `curves` (runs, n) at `recalls` (n,), one line a run."""
    with _figure() as figure:
        axis = figure.subplots()
        for k, (label, runs) in enumerate(curves.items()):
            for number, precision in enumerate(runs):
                shown = precision > 0
                style = _line_style(k, len(recalls))
                axis.plot(recalls[shown], precision[shown], label=None if number else label, **style)
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        return _as_chart(figure, name, title)


def _draw_line(axis: "Axes", line: Line) -> None:
    x, mean, low, high = summarise(line.runs)
    if not len(x):
        return
    style = _line_style(line.style, len(x))
    if line.is_faint:
        style |= {"linestyle": ":", "marker": None, "alpha": 0.7}
    axis.plot(x, mean, label=line.name, **style)
    if len(line.runs) > 1 and not line.is_faint:
        axis.fill_between(x, low, high, color=_colour(line.style), alpha=0.2, linewidth=0)


def summarise(runs: Sequence[Sequence[tuple[float, float]]]) -> tuple[np.ndarray, ...]:
    """x, and the mean, lowest and highest y of the runs that have this x; at most `MAX_POINTS` of each.

    Where there are more, neighbours are put together: the means of x and of the mean, and lowest and highest
    of all. A run that ended early has no part in what comes later. Values that are not finite are left out.
    """
    points = np.array([point for run in runs for point in run], np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    x, place = np.unique(points[:, 0], return_inverse=True)
    mean = np.bincount(place, points[:, 1], len(x)) / np.maximum(np.bincount(place, minlength=len(x)), 1)
    low, high = np.full(len(x), np.inf), np.full(len(x), -np.inf)
    np.minimum.at(low, place, points[:, 1])
    np.maximum.at(high, place, points[:, 1])
    if len(x) <= MAX_POINTS:
        return x, mean, low, high
    first = np.unique(np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(int))
    size = np.diff([*first, len(x)])
    x, mean = (np.add.reduceat(values, first) / size for values in (x, mean))
    return x, mean, np.minimum.reduceat(low, first), np.maximum.reduceat(high, first)


class _figure:
    """A block with a figure, drawn in `_STYLE`."""

    def __enter__(self) -> "Figure":
        import matplotlib  # here, since pictures need no matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        return Figure(figsize=(5.2, 3.3), layout="constrained")

    def __exit__(self, *error) -> None:
        self._style.__exit__(*error)


def _colour(k: int) -> tuple[float, ...]:
    return COLOURS[k % len(COLOURS)]


def _line_style(k: int, num_points: int) -> dict:
    every = max(1, num_points // 10)
    return {
        "color": _colour(k),
        "linestyle": LINES[k % len(LINES)],
        "marker": MARKERS[k % len(MARKERS)],
        "markevery": (k % every, every),  # not all at the same place
        "markersize": 5,
        "linewidth": 1.3,
    }


def _as_chart(figure: "Figure", name: str, title: str) -> Chart:
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:
            figure.legend(
                *axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
            )
    svg, png = io.StringIO(), io.BytesIO()
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):  # the ids of two charts of a page differ
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    figure.suptitle(title)
    figure.savefig(png, format="png", dpi=150)
    return Chart(name, title, _for_page(svg.getvalue(), title), png.getvalue())


def _for_page(svg: str, title: str) -> str:
    """The element of an SVG file, of no fixed size, named for those who do not see it."""
    element = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    label = re.sub(r'[<>&"]', " ", title)
    return element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
