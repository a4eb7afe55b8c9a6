"""Box voting (Gidaris and Komodakis, ICCV 2015, section 5).

Shape letters: S = boxes kept by NMS, V = boxes that vote, P = pairs of both within a group.
"""

import torch
from torch import Tensor

# Maximum number of pairs of a kept box and a voter of its group that are in memory at a time.
_MAX_PAIRS = 2**20


@torch.no_grad()
def vote_boxes(
    boxes: Tensor, groups: Tensor, voters: Tensor, weights: Tensor, voter_groups: Tensor, iou_thresh: float
) -> Tensor:
    """Replace each box by the weighted mean of the voters of its group that overlap it.

    A group is a class of an image. Sums are in double precision and in a fixed order.

    Args:
        boxes: (S, 4) XYXY, of any floating type.
        groups: (S,) integers.
        voters: (V, 4) XYXY; a box votes for itself only if it is among them.
        weights: (V,) >= 0, the scores of the voters.
        voter_groups: (V,) integers.
        iou_thresh: a voter whose IoU with a box is at least this votes for it.

    Returns:
        (S, 4), of the type of `boxes`. A box without voters, or whose voters all have weight zero, stays.
    """
    if not len(boxes) or not len(voters):
        return boxes.detach().clone()
    voter_groups, order = voter_groups.sort(stable=True)
    voters, weights = voters[order].double(), weights[order].double()
    first = torch.searchsorted(voter_groups, groups.contiguous())
    counts = torch.searchsorted(voter_groups, groups.contiguous(), right=True) - first
    size = max(1, _MAX_PAIRS // max(1, int(counts.max())))
    chunks = zip(boxes.double().split(size), first.split(size), counts.split(size))
    return torch.cat([_vote(*chunk, voters, weights, iou_thresh) for chunk in chunks]).to(boxes.dtype)


def _vote(
    boxes: Tensor, first: Tensor, counts: Tensor, voters: Tensor, weights: Tensor, iou_thresh: float
) -> Tensor:
    """Vote for boxes; the voters in the group of box i are ``first[i]`` to ``first[i] + counts[i] - 1``."""
    box = torch.arange(len(boxes), device=boxes.device).repeat_interleave(counts)  # (P,)
    voter = torch.arange(len(box), device=boxes.device) + (first + counts - counts.cumsum(0))[box]
    candidates = voters[voter]
    weights = weights[voter] * (elementwise_iou(boxes[box], candidates) >= iou_thresh)
    weighted = torch.cat([candidates * weights[:, None], weights[:, None]], dim=1)  # (P, 5)
    sums = torch.segment_reduce(weighted, "sum", lengths=counts, initial=0)  # index_add has no fixed order
    total = sums[:, 4:]
    return torch.where(total > 0, sums[:, :4] / total, boxes)


def elementwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 4), pair by pair with broadcasting; NaN where both have no area.

    torchvision's ``box_iou`` is all against all.
    """
    sizes = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(dim=-1) for x in (a, b))
    intersection = sizes.prod(dim=-1)
    return intersection / (area_a + area_b - intersection)
