"""Every R-CNN of Detectron2's model zoo is mined by changing `MODEL.ROI_HEADS.NAME` alone."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import get_event_storage

from ..zoo import MINED, family, make_batch, mined_tiny_cfg, needs_compiled_op, zoo_configs


def zoo_params():
    """All configs; those that repeat the code of an earlier one are slow tests."""
    seen, params = set(), []
    for name, cfg in zoo_configs().items():
        repeats = family(cfg) in seen or needs_compiled_op(cfg)
        seen.add(family(cfg))
        params.append(pytest.param(name, marks=[pytest.mark.slow] if repeats else []))
    return params


@pytest.mark.parametrize("name", zoo_params())
def test_a_model_of_the_zoo_trains_a_step_and_infers(storage, record_property, name):
    cfg = mined_tiny_cfg(name)
    record_property("heads", cfg.MODEL.ROI_HEADS.NAME)
    if needs_compiled_op(cfg):
        pytest.skip("deformable convolution trains only with detectron2._C on CUDA")
    torch.manual_seed(0)
    model, batch = build_model(cfg), make_batch(cfg)

    losses = model.train()(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()), losses
    mined, budget = get_event_storage().latest(), cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    assert 0 < mined["ohem/num_selected"][0] <= budget < mined["ohem/num_candidates"][0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "cls_score" in n)
    record_property("step", "ok")

    with torch.no_grad():
        outputs = model.eval()([{k: v for k, v in x.items() if k in ("image", "proposals")} for x in batch])
    assert len(outputs) == len(batch)
    assert all(detected(output, cfg) <= set(output["instances"].get_fields()) for output in outputs)
    assert any(len(output["instances"]) > 0 for output in outputs)
    assert all(
        ("panoptic_seg" in output) == (cfg.MODEL.META_ARCHITECTURE == "PanopticFPN") for output in outputs
    )
    record_property("inference", "ok")


def detected(output, cfg):
    masks, keypoints = (
        {"pred_masks"} if cfg.MODEL.MASK_ON else set(),
        ({"pred_keypoints"} if cfg.MODEL.KEYPOINT_ON else set()),
    )
    return {"pred_boxes", "scores", "pred_classes"} | masks | keypoints


def test_the_sweep_covers_the_zoo():
    configs = zoo_configs()
    assert {name.split("/")[0] for name in configs} >= {
        "COCO-Detection", "COCO-InstanceSegmentation", "COCO-Keypoints", "COCO-PanopticSegmentation",
        "Cityscapes", "Detectron1-Comparisons", "LVISv0.5-InstanceSegmentation",
        "LVISv1-InstanceSegmentation", "Misc", "PascalVOC-Detection",
    }  # fmt: skip
    assert {cfg.MODEL.ROI_HEADS.NAME for cfg in configs.values()} == set(MINED)
    assert len(configs) >= 50
