"""Charts that compare proposal files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..proposals.inspection import LIMITS, SIZES, Inspection
from ..utils.files import atomic_file
from .pictures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_inspections"]

_COLOURS = [tuple(channel / 255 for channel in PALETTE[i]) for i in (4, 0, 2, 5)]


def plot_inspections(inspections: Sequence[Inspection], path: str | Path) -> None:
    """Plot boxes per image and box sizes, and with a data set recall and average recall, as a PNG.

    Args:
        inspections: one per file, all with the same data set or all without; colours repeat after four.
        path: file to write; it appears whole or not at all.
    """
    from matplotlib.figure import Figure  # here, since pictures need no matplotlib

    with_recall = inspections[0].objects is not None
    rows = 2 if with_recall else 1
    figure = Figure(figsize=(11, 4 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    _plot_counts(axes[0, 0], inspections)
    _plot_sizes(axes[0, 1], inspections)
    if with_recall:
        _plot_recall(axes[1, 0], inspections)
        _plot_average_recall(axes[1, 1], inspections)
    for axis in axes.flat:
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _plot_counts(axis: "Axes", inspections: Sequence[Inspection]) -> None:
    top = max([int(i.counts.max(initial=0)) for i in inspections])
    edges = np.linspace(0, top + 1, 31)
    for colour, inspection in zip(_cycle(inspections), inspections):
        axis.hist(inspection.counts, edges, color=colour, alpha=0.6, label=inspection.name)
    axis.set(title="Boxes per image", xlabel="boxes", ylabel="images")


def _plot_sizes(axis: "Axes", inspections: Sequence[Inspection]) -> None:
    bars = [(i.name, i.sizes / max(i.sizes.sum(), 1)) for i in inspections]
    labels = [f"{low:g}-{high:g}" for low, high in zip(SIZES[:-2], SIZES[1:-1])] + [f"{SIZES[-2]:g}+"]
    _bars(axis, bars, labels)
    axis.set(title="Box sizes", xlabel="square root of the area (pixels)", ylabel="fraction of the boxes")


def _plot_recall(axis: "Axes", inspections: Sequence[Inspection]) -> None:
    ious = np.linspace(0.5, 1, 51)
    for colour, inspection in zip(_cycle(inspections), inspections):
        axis.plot(ious, [inspection.recall(iou) for iou in ious], color=colour, label=inspection.name)
    axis.set(title="Recall of the objects, all boxes", xlabel="IoU", ylabel="recall")
    axis.set(xlim=(0.5, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)


def _plot_average_recall(axis: "Axes", inspections: Sequence[Inspection]) -> None:
    _bars(axis, [(i.name, [i.average_recall(limit) for limit in LIMITS]) for i in inspections], LIMITS)
    axis.set(title="Average recall, IoU 0.5 to 0.95", xlabel="boxes per image", ylabel="AR", ylim=(0, 1))


def _bars(axis: "Axes", bars: Sequence[tuple], labels: Sequence) -> None:
    width = 0.8 / len(bars)
    for k, (colour, (name, heights)) in enumerate(zip(_cycle(bars), bars)):
        axis.bar(np.arange(len(labels)) + (k + 0.5) * width - 0.4, heights, width, color=colour, label=name)
    axis.set_xticks(range(len(labels)), labels)


def _cycle(items: Sequence) -> list:
    return [_COLOURS[k % len(_COLOURS)] for k in range(len(items))]
