"""Box conventions: what the four numbers of a box mean, conversion to XYXY_ABS, and which convention fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .recall import best_ious, ground_truth_boxes

__all__ = [
    "CONVENTIONS",
    "Convention",
    "Fit",
    "Sample",
    "better_convention",
    "describe_fits",
    "get_convention",
    "image_size",
    "measure_fits",
]

# (boxes (n, 4) as the file has them, dataset dict of the image or None)
Sample = tuple[NDArray[Any], Mapping[str, Any] | None]

# The smallest differences that count: of a fraction of boxes or an IoU, and of a gap in pixels.
_FRACTION, _PIXELS = 0.01, 0.4


@dataclass(frozen=True)
class Convention:
    """What the four numbers of a box mean; ``str()`` gives its name, such as ``xyxy1-inclusive``."""

    order: str  # "xyxy", "yxyx" or "xywh"
    first: int  # index of the first pixel: 0 or 1
    inclusive: bool  # the second corner is the last pixel of the box, not the first one beyond it

    def __str__(self) -> str:
        return f"{self.order}{self.first}{'-inclusive' if self.inclusive else ''}"

    def to_corners(self, boxes: Any) -> Any:
        """Convert (n, 4) boxes of this convention to float64 XYXY_ABS: 0-based, width = x2 - x1.

        Anything but an (n, 4) array of numbers is returned unchanged; `sorted_entry`, which knows the image,
        refuses it.
        """
        try:
            array = np.asarray(boxes)
            if array.dtype.kind not in "biuf" or array.ndim != 2 or array.shape[1] != 4:
                return boxes
        except (TypeError, ValueError):
            return boxes
        a, b, c, d = array.astype(np.float64).T  # before any sum: int16 and uint8 would wrap
        if self.order == "yxyx":
            a, b, c, d = b, a, d, c
        if self.order == "xywh":
            c, d = a + c, b + d
        beyond = 1 if self.inclusive else 0
        return np.stack([a, b, c + beyond, d + beyond], axis=1) - self.first


CONVENTIONS = {
    str(convention): convention
    for convention in (
        *(
            Convention(order, first, end)
            for order in ("xyxy", "yxyx")
            for first in (0, 1)
            for end in (False, True)
        ),
        *(Convention("xywh", first, False) for first in (0, 1)),
    )
}


def get_convention(name: str) -> Convention:
    """Look up a convention by its name.

    Raises:
        ValueError: unknown name; the message lists the valid ones.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"box convention {name!r} is not known; choose from {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


@dataclass(frozen=True)
class Fit:
    """How well a convention fits the boxes of some images.

    Attributes:
        invalid: fraction of the boxes that are reversed, negative or beyond their image.
        gap: pixels between the border of an image and the outermost corner: mean over the sides (left and
            top only where the size is unknown), median over the images. Proposals usually reach the border.
        recall: fraction of the ground-truth boxes that some box covers at IoU 0.5; NaN without ground truth.
        iou: mean best IoU of the ground-truth boxes; NaN without ground truth.
    """

    invalid: float
    gap: float
    recall: float
    iou: float

    def beats(self, other: "Fit") -> bool:
        """Whether this fit is clearly better: fewer invalid boxes, else a higher IoU, else a smaller gap."""
        if abs(self.invalid - other.invalid) > _FRACTION:
            return self.invalid < other.invalid
        if abs(self.iou - other.iou) > _FRACTION:
            return self.iou > other.iou
        return self.gap < other.gap - _PIXELS


def measure_fits(samples: Sequence[Sample]) -> dict[str, Fit]:
    """Measure how well each convention, by name, fits some images of a file."""
    return {name: _measure(convention, samples) for name, convention in CONVENTIONS.items()}


def better_convention(fits: Mapping[str, Fit], chosen: str) -> str | None:
    """The best of the conventions that fit clearly better than `chosen`, None if there is none."""
    best = chosen
    for name, fit in fits.items():
        if fit.beats(fits[best]):
            best = name
    return None if best == chosen else best


def describe_fits(fits: Mapping[str, Fit], chosen: str) -> str:
    """Format the fits as a table for the log, with `chosen` marked."""
    lines = ["  convention        invalid    gap  recall@0.5  best IoU"]
    for name, fit in fits.items():
        mark = "*" if name == chosen else " "
        covered = [f"{value:.3f}" if value == value else "-" for value in (fit.recall, fit.iou)]
        lines.append(
            f"{mark} {name:<17} {fit.invalid:>6.1%} {fit.gap:>6.1f} {covered[0]:>11} {covered[1]:>9}"
        )
    return "\n".join(lines)


def _measure(convention: Convention, samples: Sequence[Sample]) -> Fit:
    invalid, total, gaps = 0, 0, []
    overlaps: list[NDArray[Any]] = [np.zeros(0)]
    for raw, record in samples:
        boxes = convention.to_corners(raw)
        width, height = image_size(record) or (np.inf, np.inf)
        x1, y1, x2, y2 = boxes.T
        invalid += int(((x1 > x2) | (y1 > y2) | (x1 < 0) | (y1 < 0) | (x2 > width) | (y2 > height)).sum())
        total += len(boxes)
        if len(boxes):
            sides = [x1.min(), y1.min(), width - x2.max(), height - y2.max()]
            gaps.append(np.abs(sides if np.isfinite(width) else sides[:2]).mean())
        ordered = boxes[(boxes[:, :2] <= boxes[:, 2:]).all(axis=1)]
        overlaps += best_ious(ground_truth_boxes(record or {}), ordered)
    best = np.concatenate(overlaps)
    gap = float(np.median(gaps)) if gaps else 0.0
    recall, iou = ((best >= 0.5).mean(), best.mean()) if len(best) else (np.nan, np.nan)
    return Fit(invalid / max(total, 1), gap, float(recall), float(iou))


def image_size(record: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Width and height of the image of a dataset dict, None if it does not have them."""
    if record is None or "width" not in record or "height" not in record:
        return None
    return record["width"], record["height"]
