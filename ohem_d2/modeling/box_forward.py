"""How RoIs become class scores and box deltas: the one thing that differs between Detectron2's families of RoI heads.

All private methods of these heads that the project leans on are called here and nowhere else.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from .pooling import pool_rois


class BoxStage(NamedTuple):
    """What one predictor makes of R RoIs. Only cascades have more than one stage."""

    predictor: nn.Module
    predictions: tuple[Tensor, ...]  # of ``predictor``: class scores and box deltas
    proposals: list[Instances]  # the RoIs that it was given, and in a cascade with targets their labels
    # (R,) factor of the loss of each RoI: 1, or after the first stage 0 where the stage before has left an empty box
    # and NaN where half precision has overflowed in it. None: 1 for all.
    weights: Tensor | None = None


def box_forward(
    heads: ROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    targets: list[Instances] | None = None,
) -> Iterator[BoxStage]:
    """Run the box head and its predictor on RoIs, stage by stage.

    Args:
        heads: of one of Detectron2's families, no submodule in training mode but dropout.
        features: the feature maps that ``heads.forward`` would get.
        proposals: one `Instances` per image with ``proposal_boxes``.
        targets: the objects of each image; later stages of a cascade are then labelled, each by its own matcher.
            None: as in inference.

    Raises:
        TypeError: see `find_box_forward`.
    """
    return find_box_forward(type(heads))(heads, features, proposals, targets)


def find_box_forward(heads: type):
    """The function of this file that runs such heads.

    Raises:
        TypeError: heads of no known family, or with rotated boxes.
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
    """Pooler, box head, predictor."""
    maps, boxes = [features[f] for f in heads.box_in_features], [p.proposal_boxes for p in proposals]
    has_dropout = any(m.training for m in heads.box_head.modules())  # nothing else is in training mode here
    pooled, rows = pool_rois(heads.box_pooler, maps, boxes, share=not has_dropout)
    box_features = heads.box_head(pooled)
    if rows is not None:
        box_features = box_features[rows]
    yield BoxStage(heads.box_predictor, heads.box_predictor(box_features), proposals)


def box_forward_res5(
    heads: Res5ROIHeads, features, proposals, targets: list[Instances] | None
) -> Iterator[BoxStage]:
    """Pooler and fifth stage of the ResNet, mean over the cells, predictor."""
    maps, boxes = [features[f] for f in heads.in_features], [p.proposal_boxes for p in proposals]
    box_features = heads._shared_roi_transform(maps, boxes).mean(dim=[2, 3])
    yield BoxStage(heads.box_predictor, heads.box_predictor(box_features), proposals)


def box_forward_cascade(
    heads: CascadeROIHeads, features, proposals, targets: list[Instances] | None
) -> Iterator[BoxStage]:
    """Each stage on the boxes of the one before."""
    maps, sizes, weights = (
        [features[f] for f in heads.box_in_features],
        [p.image_size for p in proposals],
        None,
    )
    predictions = ()
    for number, predictor in enumerate(heads.box_predictor):
        if number > 0:
            boxes = heads.box_predictor[number - 1].predict_boxes(predictions, proposals)
            if targets is None:
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
            else:
                # Boxes that are not finite are told by the loss, where Detectron2 asserts on the boxes.
                finite = torch.cat([b.isfinite().all(dim=1) for b in boxes])
                boxes = [b.nan_to_num(0, 0, 0) for b in boxes]
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
                weights = _next_weights(weights, finite, proposals)
                proposals = heads._match_and_label_boxes(proposals, number, targets)
        predictions = heads._run_stage(maps, proposals, number)
        yield BoxStage(predictor, predictions, proposals, weights)


def _next_weights(weights: Tensor | None, finite: Tensor, proposals: list[Instances]) -> Tensor:
    """`BoxStage.weights` of a stage from those of the stage before; what is lost once stays lost."""
    nonempty = torch.cat([p.proposal_boxes.nonempty() for p in proposals])
    own = torch.where(finite, nonempty.float(), float("nan"))
    return own if weights is None else weights * own


# Class of Detectron2 -> its function; a class that derives from another one comes first.
_FAMILIES = {
    CascadeROIHeads: box_forward_cascade,
    Res5ROIHeads: box_forward_res5,
    StandardROIHeads: box_forward_standard,
}
