"""What the heads say of given RoIs, before their detections are chosen.

Shape letters: R_i RoIs of image i, K foreground classes, L = K, or 1 where all classes share their boxes.
"""

from functools import singledispatch

from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RROIHeads
from detectron2.structures import Instances
from torch import Tensor


def class_predictions(
    heads: ROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[list[Tensor], list[Tensor]]:
    """Regressed boxes and class scores of `proposals`: what the inference of `heads` chooses detections from.

    Args:
        heads: of one of Detectron2's families, in eval mode.
        features: the feature maps that ``heads.forward`` would get.
        proposals: one `Instances` per image with ``proposal_boxes``.

    Returns:
        for each image boxes (R_i, L, 4), not clipped, and scores (R_i, K + 1), background last; both float32.

    Raises:
        ValueError: heads of no known family.
    """
    boxes, scores = _predict(heads, features, proposals)
    boxes = [b.float().reshape(len(b), b.shape[1] // 4, 4) for b in boxes]
    return boxes, [s.float() for s in scores]


def check_heads(heads: type) -> None:
    """Raise ValueError unless `class_predictions` can be had of such heads."""
    if not issubclass(heads, (StandardROIHeads, Res5ROIHeads)) or issubclass(heads, RROIHeads):
        raise ValueError(
            f"{heads.__qualname__} cannot be tested at many scales or with box voting: it derives from none "
            "of StandardROIHeads, Res5ROIHeads, CascadeROIHeads, or predicts rotated boxes"
        )


@singledispatch
def _predict(heads, features, proposals) -> tuple[list[Tensor], list[Tensor]]:
    check_heads(type(heads))


@_predict.register
def _(heads: StandardROIHeads, features, proposals):
    boxes = [p.proposal_boxes for p in proposals]
    pooled = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
    return _decode(heads.box_predictor, heads.box_predictor(heads.box_head(pooled)), proposals)


@_predict.register
def _(heads: Res5ROIHeads, features, proposals):
    boxes = [p.proposal_boxes for p in proposals]
    roi_features = heads._shared_roi_transform([features[f] for f in heads.in_features], boxes)
    return _decode(heads.box_predictor, heads.box_predictor(roi_features.mean(dim=[2, 3])), proposals)


@_predict.register
def _(heads: CascadeROIHeads, features, proposals):
    """Boxes of the last stage, scores averaged over the stages."""
    feature_list = [features[f] for f in heads.box_in_features]
    sizes, scores = [p.image_size for p in proposals], []
    for stage, predictor in enumerate(heads.box_predictor):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        boxes, of_stage = _decode(predictor, heads._run_stage(feature_list, proposals, stage), proposals)
        scores.append(of_stage)
    return boxes, [sum(of_image) * (1.0 / heads.num_cascade_stages) for of_image in zip(*scores)]


def _decode(predictor, predictions, proposals) -> tuple[list[Tensor], list[Tensor]]:
    return predictor.predict_boxes(predictions, proposals), predictor.predict_probs(predictions, proposals)
