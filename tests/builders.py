"""Tiny heads and inputs, built by hand."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_roi_heads
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_iou

from ohem_d2 import add_ohem_config

SHAPES = {"p2": ShapeSpec(channels=8, stride=4), "p3": ShapeSpec(channels=8, stride=8)}


@BACKBONE_REGISTRY.register()
class TinyBackbone(Backbone):
    """The feature maps of `SHAPES`, each by one convolution."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.p2 = torch.nn.Conv2d(3, 8, kernel_size=5, stride=4, padding=2)
        self.p3 = torch.nn.Conv2d(8, 8, kernel_size=3, stride=2, padding=1)

    def forward(self, images):
        p2 = self.p2(images)
        return {"p2": p2, "p3": self.p3(p2.relu())}

    def output_shape(self):
        return SHAPES


def tiny_cfg(*opts):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NAME = "OHEMROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0
    cfg.merge_from_list(list(opts))
    return cfg


def build_heads(*opts, seed=0):
    """Heads whose predictor is far from zero, so that the losses of RoIs differ."""
    torch.manual_seed(seed)
    heads = build_roi_heads(tiny_cfg(*opts), SHAPES).train()
    predictors = heads.box_predictor
    for predictor in predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]:
        torch.nn.init.normal_(predictor.cls_score.weight, std=1.0)
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=0.3)
    return heads


def random_boxes(num, size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(num, 2, generator=g) * (size - 20)
    return Boxes(torch.cat([corners, corners + 8 + torch.rand(num, 2, generator=g) * 12], dim=1))


def make_inputs(num_images=2, num_proposals=40, num_objects=2, seed=0):
    """Features, proposals and targets of images of 64 x 64 pixels; proposals partly on the objects."""
    g = torch.Generator().manual_seed(seed)
    features = {
        name: torch.randn(num_images, 8, 64 // s.stride, 64 // s.stride, generator=g)
        for name, s in SHAPES.items()
    }
    proposals, targets = [], []
    for i in range(num_images):
        target = Instances((64, 64), gt_boxes=random_boxes(num_objects, seed=seed + 10 * i))
        target.gt_classes = torch.arange(num_objects) % 3
        boxes = random_boxes(num_proposals, seed=seed + 10 * i + 1)
        near = min(num_proposals, 4 * num_objects)
        if near:
            jitter = torch.rand(near, 4, generator=g) * 4 - 2
            boxes.tensor[:near] = target.gt_boxes.tensor.repeat(4, 1)[:near] + jitter
        proposal = Instances(
            (64, 64), proposal_boxes=boxes, objectness_logits=torch.rand(num_proposals, generator=g)
        )
        proposals.append(proposal)
        targets.append(target)
    return features, proposals, targets


def hard_anchors(losses, anchors, candidates, budget, nms_thresh):
    """Brute force, one anchor at a time: the sorted indices of the hardest that are no duplicates."""
    kept = []
    for i in sorted(candidates.nonzero().flatten().tolist(), key=lambda i: (-losses[i].item(), i)):
        if not kept or box_iou(anchors[i : i + 1], anchors[kept]).max() <= nms_thresh:
            kept.append(i)
    return sorted(kept[:budget])
