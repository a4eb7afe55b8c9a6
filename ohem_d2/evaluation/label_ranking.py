"""The findings of all images in one list."""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from .label_errors import Finding, InspectedImage

__all__ = ["RANKED_BY", "RankedFinding", "box_ious", "first_of_each_kind", "rank_findings"]

# By which terms findings are ranked, as ``MODEL.OHEM.RANK_BY`` names them.
RANKED_BY = {"cls+box": attrgetter("loss"), "cls": attrgetter("cls_loss"), "box": attrgetter("box_loss")}


class RankedFinding(NamedTuple):
    """A finding in its image, with the loss it is ranked by."""

    image: InspectedImage
    finding: Finding
    loss: float
    objectlab: float | None = None  # ObjectLab's score of the same label or place; None: unknown

    @property
    def label_box(self) -> np.ndarray | None:
        """(4,) of the label, None where an object is missing."""
        return None if self.finding.label is None else self.image.boxes[self.finding.label]

    def label_name(self, classes: Sequence[str]) -> str:
        """The class of the label, "" where an object is missing."""
        return "" if self.finding.label is None else classes[self.image.categories[self.finding.label]]


def rank_findings(
    images: Sequence[InspectedImage],
    objectlab: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    rank_by: str = "cls",
) -> list[RankedFinding]:
    """The findings of all images by loss descending; equal ones in their order.

    Args:
        images: inspected.
        objectlab: from `objectlab_scores`, for each image. That of a missing object is the score of the
            detection with which it has the highest IoU, if that is 0.5 or more.
        rank_by: a key of `RANKED_BY`.
    """
    scores, loss_of = objectlab or [None] * len(images), RANKED_BY[rank_by]
    ranked = [
        RankedFinding(i, f, loss_of(f), _score_of(i, f, s))
        for i, s in zip(images, scores)
        for f in i.findings
    ]
    return sorted(ranked, key=lambda found: -found.loss)


def first_of_each_kind(ranked: Sequence[RankedFinding], number: int) -> list[tuple[int, RankedFinding]]:
    """The first `number` findings of each kind with their ranks from 1, in their order."""
    seen: Counter[str] = Counter()
    first = []
    for rank, found in enumerate(ranked, 1):
        seen[found.finding.kind] += 1
        if seen[found.finding.kind] <= number:
            first.append((rank, found))
    return first


def _score_of(
    image: InspectedImage, finding: Finding, scores: tuple[np.ndarray, np.ndarray] | None
) -> float | None:
    if scores is None:
        return None
    of_labels, of_found = scores
    if finding.label is not None:
        value = of_labels[finding.label]
    else:
        ious = box_ious(np.array([finding.box]), image.found_boxes)[0]
        value = of_found[ious.argmax()] if len(ious) and ious.max() >= 0.5 else np.nan
    return None if np.isnan(value) else float(value)


def box_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (m, n) of boxes (m, 4) and (n, 4), XYXY_ABS; 0 for two without area."""
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) for b in (boxes, others)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-9)
