"""Box predictions before NMS.

Shape letters: R_i = RoIs of image i, K = foreground classes, L = K, or 1 for class-agnostic boxes.
"""

from typing import Any

from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..modeling.box_forward import box_forward, find_box_forward


def class_predictions(
    heads: ROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[list[Tensor], list[Tensor]]:
    """Regressed boxes and class scores of `proposals`, as the inference of `heads` has them before NMS.

    For a cascade, these are the boxes of the last stage and the mean of the scores of all stages.

    Args:
        heads: of one of Detectron2's families, in eval mode.
        features: the feature maps, as for ``heads.forward``.
        proposals: one `Instances` per image with ``proposal_boxes``.

    Returns:
        per image boxes (R_i, L, 4), not clipped, and scores (R_i, K + 1), background last; both float32.

    Raises:
        TypeError: heads of no known family, or for rotated boxes.
    """
    stages = list(box_forward(heads, features, proposals))
    last = stages[-1]
    boxes = last.predictor.predict_boxes(last.predictions, last.proposals)
    scores = [s.predictor.predict_probs(s.predictions, s.proposals) for s in stages]
    return (
        [b.float().reshape(len(b), b.shape[1] // 4, 4) for b in boxes],
        [sum(of_image).float() * (1.0 / len(stages)) for of_image in zip(*scores)],
    )


def thresholds(model: nn.Module) -> dict[str, Any]:
    """``score_thresh``, ``nms_thresh`` and ``topk`` of the detections, as `model` was built with them.

    Raises:
        ValueError: it is no R-CNN with a predictor of Detectron2.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    predictor = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    last = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    if not isinstance(last, FastRCNNOutputLayers):
        raise ValueError(
            f"testing at many scales, box voting and soft-NMS are for R-CNNs; {type(model).__name__} is none"
        )
    return {
        "score_thresh": last.test_score_thresh,
        "nms_thresh": last.test_nms_thresh,
        "topk": last.test_topk_per_image,
    }


def check_heads(heads: type) -> None:
    """Raise ValueError unless `class_predictions` can run heads of this class."""
    try:
        find_box_forward(heads)
    except TypeError as error:
        raise ValueError(f"no testing at many scales or with box voting: {error}") from None
