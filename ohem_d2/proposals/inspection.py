"""What proposal files hold and how well they cover the objects of a data set, in numbers.

Shape letters: g = objects of the data set, n = boxes of an image, T = boxes of a file.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .conversion import clean_boxes
from .mapping import Proposals
from .recall import best_ious, ground_truth_boxes

__all__ = ["AREAS", "IOUS", "LIMITS", "SIZES", "Inspection", "format_inspections", "inspect_proposals"]

# Numbers of boxes per image, best first, that the average recall is given for.
LIMITS = (100, 1000, 2000)
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
# COCO's classes of objects: areas in square pixels, from the first on, below the second.
AREAS = {"all": (0, math.inf), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
# Borders of the classes of box sizes: the root of the area, in pixels.
SIZES = (0, 16, 32, 64, 96, 128, 256, 512, math.inf)

# The average recall is the mean over these, as COCO's.
_AVERAGED = np.linspace(0.5, 0.95, 10)


@dataclass
class Inspection:
    """One file, seen alone or against a data set.

    Attributes:
        name: what tables and pictures call it.
        counts: boxes of each image, in the order of the data set, else of the file.
        sizes: boxes in each class of ``SIZES``.
        duplicates: boxes equal to one before them in their image.
        empty: ids of images without boxes, whether the file has them or not.
        foreign: images of the file that the data set does not have.
        objects: (g,) areas of the objects in square pixels. None without a data set.
        overlaps: most boxes of an image, None for all -> (g,) the best IoU of each object with one of them.
    """

    name: str
    counts: NDArray[Any]
    sizes: NDArray[Any]
    duplicates: int
    empty: list[str]
    foreign: int = 0
    objects: NDArray[Any] | None = None
    overlaps: dict[int | None, NDArray[Any]] = field(default_factory=dict)

    def recall(self, iou: float, limit: int | None = None, area: str = "all") -> float:
        """The part of the objects that one of the first ``limit`` boxes of their image covers by ``iou`` at least.

        A box may cover several objects. NaN if there are none. ``area`` is one of ``AREAS``.
        """
        of_area = self._of_area(area)
        return float((self.overlaps[limit][of_area] >= iou).mean()) if of_area.any() else math.nan

    def average_recall(self, limit: int | None, area: str = "all") -> float:
        """The mean recall at IoU 0.5, 0.55, ..., 0.95."""
        return float(np.mean([self.recall(iou, limit, area) for iou in _AVERAGED]))

    def num_objects(self, area: str = "all") -> int:
        return int(self._of_area(area).sum())

    def _of_area(self, area: str) -> NDArray[Any]:
        assert self.objects is not None, "objects are known where a data set is given"
        least, below = AREAS[area]
        return (self.objects >= least) & (self.objects < below)


def inspect_proposals(
    name: str, proposals: Proposals, dataset_dicts: Sequence[Mapping[str, Any]] | None = None
) -> Inspection:
    """Measure a file.

    Args:
        name: of the file, for tables and pictures.
        proposals: its content; boxes best first.
        dataset_dicts: the images to look at, in Detectron2's format; an image that ``proposals`` lack counts
            as one without boxes, crowds as no objects. None: all images of the file, without recall.
    """
    records = [{"image_id": image_id} for image_id in proposals] if dataset_dicts is None else dataset_dicts
    counts, sizes, duplicates, empty = [], np.zeros(len(SIZES) - 1, np.int64), 0, []
    areas: list[NDArray[Any]] = [np.zeros(0)]
    overlaps: dict[int | None, list[NDArray[Any]]] = {limit: [np.zeros(0)] for limit in (*LIMITS, None)}
    for record in records:
        image_id = str(record["image_id"])
        boxes, scores = proposals.get(image_id, (np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))
        counts.append(len(boxes))
        empty += [] if len(boxes) else [image_id]
        sizes += np.histogram(np.sqrt(_areas(boxes)), SIZES)[0]
        duplicates += clean_boxes(boxes, scores, None, 0)[2].duplicates
        truth = ground_truth_boxes(record)
        areas.append(_areas(truth))
        for limit, best in zip(overlaps, best_ious(truth, boxes, tuple(overlaps))):
            overlaps[limit].append(best)
    result = Inspection(name, np.array(counts, np.int64), sizes, duplicates, empty)
    if dataset_dicts is not None:
        known = {str(record["image_id"]) for record in records}
        result.foreign = sum(image_id not in known for image_id in proposals)
        result.objects = np.concatenate(areas)
        result.overlaps = {limit: np.concatenate(parts) for limit, parts in overlaps.items()}
    return result


def format_inspections(inspections: Sequence[Inspection]) -> str:
    """A table with a column for each file, all seen against the same data set or all alone."""
    rows = [("", [i.name for i in inspections]), *_content_rows(inspections)]
    if inspections[0].objects is not None:
        rows += _recall_rows(inspections)
    left = max(len(title) for title, _ in rows)
    widths = [max(len(row[1][column]) for row in rows) for column in range(len(inspections))]
    return "\n".join(
        f"{title:<{left}}  " + "  ".join(f"{value:>{width}}" for value, width in zip(values, widths))
        for title, values in rows
    )


_Rows = list[tuple[str, list[str]]]


def _content_rows(inspections: Sequence[Inspection]) -> _Rows:
    def row(title: str, value: Callable[[Inspection], str]) -> tuple[str, list[str]]:
        return title, [value(i) for i in inspections]

    sizes = [f"{low:g} to {high:g}" for low, high in zip(SIZES, SIZES[1:])]
    against = inspections[0].objects is not None
    return [
        row("images", lambda i: str(len(i.counts))),
        row("  without boxes", lambda i: str(len(i.empty))),
        *([row("  not in the data set", lambda i: str(i.foreign))] if against else []),
        row("boxes", lambda i: str(i.counts.sum())),
        row("  duplicates", lambda i: str(i.duplicates)),
        row("  per image, min / median / max", lambda i: _spread(i.counts)),
        *(row(f"  size {text}", lambda i: _part(i.sizes[k], i.sizes.sum())) for k, text in enumerate(sizes)),
    ]


def _recall_rows(inspections: Sequence[Inspection]) -> _Rows:
    rows = []
    for area in AREAS:
        rows.append((f"objects, {area}", [str(i.num_objects(area)) for i in inspections]))
        for iou in IOUS:
            rows.append((f"  recall at IoU {iou}", [_number(i.recall(iou, area=area)) for i in inspections]))
        for limit in LIMITS:
            values = [_number(i.average_recall(limit, area)) for i in inspections]
            rows.append((f"  AR at {limit} boxes", values))
    return rows


def _areas(boxes: NDArray[Any]) -> NDArray[Any]:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    areas: NDArray[Any] = sides.prod(axis=1)
    return areas


def _spread(counts: NDArray[Any]) -> str:
    return f"{counts.min()} / {np.median(counts):g} / {counts.max()}" if len(counts) else "-"


def _part(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
