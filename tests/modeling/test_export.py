"""Mined models are exported as Detectron2 exports its own, and share its checkpoints."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.testing import assert_instances_allclose, reload_script_model
from torch import Tensor, nn

from ohem_d2 import OHEMMixin

from ..zoo import HEIGHT, WIDTH, make_batch, mined_tiny_cfg, zoo_configs

FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
BOXES = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
FIELDS = {
    "proposal_boxes": Boxes,
    "objectness_logits": Tensor,
    "pred_boxes": Boxes,
    "scores": Tensor,
    "pred_classes": Tensor,
    "pred_masks": Tensor,
}


def build_mined(name):
    torch.manual_seed(0)
    return build_model(mined_tiny_cfg(name)).eval()


def build_plain(name, seed=0):
    cfg = mined_tiny_cfg(name)
    cfg.MODEL.ROI_HEADS.NAME = zoo_configs()[name].MODEL.ROI_HEADS.NAME
    torch.manual_seed(seed)
    return build_model(cfg).eval()


def image():
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0)).float()


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [FPN, pytest.param(C4, marks=pytest.mark.slow)]
)  # Detectron2 scripts no cascade
def test_a_scripted_model_detects_as_the_eager_one(name):
    model, inputs = build_mined(name), [{"image": image()}, {"image": nn.functional.avg_pool2d(image(), 2)}]
    eager = model.inference(inputs, do_postprocess=False)[0]
    scripted = reload_script_model(scripting_with_instances(model, FIELDS))
    assert len(eager) > 0
    assert_instances_allclose(eager, scripted.inference(inputs, do_postprocess=False)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
# Detectron2 cannot trace on the CPU how masks are pasted into the image: boxes alone are post-processed.
@pytest.mark.parametrize("name, postprocess", [(FPN, False), (C4, False), (CASCADE, False), (BOXES, True)])
def test_a_traced_model_detects_as_the_eager_one(name, postprocess):
    def infer(model, image):
        inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]}]
        output = model.inference(inputs, do_postprocess=postprocess)[0]
        return output["instances"] if postprocess else output

    model = build_mined(name)
    wrapper = TracingAdapter(model, (image(),), infer).eval()
    traced = torch.jit.trace(wrapper, (nn.functional.interpolate(image()[None], scale_factor=0.7)[0],))
    eager = infer(model, image())
    assert len(eager) > 0
    assert_instances_allclose(eager, wrapper.outputs_schema(traced(image())), size_as_tensor=True)


def test_scripting_takes_the_parents_code_and_leaves_the_heads_alone():
    heads = build_mined(FPN).roi_heads
    plain = heads.__prepare_scriptable__()
    assert not isinstance(plain, OHEMMixin) and type(plain).__mro__[1:] == type(heads).__mro__[3:]
    assert isinstance(heads, OHEMMixin) and type(heads).__name__ == "OHEMROIHeads"
    assert all(a is b for a, b in zip(plain.parameters(), heads.parameters()))
    plain.box_head = None
    assert heads.box_head is not None


@torch.no_grad()
@pytest.mark.parametrize("name", [FPN, C4, CASCADE])
def test_a_checkpoint_moves_between_plain_and_mined_and_inference_is_bit_equal(tmp_path, name):
    plain, mined = build_plain(name, seed=1), build_mined(name)
    assert list(plain.state_dict()) == list(mined.state_dict())
    for source, target in ((plain, mined), (build_mined(name), build_plain(name, seed=2))):
        assert any(
            not torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items()
        )
        DetectionCheckpointer(source, str(tmp_path)).save("weights")
        DetectionCheckpointer(target).load(str(tmp_path / "weights.pth"))
        assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
        for a, b in zip(*(model(make_batch(mined_tiny_cfg(name))) for model in (source, target))):
            a, b = a["instances"].get_fields(), b["instances"].get_fields()
            assert len(a["scores"]) > 0
            assert torch.equal(a.pop("pred_boxes").tensor, b.pop("pred_boxes").tensor)
            assert all(torch.equal(a[field], b[field]) for field in a)
