"""Measures what proposal files contain and how well they cover the objects of a data set.

Shape letters: g = objects of the data set, n = boxes of an image, T = boxes of a file.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou, nms

from .conversion import clean_boxes
from .mapping import Proposals
from .recall import best_ious, ground_truth_boxes

__all__ = ["AREAS", "IOUS", "LIMITS", "SIZES", "Inspection", "format_inspections", "inspect_proposals"]

# Limits on the boxes per image, best first, for which average recall is reported.
LIMITS = (100, 1000, 2000)
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
# COCO's size classes of objects, here by the area of their box in square pixels: the least, and the first
# that is too large.
AREAS = {"all": (0, math.inf), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}
# Edges of the histogram of box sizes: the square root of the area, in pixels.
SIZES = (0, 16, 32, 64, 96, 128, 256, 512, math.inf)

# The IoUs that average recall is the mean over, as in COCO.
_AVERAGED = np.linspace(0.5, 0.95, 10)

# From which IoU on a RoI is foreground, and that of the NMS on losses: the defaults of training.
_FOREGROUND_IOU, _NMS_THRESH = 0.5, 0.7


@dataclass
class Inspection:
    """Measurements of one file, alone or against a data set.

    Attributes:
        name: label of the file in tables and charts.
        counts: number of boxes of each image, in the order of the data set or, without one, of the file.
        sizes: number of boxes in each bin of `SIZES`.
        duplicates: number of boxes equal to an earlier one of their image.
        empty: ids of images without boxes, whether the file lists them or not.
        num_unknown: number of images of the file that the data set lacks.
        objects: (g,) areas of the objects in square pixels; None without a data set.
        overlaps: limit on the boxes per image (None: all) -> (g,) best IoU of each object with one of them.
        foreground: (3, images): the objects of each image, its boxes of IoU >= 0.5 with one of them, and how
            many of these an NMS of all its boxes at IoU 0.7 leaves. The objects' own boxes count as boxes, as
            in training. The NMS is in random order: that of the losses is not known before training.
    """

    name: str
    counts: NDArray[Any]
    sizes: NDArray[Any]
    duplicates: int
    empty: list[str]
    num_unknown: int = 0
    objects: NDArray[Any] | None = None
    overlaps: dict[int | None, NDArray[Any]] = field(default_factory=dict)
    foreground: NDArray[Any] = field(default_factory=lambda: np.zeros((3, 0), np.int64))

    def recall(self, iou: float, limit: int | None = None, area: str = "all") -> float:
        """The fraction of objects that one of the first `limit` boxes of their image covers at IoU >= `iou`.

        A box may cover several objects. NaN without objects. `area` is a key of `AREAS`.
        """
        of_area = self._of_area(area)
        return float((self.overlaps[limit][of_area] >= iou).mean()) if of_area.any() else math.nan

    def average_recall(self, limit: int | None, area: str = "all") -> float:
        """The mean recall over IoU 0.5, 0.55, ..., 0.95."""
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
    """Measure a proposal file.

    Args:
        name: label of the file in tables and charts.
        proposals: its content; boxes best first.
        dataset_dicts: the images to measure, in Detectron2's format. An image that `proposals` lack counts as
            one without boxes; crowds are not counted. None: all images of the file, without recall.
    """
    records = [{"image_id": image_id} for image_id in proposals] if dataset_dicts is None else dataset_dicts
    counts, sizes, duplicates, empty = [], np.zeros(len(SIZES) - 1, np.int64), 0, []
    foreground: list[tuple[int, int, int]] = []
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
        foreground.append((len(truth), *_count_foreground(truth, boxes)))
    result = Inspection(name, np.array(counts, np.int64), sizes, duplicates, empty)
    if dataset_dicts is not None:
        known = {str(record["image_id"]) for record in records}
        result.num_unknown = sum(image_id not in known for image_id in proposals)
        result.objects = np.concatenate(areas)
        result.overlaps = {limit: np.concatenate(parts) for limit, parts in overlaps.items()}
        result.foreground = np.array(foreground, np.int64).reshape(-1, 3).T
    return result


def format_inspections(inspections: Sequence[Inspection]) -> str:
    """Format a table with one column per file; all must be measured against one data set, or all alone."""
    rows = [("", [i.name for i in inspections]), *_content_rows(inspections)]
    if inspections[0].objects is not None:
        rows += _foreground_rows(inspections)
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
        *([row("  not in the data set", lambda i: str(i.num_unknown))] if against else []),
        row("boxes", lambda i: str(i.counts.sum())),
        row("  duplicates", lambda i: str(i.duplicates)),
        row("  per image, min / median / max", lambda i: _spread(i.counts)),
        *(
            (f"  size {text}", [_part(i.sizes[k], i.sizes.sum()) for i in inspections])
            for k, text in enumerate(sizes)
        ),
    ]


def _foreground_rows(inspections: Sequence[Inspection]) -> _Rows:
    titles = (
        "objects per image, min / median / max",
        f"  boxes of IoU >= {_FOREGROUND_IOU}, and their own",
        f"  left of these by NMS at IoU {_NMS_THRESH}",
    )
    return [(title, [_spread(i.foreground[k]) for i in inspections]) for k, title in enumerate(titles)]


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


def _count_foreground(truth: NDArray[Any], boxes: NDArray[Any]) -> tuple[int, int]:
    """Foreground of an image before and after NMS; its objects, `truth` (g, 4), are among the boxes."""
    if not len(truth):
        return 0, 0
    candidates = torch.from_numpy(np.concatenate([truth, boxes]))
    is_foreground = box_iou(candidates, candidates[: len(truth)]).amax(dim=1) >= _FOREGROUND_IOU
    order = torch.rand(len(candidates), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = nms(candidates, order, _NMS_THRESH)
    return int(is_foreground.sum()), int(is_foreground[left].sum())


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
