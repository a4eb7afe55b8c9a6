"""De-duplication of hard RoIs: greedy non-maximum suppression (NMS) with the loss as score."""

import torch
from torch import Tensor
from torchvision.ops import nms


def suppress_duplicates(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group, all groups in one call.

    Losses of RoIs that overlap are correlated; without this step the same hard region would be counted many
    times (the paper, section 4.2).

    Args:
        losses: (R,) score of each RoI, finite.
        boxes: (R, 4) XYXY_ABS.
        groups: (R,) integer >= 0; only RoIs of the same group suppress each other.
        iou_thresh: a RoI is dropped if its IoU with a kept RoI of its group is above this.

    Returns:
        (S,) int64, the kept RoIs by loss descending; of equal losses the lower index comes first.
    """
    suppress = _group_by_group if boxes.device.type == "cpu" else _all_at_once
    return suppress(losses.double(), boxes.double(), groups, iou_thresh)


def _all_at_once(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """One NMS for all groups, with a single host-device synchronisation; for GPUs.

    Boxes of different groups are compared as well, so they are moved apart: by a whole number of pixels, in
    double precision, so that the IoU of boxes on integer coordinates does not change.
    """
    if boxes.numel() > 0:
        span = torch.ceil(boxes.max()) - torch.floor(boxes.min())
        boxes = boxes + (groups.double() * span).unsqueeze(1)
    # The kernel rounds the threshold to float32; with half a unit in the last place more, never downwards.
    kept: Tensor = nms(boxes, losses, iou_thresh + 2**-25)
    return kept


def _group_by_group(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """One NMS per group, which compares fewer boxes; for CPUs, where nothing is synchronised."""
    sizes = groups.unique(return_counts=True)[1].tolist()
    rows_of_groups = torch.sort(groups, stable=True).indices.split(sizes)
    kept = torch.cat(
        [rows[nms(boxes[rows], losses[rows], iou_thresh)] for rows in rows_of_groups] or [groups[:0]]
    )
    kept = kept.sort().values
    return kept[torch.sort(losses[kept], descending=True, stable=True).indices]
