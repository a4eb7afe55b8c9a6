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
    HardRoIs,
    RankedRoIs,
    check_selection,
    mine_by_rule,
    mine_hard_rois,
    rank_hard_rois,
    select_hard_rois,
)
from .suppression import suppress_duplicates

__all__ = [
    "HardRoIs",
    "RankedRoIs",
    "box_iou_losses",
    "check_selection",
    "classification_losses",
    "encode_boxes",
    "mine_by_rule",
    "mine_hard_rois",
    "rank_hard_rois",
    "read_only",
    "select_hard_rois",
    "sigmoid_classification_losses",
    "smooth_l1_losses",
    "suppress_duplicates",
]
