"""Images without objects, as Detectron2's mapper makes them, train in every family of heads and every arm."""

import pytest
import torch
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage

from ohem_d2.mining.rules import RULES
from ohem_d2.utils.regions import TargetsWithRegions

from ..builders import build_heads, make_inputs
from ..zoo import make_batch, make_tiny, mined_tiny_cfg, read_zoo_config

CASCADE = ("MODEL.ROI_HEADS.NAME", "OHEMCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")
PLAIN = ("MODEL.OHEM.ENABLED", "False")
ALL_ROIS = (
    *PLAIN,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "4096",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "1.0",
)
FROM_TENTH = ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.1, 0.5]", "MODEL.ROI_HEADS.IOU_LABELS", "[-1, 0, 1]")
ARMS = {
    **{rule.__name__: ("MODEL.OHEM.RULE", rule.__name__) for rule in RULES},
    "naive": ("MODEL.OHEM.NAIVE", "True"),
    "per class": ("MODEL.OHEM.NMS_PER_CLASS", "True"),
    "batch": ("MODEL.OHEM.BUDGET", "batch"),
    "by cls": ("MODEL.OHEM.RANK_BY", "cls"),
    "cascade": CASCADE,
    "plain": PLAIN,
    # Background from IoU 0.1: without objects all RoIs are background, as in Detectron2.
    "plain, bg0.1": (*PLAIN, *FROM_TENTH),
    "OHEM, bg0.1": FROM_TENTH,
    "focal": (*ALL_ROIS, "MODEL.CLS_LOSS.NAME", "focal"),
    "sampling-free": (*ALL_ROIS, "MODEL.CLS_LOSS.NAME", "guided", "MODEL.CLS_LOSS.PRIOR", "0.05"),
    "focal, mined": ("MODEL.CLS_LOSS.NAME", "focal"),
    "giou": ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"),
    "ignoring": ("MODEL.IGNORE_REGIONS.ENABLED", "True"),
}  # fmt: skip


@pytest.mark.parametrize("objects", [(0,), (0, 0), (0, 2)], ids=str)
@pytest.mark.parametrize("arm", ARMS)
def test_the_heads_train_on_their_background(storage, arm, objects):
    features, proposals, targets = make_inputs(num_images=len(objects))
    for i, number in enumerate(objects):
        if number == 0:
            targets[i] = annotations_to_instances([], (64, 64))
    targets = [TargetsWithRegions(t.image_size, Boxes(torch.zeros(0, 4)), **t.get_fields()) for t in targets]
    heads = build_heads(*ARMS[arm], "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False")
    trained, losses = heads(None, features, proposals, targets)
    sum(losses.values()).backward()
    taken = [int((p.gt_classes >= 0).sum()) for p in trained]  # naive mining marks the easy ones with -1
    budget = 40 if arm in ("focal", "sampling-free") else 8  # of 40 proposals
    assert sum(taken) == budget * len(objects) and (arm == "batch" or len(set(taken)) == 1)
    empty = [p.gt_classes for p, number in zip(trained, objects) if number == 0]
    assert all((classes[classes >= 0] == heads.num_classes).all() for classes in empty)
    predictors = heads.box_predictor if arm == "cascade" else [heads.box_predictor]
    # Sampling-free training scales the classification loss to the box loss, which background lacks.
    is_scaled_to_zero = arm == "sampling-free" and not any(objects)
    assert all((p.cls_score.weight.grad.abs().sum() == 0) == is_scaled_to_zero for p in predictors)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())
    if not any(objects):
        assert all(loss == 0 for name, loss in losses.items() if "box" in name)


ZOO = [
    "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
]


def config_of(name):
    """A mined R-CNN with a mined RPN, or a mined RetinaNet."""
    if "retinanet" in name:
        cfg = read_zoo_config(name)
        make_tiny(cfg)
        cfg.MODEL.META_ARCHITECTURE = "OHEMRetinaNet"
    else:
        cfg = mined_tiny_cfg(name)
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "OHEMRPN"
    return cfg


@pytest.mark.parametrize("name", [*ZOO, "COCO-Detection/retinanet_R_50_FPN_1x.yaml"])
def test_whole_models_train_on_one_image_without_objects_and_on_a_batch_of_them(storage, name):
    cfg = config_of(name)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for num_images in (1, 2):
        batch = make_batch(cfg, num_images)
        for x in batch:
            x["instances"] = annotations_to_instances([], x["image"].shape[1:], cfg.INPUT.MASK_FORMAT)
        model.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        trained = {n: p for n, p in model.named_parameters() if "cls_score.weight" in n}
        assert trained and all(p.grad.abs().sum() > 0 for p in trained.values())
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        if "retinanet" not in name:
            assert get_event_storage().latest()["ohem/fg_fraction"][0] == 0
