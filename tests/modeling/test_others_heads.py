"""Heads that are not Detectron2's own, mined by the lines that docs/extending.md shows."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.utils.events import get_event_storage

from ohem_d2 import OHEMMixin

from ..zoo import make_batch, mined_tiny_cfg

PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"


@pytest.fixture
def pointrend_cfg():
    point_rend = pytest.importorskip("detectron2.projects.point_rend", reason="needs OpenCV")
    code = next(
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "PointRend" in block
    )
    assert len([line for line in code.splitlines() if line]) == 5
    exec(code, {"__name__": __name__})
    cfg = mined_tiny_cfg("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    point_rend.add_pointrend_config(cfg)
    opts = {
        "INPUT.MASK_FORMAT": "bitmask",
        "MODEL.ROI_HEADS.NAME": "OHEMPointRendROIHeads",
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
        "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
        "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
        "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
        "MODEL.ROI_MASK_HEAD.FC_DIM": 32,
        "MODEL.ROI_MASK_HEAD.NUM_FC": 2,
        "MODEL.POINT_HEAD.NUM_CLASSES": 80,
        "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
        "MODEL.POINT_HEAD.FC_DIM": 32,
        "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
    }
    cfg.merge_from_list([part for pair in opts.items() for part in pair])
    yield cfg
    del ROI_HEADS_REGISTRY._obj_map["OHEMPointRendROIHeads"]


def test_pointrend_is_mined_by_five_lines(storage, pointrend_cfg):
    torch.manual_seed(0)
    model, batch = build_model(pointrend_cfg), make_batch(pointrend_cfg)
    assert isinstance(model.roi_heads, OHEMMixin)
    losses = model.train()(batch)
    sum(losses.values()).backward()
    assert {"loss_mask", "loss_mask_point", "loss_cls", "loss_box_reg"} <= set(losses)
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert 0 < get_event_storage().latest()["ohem/num_selected"][0] <= 16
    with torch.no_grad():
        outputs = model.eval()([{"image": x["image"]} for x in batch])
    assert sum(len(output["instances"]) for output in outputs) > 0
    assert all(output["instances"].has("pred_masks") for output in outputs)
