"""Ignore regions in training: which RoIs and anchors lie inside one, and so are no candidates.

A box lies inside a region if more than a share of its own area does. Shares of several regions do not add up.
One that matches an object is never ignored. Images without regions cost nothing.

Shape letters: R = boxes of one image, M = ignore regions of one image.

Source: ``crowd_thresh`` of the authors' code, https://github.com/abhi2610/ohem, lib/datasets/coco.py, which
drops proposals that match an object as well.
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor, nn

from ..config import IgnoreRegionsOptions
from ..utils.regions import TargetsWithRegions
from .matching import match_labels


def ignoring_of(heads: nn.Module) -> IgnoreRegionsOptions:
    """What RoI heads ignore; those of Detectron2 ignore nothing."""
    return getattr(heads, "ignoring", IgnoreRegionsOptions())


def get_regions(targets: Instances) -> Boxes:
    """The ignore regions of an image: `Boxes` (M, 4).

    Raises:
        TypeError: the targets carry none, not even M = 0.
    """
    if not isinstance(targets, TargetsWithRegions):
        raise TypeError(
            "MODEL.IGNORE_REGIONS.ENABLED is True but the mapper of the training data hands on no ignore "
            "regions; valid: ohem_d2.data.RegionDatasetMapper"
        )
    return targets.ignore_regions


def are_inside(boxes: Boxes, regions: Boxes, thresh: float) -> Tensor:
    """Which boxes lie inside one of the regions: (R,) bool.

    Args:
        boxes: (R, 4) XYXY_ABS; one without area lies inside none.
        regions: (M, 4) XYXY_ABS, M > 0.
        thresh: the share of its area in [0, 1] above which a box lies inside a region.
    """
    return pairwise_ioa(regions, boxes).amax(dim=0) > thresh


def find_ignored(
    proposals: list[Instances], targets: list[Instances], matcher: Matcher, options: IgnoreRegionsOptions
) -> list[Tensor | None]:
    """Which RoIs lie inside an ignore region and match no object.

    Args:
        proposals: one `Instances` per image with ``proposal_boxes``.
        targets: one `TargetsWithRegions` per image.
        matcher: decides what matches an object.
        options: whether and above which share to ignore.

    Returns:
        per image (R,) bool, or None where nothing is ignored.
    """
    if not options.enabled:
        return [None] * len(proposals)
    ignored: list[Tensor | None] = []
    for of_image, objects in zip(proposals, targets):
        boxes, regions = of_image.proposal_boxes, get_regions(objects)
        if not len(regions) or not len(boxes):
            ignored.append(None)
            continue
        inside = are_inside(boxes, regions, options.thresh)
        if len(objects):
            ious = pairwise_iou(objects.gt_boxes, boxes)
            inside &= match_labels(matcher, ious, ious.amax(dim=0)) != 1
        ignored.append(inside)
    return ignored


def drop_ignored(
    proposals: list[Instances], targets: list[Instances], matcher: Matcher, options: IgnoreRegionsOptions
) -> list[Instances]:
    """The proposals without those of `find_ignored`, in their order.

    Host and device are synchronised once, and only if an image of the batch has ignore regions.
    """
    ignored = find_ignored(proposals, targets, matcher, options)
    kept = {i: ~rows for i, rows in enumerate(ignored) if rows is not None}
    if not kept:
        return proposals
    numbers = torch.stack([rows.sum() for rows in kept.values()]).tolist()
    proposals = list(proposals)
    for (i, rows), number in zip(kept.items(), numbers):
        proposals[i] = proposals[i][rows.byte().argsort(descending=True, stable=True)[:number]]
    return proposals


def ignore_anchors(
    labels: list[Tensor],
    anchors: list[Boxes],
    targets: list[Instances],
    background: int,
    options: IgnoreRegionsOptions,
) -> list[Tensor]:
    """Label background anchors inside an ignore region -1; no synchronisation.

    Args:
        labels: per image (R,) integer.
        anchors: per level, R in all.
        targets: one `TargetsWithRegions` per image.
        background: the label of the background; other labels stay.
        options: whether and above which share to ignore.
    """
    if not options.enabled:
        return labels
    result = []
    for of_image, objects in zip(labels, targets):
        regions = get_regions(objects)
        if len(regions):
            inside = are_inside(Boxes.cat(anchors), regions, options.thresh)
            of_image = of_image.masked_fill(inside & (of_image == background), -1)
        result.append(of_image)
    return result
