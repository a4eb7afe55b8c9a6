"""De-duplication of hard RoIs: greedy non-maximum suppression with the loss as score."""

import torch
from torch import Tensor
from torchvision.ops import nms


def suppress_duplicates(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group, all groups in one call.

    RoIs that overlap much have losses that correlate much; without this step the same hard region would be
    counted many times (the paper, section 4.2).

    Args:
        losses: (R,) score of each RoI, finite.
        boxes: (R, 4) XYXY_ABS.
        groups: (R,) integer >= 0; only RoIs of the same group suppress each other.
        iou_thresh: a RoI whose IoU with a kept one of its group is above it is dropped.

    Returns:
        (S,) int64, the kept RoIs by loss descending; of equal losses the lower index comes first.
    """
    suppress = _group_by_group if boxes.device.type == "cpu" else _all_at_once
    return suppress(losses.double(), boxes.double(), groups, iou_thresh)


def _all_at_once(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """One launch and one wait of the host. Compares boxes of different groups as well, which are moved apart.

    By a whole number of pixels, in double precision, so that boxes on integer coordinates get exactly the IoU
    that they have.
    """
    if boxes.numel() > 0:
        span = torch.ceil(boxes.max()) - torch.floor(boxes.min())
        boxes = boxes + (groups.double() * span).unsqueeze(1)
    # The kernel takes the threshold in float32: with half a unit more, rounding does not take it below.
    return nms(boxes, losses, iou_thresh + 2**-25)


def _group_by_group(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """Compares boxes of the same group alone; a CPU waits for nothing."""
    sizes = groups.unique(return_counts=True)[1].tolist()
    rows_of_groups = torch.sort(groups, stable=True).indices.split(sizes)
    kept = torch.cat(
        [rows[nms(boxes[rows], losses[rows], iou_thresh)] for rows in rows_of_groups] or [groups[:0]]
    )
    kept = kept.sort().values
    return kept[torch.sort(losses[kept], descending=True, stable=True).indices]
