"""Gaussian soft-NMS (Bodla et al., ICCV 2017). torchvision has none, and mmcv's runs on the CPU only.

Shape letters: C = boxes, G = groups (classes of an image), M = boxes of the largest group.
"""

import torch
from torch import Tensor

from .voting import elementwise_iou


@torch.no_grad()
def soft_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, sigma: float, score_thresh: float, max_per_group: int = -1
) -> tuple[Tensor, Tensor]:
    """Lower the scores of boxes that overlap a better one of their group, instead of dropping them.

    In each step a group selects its box of highest score, and multiplies the scores of the remaining ones by
    exp(-IoU^2 / sigma). All groups step together, on the device of the boxes.

    Args:
        boxes: (C, 4) XYXY, of any floating type.
        scores: (C,) >= 0; of equal ones that of lowest index is selected first.
        groups: (C,) integers.
        sigma: > 0; the smaller, the closer to suppressing every overlapping box.
        score_thresh: >= 0; a group stops when no score is above it.
        max_per_group: maximum number of boxes of a group; negative: all.

    Returns:
        indices into C of the selected boxes, and their lowered scores (float32), by score descending.
    """
    boxes, live, index = _by_group(boxes, scores, groups)
    taken, lowered = [index.new_zeros(0)], [live.new_zeros(0)]
    steps = live.shape[1]
    for _ in range(steps if max_per_group < 0 else min(steps, max_per_group)):
        best = live.argmax(dim=1, keepdim=True)  # (G, 1), the first of equal ones
        going = (live.gather(1, best)[:, 0] > score_thresh).nonzero()[:, 0]
        if not len(going):
            break
        boxes, live, index, best = boxes[going], live[going], index[going], best[going]
        taken.append(index.gather(1, best)[:, 0])
        lowered.append(live.gather(1, best)[:, 0])
        overlaps = elementwise_iou(boxes, boxes.gather(1, best[:, :, None].expand(-1, -1, 4))).nan_to_num()
        live = (live * torch.exp(-(overlaps**2) / sigma)).scatter(1, best, -1.0)
    lowered, by_score = torch.cat(lowered).sort(descending=True, stable=True)
    return torch.cat(taken)[by_score], lowered


def _by_group(boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (G, M, 4), scores (G, M) and indices into C (G, M), padded with score -1."""
    groups, order = groups.sort(stable=True)
    counts = groups.unique_consecutive(return_counts=True)[1]
    shape = (len(counts), int(counts.max()) if len(counts) else 0)
    row = torch.arange(len(counts), device=boxes.device).repeat_interleave(counts)
    place = row, torch.arange(len(order), device=boxes.device) - (counts.cumsum(0) - counts)[row]
    padded = boxes.new_zeros((*shape, 4), dtype=torch.float32).index_put_(place, boxes[order].float())
    live = boxes.new_full(shape, -1.0, dtype=torch.float32).index_put_(place, scores[order].float())
    return padded, live, order.new_zeros(shape).index_put_(place, order)
