"""Labels that may be wrong, by the loss of a model that was not trained on them.

After Schubert et al., "Identifying Label Errors in Object Detection Datasets by Loss Inspection", WACV 2024
(arXiv 2303.06999): a label that contradicts the model has a high loss. The loss here is that of the read-only
pass, of the RoI heads alone; the paper adds that of the RPN.

Shape letters: R = candidate RoIs, G = labels of an image, K = foreground classes. Label K is the background.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torchvision.ops import nms

from ..config import IgnoreRegionsOptions
from ..modeling import inspect_candidates
from ..modeling.ignoring import are_inside
from ..utils.regions import TargetsWithRegions, regions_of

__all__ = [
    "BAD_BOX",
    "KINDS",
    "MISSING",
    "NO_OBJECT",
    "WRONG_CLASS",
    "Finding",
    "InspectedImage",
    "find_in_image",
    "inspect_labels",
]

KINDS = MISSING, WRONG_CLASS, BAD_BOX, NO_OBJECT = ("missing object", "wrong class", "bad box", "no object")
# A missing object has an IoU below this with every label, and with every other missing object.
SAME_OBJECT_IOU = 0.3
# Lowest probability of a class with which the model sees an object.
MIN_SCORE = 0.1


@dataclass(frozen=True)
class Finding:
    """A label, or a place without one, and how much the model contradicts it."""

    image_id: str
    kind: str  # of KINDS
    loss: float  # the sum of both terms
    cls_loss: float
    box_loss: float  # 0 where an object is missing
    box: tuple[float, ...]  # XYXY_ABS in pixels of the image file, as the model sees it
    category: int  # in [0, K), as the model sees it
    score: float  # its probability
    label: int | None = None  # index among the labels of the image; None: an object is missing


@dataclass(frozen=True)
class InspectedImage:
    """Labels, detections and findings of an image; boxes XYXY_ABS in pixels of the image file."""

    image_id: str
    file_name: str
    size: tuple[int, int]  # width, height
    boxes: np.ndarray  # (G, 4) float64, the labels
    categories: np.ndarray  # (G,) int64 in [0, K)
    found_boxes: np.ndarray  # (D, 4) float64, the detections
    found_categories: np.ndarray  # (D,) int64 in [0, K)
    found_scores: np.ndarray  # (D,) float64
    findings: list[Finding]


@torch.no_grad()
def inspect_labels(
    model: GeneralizedRCNN, loader: Iterable[list[dict[str, Any]]]
) -> Iterator[InspectedImage]:
    """Inspect the labels of images that the model was not trained on.

    Args:
        model: in eval mode. Each label is a candidate too, whatever ``MODEL.ROI_HEADS.PROPOSAL_APPEND_GT``.
        loader: batches of images with labels and without augmentation, as from `build_labelled_loader`.

    Raises:
        TypeError: a model whose losses or class probabilities are not known.
    """
    if any(hasattr(module, "roi_losses") for module in model.roi_heads.modules()):
        raise TypeError(
            "label errors need class probabilities, which are not known of a predictor with roi_losses"
        )
    appends, model.roi_heads.proposal_append_gt = model.roi_heads.proposal_append_gt, True
    try:
        for x in (x for batch in loader for x in batch):
            candidates, found = inspect_candidates(model, [x])[0], model([x])[0]["instances"]
            yield _in_pixels(x, candidates.to("cpu"), found.to("cpu"), model.roi_heads.num_classes)
    finally:
        model.roi_heads.proposal_append_gt = appends


def _in_pixels(
    x: dict[str, Any], candidates: Instances, found: Instances, num_classes: int
) -> InspectedImage:
    """Scale the boxes from the network's input, in which those of `found` are not, to the image file."""
    scale = torch.tensor([x["width"] / x["image"].shape[2], x["height"] / x["image"].shape[1]] * 2)
    size = (x["height"], x["width"])
    decoded = Boxes(candidates.decoded * scale)
    decoded.clip(size)
    candidates.decoded = decoded.tensor
    targets = x["instances"]
    regions = Boxes(regions_of(targets).tensor * scale)
    labels = TargetsWithRegions(size, regions, gt_boxes=Boxes(targets.gt_boxes.tensor * scale))
    labels.gt_classes = targets.gt_classes
    return InspectedImage(
        str(x["image_id"]),
        str(x["file_name"]),
        (x["width"], x["height"]),
        labels.gt_boxes.tensor.double().numpy(),
        labels.gt_classes.numpy(),
        found.pred_boxes.tensor.double().numpy(),
        found.pred_classes.numpy(),
        found.scores.double().numpy(),
        find_in_image(str(x["image_id"]), candidates, labels, num_classes),
    )


def find_in_image(image_id: str, candidates: Instances, labels: Instances, num_classes: int) -> list[Finding]:
    """A finding for each label, and for each object that may be missing.

    A label is judged by its best candidate: of those that are matched to it, the one to which the model gives
    the highest probability of a class. If that is below `MIN_SCORE` there may be no object; if it is
    of another class than the label, that may be wrong; else the box may be bad. Most labels are right, and of
    a low loss. One without candidates, such as the second of two equal boxes, has no finding. An object may
    be missing where a background candidate is of a class with a probability of `MIN_SCORE` or more, outside
    of ignore regions; of those that overlap, the one of highest loss counts.

    Args:
        image_id: of the image.
        candidates: (R,) from `inspect_candidates`; ``decoded`` in pixels of the image file.
        labels: (G,) with ``gt_classes`` in [0, K), ``gt_boxes`` and regions in pixels of the image file.
        num_classes: K.
    """
    is_object = candidates.gt_classes < num_classes
    findings = []
    for index, category in enumerate(labels.gt_classes.tolist()):
        matched = candidates[is_object & (candidates.gt_matches == index)]
        if len(matched):
            best = int(matched.scores.argmax())
            kind = BAD_BOX if matched.classes[best] == category else WRONG_CLASS
            kind = kind if matched.scores[best] >= MIN_SCORE else NO_OBJECT
            findings.append(_finding(image_id, kind, matched, best, index))
    background = candidates[~is_object & (candidates.scores >= MIN_SCORE)]
    missing = background[_far_from(background.decoded, labels.gt_boxes)]
    if len(regions := regions_of(labels)):
        missing = missing[~are_inside(Boxes(missing.decoded), regions, IgnoreRegionsOptions.thresh)]
    kept = nms(missing.decoded, missing.cls_losses, SAME_OBJECT_IOU)
    return [*findings, *(_finding(image_id, MISSING, missing, row) for row in kept.tolist())]


def _far_from(boxes: Tensor, others: Boxes) -> Tensor:
    """(R,) bool, whether a box overlaps none of the others."""
    return (pairwise_iou(Boxes(boxes), others) < SAME_OBJECT_IOU).all(dim=1)


def _finding(image_id: str, kind: str, rois: Instances, row: int, label: int | None = None) -> Finding:
    cls, box = float(rois.cls_losses[row]), float(rois.box_losses[row])
    place, score = tuple(rois.decoded[row].tolist()), float(rois.scores[row])
    return Finding(image_id, kind, cls + box, cls, box, place, int(rois.classes[row]), score, label)
