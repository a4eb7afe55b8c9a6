"""De-duplication of hard RoIs: greedy non-maximum suppression with the loss as score."""
import torch
from torch import Tensor
from torchvision.ops import nms


def suppress_duplicates(losses: Tensor, boxes: Tensor, groups: Tensor, iou_thresh: float) -> Tensor:
    """Greedy NMS within each group, all groups in one call.

    RoIs that overlap much have losses that correlate much; without this step the same hard region would be
    counted many times (the paper, section 4.2).

    The groups are moved apart by a whole number of pixels, in double precision, so that boxes on integer
    coordinates get exactly the IoU that they have.

    Args:
        losses: (R,) score of each RoI, finite.
        boxes: (R, 4) XYXY_ABS.
        groups: (R,) integer >= 0; only RoIs of the same group suppress each other.
        iou_thresh: a RoI whose IoU with a kept one of its group is above it is dropped.

    Returns:
        (S,) int64, the kept RoIs by loss descending; of equal losses the lower index comes first.
    """
    boxes = boxes.double()
    if boxes.numel() > 0:
        span = torch.ceil(boxes.max()) - torch.floor(boxes.min())
        boxes = boxes + (groups.double() * span).unsqueeze(1)
    return nms(boxes, losses.double(), iou_thresh)
