"""Multi-scale testing and box voting, evaluators for VOC and COCO, their reports and submissions."""

from .coco_evaluation import COCOEvaluator
from .inference import RCNNWithTTA, build_test_model, check_testing
from .report import ReportedEvaluators, result_rows
from .soft_nms import soft_nms
from .submission import COCOSubmission, VOCSubmission
from .voc_evaluation import VOCEvaluator
from .voting import vote_boxes

__all__ = [
    "COCOEvaluator",
    "COCOSubmission",
    "RCNNWithTTA",
    "ReportedEvaluators",
    "VOCEvaluator",
    "VOCSubmission",
    "build_test_model",
    "check_testing",
    "result_rows",
    "soft_nms",
    "vote_boxes",
]
