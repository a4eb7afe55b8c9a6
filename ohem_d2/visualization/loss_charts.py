"""The chart of figure 3 of the paper: mean loss over all RoIs while arms train."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..utils.files import atomic_file
from .pictures import PALETTE

__all__ = ["plot_roi_losses"]


def plot_roi_losses(arms: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: str | Path) -> None:
    """Plot the mean loss over all RoIs against the iterations as a PNG.

    Args:
        arms: name -> the curves of its runs, each of (iteration, loss); runs of an arm share a colour.
        path: file to write; it appears whole or not at all.

    Raises:
        ValueError: nothing was measured in any run.
    """
    from matplotlib.figure import Figure  # here, since pictures need no matplotlib

    if not any(curve for curves in arms.values() for curve in curves):
        raise ValueError("no chart: no run measured the loss over all RoIs; set TEST.ROI_LOSS.PERIOD")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for k, (name, curves) in enumerate(arms.items()):
        colour = [channel / 255 for channel in PALETTE[k % len(PALETTE)]]
        for number, curve in enumerate(filter(None, curves)):
            label = name if number == 0 else None
            axis.plot(*zip(*curve), color=colour, label=label, marker="o", markersize=3, linewidth=1)
    axis.set(xlabel="iterations", ylabel="mean loss over all RoIs", ylim=(0, None))
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
