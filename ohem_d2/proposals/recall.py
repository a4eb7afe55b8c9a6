"""How well proposals cover the ground truth: recall, and a summary for the log."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from numpy.typing import NDArray
from torchvision.ops import box_iou

from .mapping import Proposals

__all__ = ["ProposalStatistics", "best_ious", "ground_truth_boxes", "proposal_recall", "summarize_proposals"]

DatasetDicts = Sequence[Mapping[str, Any]]
ProposalMap = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class ProposalStatistics:
    """Statistics of the proposals for a data set; ``str()`` gives one line for the log."""

    num_images: int
    num_empty: int  # images without proposals
    num_measured: int  # images on which num_outside and recall are measured
    num_outside: int  # boxes that lie wholly outside their image
    boxes_min: int  # boxes per image
    boxes_median: float
    boxes_max: int
    recall: float  # at IoU 0.5 with all boxes; NaN where there is no ground truth

    def __str__(self) -> str:
        recall = "no ground truth" if math.isnan(self.recall) else f"recall {self.recall:.3f} at IoU 0.5"
        if self.num_measured < self.num_images:
            recall += f" ({self.num_measured} images measured)"
        return (
            f"proposals for {self.num_images - self.num_empty} of {self.num_images} images, "
            f"{self.boxes_min} to {self.boxes_max} boxes per image (median {self.boxes_median:g}), {recall}"
        )


def proposal_recall(
    dataset_dicts: DatasetDicts, proposals: ProposalMap, iou: float = 0.5, top_k: int | None = None
) -> float:
    """The fraction of ground-truth boxes that some proposal of their image covers at IoU `iou` or more.

    Args:
        dataset_dicts: Detectron2 dataset dicts; annotations with ``iscrowd`` are left out.
        proposals: image id -> (boxes (n, 4) XYXY_ABS, scores (n,)), best first. An image that it lacks counts
            as one without boxes.
        iou: in [0, 1]; areas are continuous: (x2 - x1) * (y2 - y1).
        top_k: use the first `top_k` boxes of each image; None: all.

    Returns:
        a number in [0, 1]; NaN if there is no ground truth.
    """
    covered = total = 0
    for record in dataset_dicts:
        truth = ground_truth_boxes(record)
        total += len(truth)
        covered += int((best_ious(truth, _boxes(proposals, record), (top_k,))[0] >= iou).sum())
    return covered / total if total else math.nan


def best_ious(
    objects: NDArray[Any], boxes: NDArray[Any], limits: Sequence[int | None] = (None,)
) -> list[NDArray[Any]]:
    """The best IoU of each object of an image with one of its boxes, for several limits on their number.

    Args:
        objects: (g, 4) XYXY_ABS.
        boxes: (n, 4) XYXY_ABS, best first.
        limits: how many of the first boxes to use; None: all.

    Returns:
        for each limit (g,) float64 in [0, 1]; 0 without boxes.
    """
    ious = box_iou(torch.from_numpy(objects), torch.tensor(boxes, dtype=torch.float64)).nan_to_num()
    bests = torch.cat([ious.new_zeros(len(objects), 1), ious.cummax(dim=1).values], dim=1).numpy()
    return [bests[:, len(boxes) if limit is None else min(limit, len(boxes))] for limit in limits]


def summarize_proposals(
    dataset_dicts: DatasetDicts, proposals: ProposalMap, max_images: int | None = None
) -> ProposalStatistics:
    """Summarise the proposals of `dataset_dicts`; an image that `proposals` lacks counts as one without.

    Recall and boxes outside are measured on at most `max_images` images, evenly spread, so that not all boxes
    of a large file are read; None: on all.
    """
    counts = np.array([_count(proposals, str(record["image_id"])) for record in dataset_dicts] or [0])
    step = 1 if max_images is None else -(-len(dataset_dicts) // max_images)
    some = dataset_dicts[:: max(step, 1)]
    return ProposalStatistics(
        num_images=len(dataset_dicts),
        num_empty=int((counts == 0).sum()) if len(dataset_dicts) else 0,
        num_measured=len(some),
        num_outside=sum(_count_outside(record, _boxes(proposals, record)) for record in some),
        boxes_min=int(counts.min()),
        boxes_median=float(np.median(counts)),
        boxes_max=int(counts.max()),
        recall=proposal_recall(some, proposals),
    )


def _count(proposals: ProposalMap, image_id: str) -> int:
    if isinstance(proposals, Proposals):
        return proposals.count(image_id)
    return len(proposals[image_id][0]) if image_id in proposals else 0


def _boxes(proposals: ProposalMap, record: Mapping[str, Any]) -> NDArray[Any]:
    """The proposals of an image: (n, 4), best first; none if it is absent."""
    entry = proposals.get(str(record["image_id"]))
    return np.zeros((0, 4), np.float32) if entry is None else entry[0]


def ground_truth_boxes(record: Mapping[str, Any]) -> NDArray[Any]:
    """The ground-truth boxes of an image, (g, 4) float64 XYXY_ABS, without crowds."""
    by_mode: dict[BoxMode, list[Any]] = {}
    for annotation in record.get("annotations", ()):
        if not annotation.get("iscrowd", 0):
            by_mode.setdefault(annotation["bbox_mode"], []).append(annotation["bbox"])
    converted = [
        BoxMode.convert(np.array(boxes, dtype=np.float64), mode, BoxMode.XYXY_ABS)
        for mode, boxes in by_mode.items()
    ]
    return np.concatenate(converted) if converted else np.zeros((0, 4))


def _count_outside(record: Mapping[str, Any], boxes: NDArray[Any]) -> int:
    """Number of boxes that lie beside their image, so that clipping would leave them without area."""
    width, height = record.get("width", math.inf), record.get("height", math.inf)
    x1, y1, x2, y2 = boxes.T
    return int(((x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)).sum())
