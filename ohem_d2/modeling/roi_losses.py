"""Loss of each RoI under the training loss of a box predictor.

Shape letters: R = RoIs of all images, K = foreground classes. Label K is the background.
"""

import torch
from detectron2.layers import cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ..mining import (
    box_iou_losses,
    classification_losses,
    encode_boxes,
    sigmoid_classification_losses,
    smooth_l1_losses,
)

# Methods by which FastRCNNOutputLayers computes its losses; a subclass that overrides one has another loss.
_LOSS_METHODS = ("losses", "box_reg_loss", "sigmoid_cross_entropy_loss")


def roi_losses(box_predictor: nn.Module, predictions, proposals: list[Instances]) -> Tensor:
    """Loss of each RoI: classification + box regression, with the weights of `box_predictor`.

    Its mean over a set of RoIs is the sum of the losses that ``box_predictor.losses`` returns for that set.
    If the predictor has a method ``roi_losses(predictions, proposals)``, that is called instead.

    Args:
        box_predictor: `FastRCNNOutputLayers`, or a module with a method ``roi_losses``.
        predictions: output of ``box_predictor(features)``: logits (R, K + 1), deltas (R, 4 K) or (R, 4).
        proposals: one `Instances` per image, R boxes in all, with ``proposal_boxes`` (XYXY_ABS),
            ``gt_classes`` in [0, K] and, where an image has objects, ``gt_boxes``.

    Returns:
        (R,) float32, without gradient.

    Raises:
        TypeError: a predictor with a loss that is not known; the message has the method to write.
    """
    return rank_terms(*roi_terms(box_predictor, predictions, proposals), "cls+box")


@torch.no_grad()
def roi_terms(box_predictor: nn.Module, predictions, proposals: list[Instances]) -> tuple[Tensor, Tensor]:
    """The terms of `roi_losses`: of classification (R,) and of box regression (R,), 0 for background.

    All is of classification where the predictor has a method ``roi_losses``. A federated loss draws its
    classes from the labels of these RoIs.

    Raises:
        TypeError: see `roi_losses`.
        ValueError: a method ``roi_losses`` that does not return a loss for each RoI.
    """
    check_rankable(box_predictor)
    if hasattr(box_predictor, "roi_losses"):
        losses, num_rois = box_predictor.roi_losses(predictions, proposals), sum(map(len, proposals))
        if losses.shape != (num_rois,):
            name = type(box_predictor).__name__
            raise ValueError(f"roi_losses of {name} must return ({num_rois},), got {tuple(losses.shape)}")
        return losses, torch.zeros_like(losses)
    labels = cat([p.gt_classes for p in proposals])
    return reduced_terms(box_predictor, reduce_predictions(box_predictor, predictions, labels), proposals)


def rank_terms(cls_losses: Tensor, box_losses: Tensor, rank_by: str) -> Tensor:
    """(R,) what RoIs are ranked by: "cls+box", "cls" or "box" (``MODEL.OHEM.RANK_BY``)."""
    if rank_by == "cls+box":
        return cls_losses + box_losses
    return cls_losses if rank_by == "cls" else box_losses


def reduce_predictions(
    box_predictor: FastRCNNOutputLayers,
    predictions: tuple[Tensor, Tensor],
    labels: Tensor,
    class_weights: Tensor | None = None,
    with_scores: bool = False,
) -> tuple[Tensor, ...]:
    """What losses and rules need of the predictions of RoIs, whose size is that of all classes.

    Args:
        box_predictor: the predictor.
        predictions: logits (R, K + 1), deltas (R, 4 K) or (R, 4).
        labels: (R,) int64 in [0, K].
        class_weights: (K,) from `federated_class_weights`; None: a federated loss draws its classes from
            `labels`.
        with_scores: whether the scores are computed.

    Returns:
        the classification loss (R,) and the deltas of the label's class (R, 4), of background those of any
        class. With scores those of the best foreground class, and also its probability (R,) and that class
        (R,).
    """
    logits, deltas = predictions
    is_sigmoid = getattr(box_predictor, "use_sigmoid_ce", False)
    if is_sigmoid:
        if class_weights is None:
            class_weights = federated_class_weights(box_predictor, labels)
        cls_losses = sigmoid_classification_losses(logits, labels, class_weights)
    else:
        cls_losses = classification_losses(logits, labels)
    classes, scores = labels.clamp(0, box_predictor.num_classes - 1), []
    if with_scores:
        probabilities = logits.float().sigmoid() if is_sigmoid else logits.float().softmax(dim=1)
        best, best_classes = probabilities[:, :-1].max(dim=1)
        classes = torch.where(labels == box_predictor.num_classes, best_classes, classes)
        scores = [best, best_classes]
    if deltas.shape[1] != 4:
        deltas = deltas.unflatten(1, (-1, 4)).gather(1, classes[:, None, None].expand(-1, 1, 4)).squeeze(1)
    return cls_losses, deltas, *scores


def reduced_terms(
    box_predictor: FastRCNNOutputLayers, reduced: tuple[Tensor, ...], proposals: list[Instances]
) -> tuple[Tensor, Tensor]:
    """`roi_terms` from what `reduce_predictions` returned."""
    cls_losses, deltas, *_ = reduced
    if len(cls_losses) == 0:
        return cls_losses.float(), cls_losses.float()
    weight = box_predictor.loss_weight
    labels = cat([p.gt_classes for p in proposals])
    boxes = cat([p.proposal_boxes.tensor for p in proposals])
    gt_boxes = cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals])
    box_losses = _box_losses(box_predictor, deltas, boxes, gt_boxes, labels)
    return cls_losses * weight.get("loss_cls", 1.0), box_losses * weight.get("loss_box_reg", 1.0)


def decode_boxes(box_predictor: FastRCNNOutputLayers, deltas: Tensor, proposals: list[Instances]) -> Tensor:
    """(R, 4) float32 XYXY_ABS: the boxes of `proposals`, regressed by `deltas` (R, 4)."""
    boxes = cat([p.proposal_boxes.tensor for p in proposals])
    return box_predictor.box2box_transform.apply_deltas(deltas.float(), boxes)


def federated_class_weights(box_predictor: FastRCNNOutputLayers, labels: Tensor) -> Tensor | None:
    """Draw the classes that the federated loss of `box_predictor` counts for RoIs with these labels.

    Returns:
        (K,) of 0 and 1; None for a predictor without federated loss.
    """
    if not getattr(box_predictor, "use_fed_loss", False):
        return None
    num_classes = box_predictor.num_classes
    classes = box_predictor.get_fed_loss_classes(
        labels, box_predictor.fed_loss_num_classes, num_classes, box_predictor.fed_loss_cls_weights
    )
    return torch.zeros(num_classes + 1, device=labels.device).index_fill_(0, classes, 1.0)[:num_classes]


def check_rankable(box_predictor: nn.Module, rank_by: str = "cls+box") -> None:
    """Check that the loss of a RoI by `box_predictor` is known, and can be ranked by `rank_by`.

    Raises:
        TypeError: it is not known; the message has the method to write.
        ValueError: one term of a predictor with a method ``roi_losses``.
    """
    if hasattr(box_predictor, "roi_losses"):
        if rank_by != "cls+box":
            raise ValueError(
                f"MODEL.OHEM.RANK_BY is {rank_by!r}; valid for {type(box_predictor).__name__}, which has its "
                "own `roi_losses`: 'cls+box'"
            )
        return
    cls = type(box_predictor)
    own = [
        name
        for name in _LOSS_METHODS
        if getattr(cls, name, None) is not getattr(FastRCNNOutputLayers, name, None)
    ]
    if own:
        raise TypeError(
            f"cannot rank RoIs by the loss of {cls.__module__}.{cls.__qualname__}: it has its own "
            f"{', '.join(own)}; give it a method `roi_losses(predictions, proposals) -> Tensor (R,)`"
        )
    if not isinstance(box_predictor.box2box_transform, Box2BoxTransform):
        raise TypeError(
            f"cannot rank RoIs by the loss of {cls.__module__}.{cls.__qualname__} with "
            f"{type(box_predictor.box2box_transform).__name__}: only Box2BoxTransform is known; "
            "give it a method `roi_losses(predictions, proposals) -> Tensor (R,)`"
        )


def _box_losses(predictor, deltas: Tensor, boxes: Tensor, gt_boxes: Tensor, labels: Tensor) -> Tensor:
    """(R,) box loss of each RoI, 0 for background.

    Computed for all rows: to index those of the foreground would synchronise host and device.
    """
    foreground = (labels >= 0) & (labels < predictor.num_classes)
    transform = predictor.box2box_transform
    if predictor.box_reg_loss_type == "smooth_l1":
        targets = encode_boxes(boxes, gt_boxes, transform.weights)
        losses = smooth_l1_losses(deltas, targets, predictor.smooth_l1_beta)
    else:
        losses = box_iou_losses(
            predictor.box_reg_loss_type, transform.apply_deltas(deltas.float(), boxes), gt_boxes
        )
    return torch.where(foreground, losses, torch.zeros_like(losses))
