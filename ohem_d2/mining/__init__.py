"""Hard example mining on plain tensors: torch and torchvision only, no Detectron2, no config.

Everything here runs on the device of its inputs and can be used with any detector.
"""

from .losses import (
    box_iou_losses,
    classification_losses,
    encode_boxes,
    sigmoid_classification_losses,
    smooth_l1_losses,
)
from .readonly import read_only
from .selection import (
    RankedRoIs,
    check_finite,
    count_not_finite,
    rank_hard_rois,
    select_hard_rois,
)
from .suppression import suppress_duplicates

__all__ = [
    "RankedRoIs",
    "box_iou_losses",
    "check_finite",
    "classification_losses",
    "count_not_finite",
    "encode_boxes",
    "rank_hard_rois",
    "read_only",
    "select_hard_rois",
    "sigmoid_classification_losses",
    "smooth_l1_losses",
    "suppress_duplicates",
]
