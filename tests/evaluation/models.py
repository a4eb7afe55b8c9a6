"""Tiny R-CNNs of every family, and images with proposals for them."""

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from ..builders import tiny_cfg

HEADS = "MODEL.ROI_HEADS.NAME"
FAMILIES = {
    "standard": (HEADS, "StandardROIHeads"),
    "mined": (HEADS, "OHEMROIHeads"),
    "agnostic": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    "res5": (HEADS, "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", "['p3']",
             "MODEL.RESNETS.RES2_OUT_CHANNELS", "2", "MODEL.RESNETS.WIDTH_PER_GROUP", "1",
             "MODEL.RESNETS.NORM", "''"),
    "cascade": (HEADS, "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    "mask": ("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
             "MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"),
    "keypoint": ("MODEL.KEYPOINT_ON", "True", "DATASETS.TRAIN", "('keypoints_coco_2017_train',)",
                 "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "3"),
}  # fmt: skip
RPN = ("MODEL.PROPOSAL_GENERATOR.NAME", "RPN", "MODEL.LOAD_PROPOSALS", "False",
       "MODEL.RPN.IN_FEATURES", "['p2', 'p3']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]",
       "MODEL.RPN.POST_NMS_TOPK_TEST", "30")  # fmt: skip
AUG = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MAX_SIZE", "200", "TEST.AUG.FLIP", "False", "TEST.AUG.MIN_SIZES")
VOTING = ("TEST.BOX_VOTING.ENABLED", "True")
SOFT = ("TEST.SOFT_NMS.ENABLED", "True")
SIZE = (60, 80)


def cfg_of(*opts):
    """Tested at 64 pixels, on precomputed proposals unless `RPN` is among the options."""
    return tiny_cfg(
        "MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.BACKBONE.NAME", "TinyBackbone",
        "MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals",
        "MODEL.PIXEL_STD", "[60.0, 60.0, 60.0]",
        "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "200", *opts,
    )  # fmt: skip


def model_of(cfg, seed=0):
    """In eval mode; with predictors far enough from zero that boxes and scores differ."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    predictors = model.roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]:
        torch.nn.init.normal_(predictor.cls_score.weight, std=1.0)
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=1.0)
    return model


def record_of(tmp_path, num_proposals=40, seed=0):
    """A dataset dict: an image file of `SIZE` and its proposals."""
    g = np.random.default_rng(seed)
    file = tmp_path / f"{seed}.png"
    Image.fromarray(g.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(file)
    corners = g.uniform(0, 40, (num_proposals, 2))
    boxes = np.concatenate([corners, corners + g.uniform(5, 40, (num_proposals, 2))], axis=1).astype(
        np.float32
    )
    boxes = boxes.clip(0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)
    return {
        "file_name": str(file),
        "image_id": str(seed),
        "height": SIZE[0],
        "width": SIZE[1],
        "proposal_boxes": boxes,
        "proposal_objectness_logits": np.zeros(num_proposals, np.float32),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }


def inputs_of(cfg, record):
    """As the test loader would give it: resized, or with TEST.AUG at its own size."""
    options = {"augmentations": []} if cfg.TEST.AUG.ENABLED else {}
    return DatasetMapper(cfg, False, **options)(dict(record))


def detect(model, inputs):
    with torch.no_grad():
        return [output["instances"] for output in model(inputs)]


def fields_of(instances: Instances):
    return {k: v.tensor if isinstance(v, Boxes) else v for k, v in instances.get_fields().items()}


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        a, b = fields_of(a), fields_of(b)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), {
            k: (a[k], b[k]) for k in a if not torch.equal(a[k], b[k])
        }
