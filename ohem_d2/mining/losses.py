"""Losses of an R-CNN for each RoI, not averaged.

Shape letters: R = RoIs, K = foreground classes. Label K is the background.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

_IOU_LOSSES: dict[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


def classification_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy of each RoI.

    Args:
        logits: (R, K + 1), any floating type; computed in float32.
        labels: (R,) int64 in [0, K].

    Returns:
        (R,) float32, >= 0.
    """
    return F.cross_entropy(logits.float(), labels, reduction="none")


def sigmoid_classification_losses(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of each RoI, summed over the K foreground classes.

    Args:
        logits: (R, K + 1), computed in float32; the last column, the background, is not used.
        labels: (R,) int64 in [0, K]; a background RoI is a negative of every class.
        class_weights: (K,) weight of each class, e.g. 0 or 1 for a federated loss; None: all 1.

    Returns:
        (R,) float32, >= 0.
    """
    targets = torch.zeros_like(logits, dtype=torch.float32).scatter_(1, labels.unsqueeze(1), 1.0)[:, :-1]
    losses = F.binary_cross_entropy_with_logits(logits[:, :-1].float(), targets, reduction="none")
    return losses.sum(dim=1) if class_weights is None else (losses * class_weights.float()).sum(dim=1)


def encode_boxes(boxes: Tensor, targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Regression targets (dx, dy, dw, dh) that transform `boxes` into `targets` (R-CNN, appendix C).

    Equals Detectron2's ``Box2BoxTransform.get_deltas``, but does not synchronise host and device to check the
    boxes: a box without area gives inf or NaN in its own row.

    Args:
        boxes: (R, 4) XYXY_ABS.
        targets: (R, 4) XYXY_ABS.
        weights: the factors of dx, dy, dw and dh.

    Returns:
        (R, 4).
    """
    sizes, target_sizes = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    centers, target_centers = boxes[:, :2] + 0.5 * sizes, targets[:, :2] + 0.5 * target_sizes
    deltas = torch.cat([(target_centers - centers) / sizes, torch.log(target_sizes / sizes)], dim=1)
    return torch.stack([column * weight for column, weight in zip(deltas.unbind(dim=1), weights)], dim=1)


def smooth_l1_losses(deltas: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Smooth L1 loss of each RoI, summed over its 4 coordinates.

    With d = |delta - target|: 0.5 d^2 / beta where d < beta, else d - 0.5 beta.

    Args:
        deltas: (R, 4), any floating type; computed in float32.
        targets: (R, 4).
        beta: >= 0; 0 is plain L1.

    Returns:
        (R,) float32, >= 0.
    """
    return F.smooth_l1_loss(deltas.float(), targets.float(), beta=beta, reduction="none").sum(dim=1)


def box_iou_losses(kind: str, boxes: Tensor, targets: Tensor) -> Tensor:
    """GIoU, DIoU or CIoU loss of each predicted box with its target.

    Args:
        kind: "giou", "diou" or "ciou".
        boxes: (R, 4) XYXY_ABS, any floating type; computed in float32.
        targets: (R, 4) XYXY_ABS.

    Returns:
        (R,) float32, >= 0.

    Raises:
        ValueError: another `kind`.
    """
    if kind not in _IOU_LOSSES:
        raise ValueError(f"unknown box loss {kind!r}; valid: {', '.join(_IOU_LOSSES)}")
    return _IOU_LOSSES[kind](boxes.float(), targets.float(), reduction="none")
