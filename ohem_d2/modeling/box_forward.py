"""From RoIs to class scores and box deltas, for each of Detectron2's families of RoI heads.

This is the only file that calls private methods of these heads.

Shape letters: R = RoIs of all images.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from .pooling import pool_rois


class BoxStage(NamedTuple):
    """The predictions of one stage. Only cascades have more than one."""

    predictor: nn.Module
    predictions: tuple[Tensor, ...]  # output of ``predictor``: class scores and box deltas
    # The RoIs of the stage; those of the later stages of a cascade with targets are labelled.
    proposals: list[Instances]
    # (R,) factor of the loss of each RoI. In a cascade with targets 0 if an earlier stage made the box empty,
    # NaN if one made it non-finite (half precision can overflow), else 1. None: 1 for all.
    weights: Tensor | None = None


def box_forward(
    heads: ROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    targets: list[Instances] | None = None,
) -> Iterator[BoxStage]:
    """Run the box head and its predictor on RoIs, stage by stage.

    Args:
        heads: of one of Detectron2's families, in eval mode but for dropout layers.
        features: the feature maps, as for ``heads.forward``.
        proposals: one `Instances` per image with ``proposal_boxes``.
        targets: the objects of each image; the RoIs of the later stages of a cascade are then labelled, each
            by the matcher of its stage. None: as in inference.

    Raises:
        TypeError: see `find_box_forward`.
    """
    return find_box_forward(type(heads))(heads, features, proposals, targets)


def find_box_forward(heads: type) -> Callable[..., Iterator[BoxStage]]:
    """The function that runs heads of this class.

    Raises:
        TypeError: heads of no known family, or for rotated boxes.
    """
    if not issubclass(heads, RROIHeads):
        for family, forward in _FAMILIES.items():
            if issubclass(heads, family):
                return forward
    raise TypeError(
        f"{heads.__qualname__} derives from none of StandardROIHeads, Res5ROIHeads, CascadeROIHeads, "
        "or predicts rotated boxes"
    )


def box_predictors(heads: ROIHeads) -> list[nn.Module]:
    """The predictor of each stage."""
    predictor = heads.box_predictor
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]


def box_forward_standard(
    heads: StandardROIHeads, features, proposals, targets: list[Instances] | None
) -> Iterator[BoxStage]:
    """Standard heads: pooler, box head, predictor."""
    maps, boxes = [features[f] for f in heads.box_in_features], [p.proposal_boxes for p in proposals]
    has_dropout = any(m.training for m in heads.box_head.modules())  # all else is in eval mode
    pooled, rows = pool_rois(heads.box_pooler, maps, boxes, share=not has_dropout)
    box_features = heads.box_head(pooled)
    if rows is not None:
        box_features = box_features[rows]
    yield BoxStage(heads.box_predictor, heads.box_predictor(box_features), proposals)


def box_forward_res5(
    heads: Res5ROIHeads, features, proposals, targets: list[Instances] | None
) -> Iterator[BoxStage]:
    """Heads on C4 features: pooler, fifth stage of the ResNet, mean over the cells, predictor."""
    maps, boxes = [features[f] for f in heads.in_features], [p.proposal_boxes for p in proposals]
    box_features = heads._shared_roi_transform(maps, boxes).mean(dim=[2, 3])
    yield BoxStage(heads.box_predictor, heads.box_predictor(box_features), proposals)


def box_forward_cascade(
    heads: CascadeROIHeads, features, proposals, targets: list[Instances] | None
) -> Iterator[BoxStage]:
    """Cascades: each stage runs on the regressed boxes of the stage before."""
    maps, sizes = [features[f] for f in heads.box_in_features], [p.image_size for p in proposals]
    predictions, weights = (), None
    for number, predictor in enumerate(heads.box_predictor):
        if number > 0:
            boxes = heads.box_predictor[number - 1].predict_boxes(predictions, proposals)
            if targets is None:
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
            else:
                # Detectron2 would fail an assertion on non-finite boxes; here their loss becomes NaN.
                finite = torch.cat([b.isfinite().all(dim=1) for b in boxes])
                boxes = [b.nan_to_num(0, 0, 0) for b in boxes]
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
                weights = _next_weights(weights, finite, proposals)
                proposals = heads._match_and_label_boxes(proposals, number, targets)
        predictions = heads._run_stage(maps, proposals, number)
        yield BoxStage(predictor, predictions, proposals, weights)


def _next_weights(weights: Tensor | None, finite: Tensor, proposals: list[Instances]) -> Tensor:
    """``BoxStage.weights`` of a stage: the weights of its own boxes times those of the stage before."""
    nonempty = torch.cat([p.proposal_boxes.nonempty() for p in proposals])
    own = torch.where(finite, nonempty.float(), float("nan"))
    return own if weights is None else weights * own


# Class of Detectron2 -> its function; a subclass comes before its base.
_FAMILIES = {
    CascadeROIHeads: box_forward_cascade,
    Res5ROIHeads: box_forward_res5,
    StandardROIHeads: box_forward_standard,
}
