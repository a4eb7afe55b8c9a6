"""Training and inference of every family on CUDA, or on a device that pretends to be it.

On the pretended device host-device synchronisations are counted, and what mining adds to them is asserted.
"""

import copy

import pytest
import torch
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from ohem_d2.engine.accumulation import AccumulatingTrainer
from ohem_d2.evaluation import build_test_model

from .evaluation.models import AUG, SOFT, VOTING, fields_of, inputs_of, model_of, record_of
from .evaluation.models import cfg_of as cfg_of_test
from .zoo import make_batch, make_tiny, read_zoo_config

pytestmark = pytest.mark.cuda

HEADS = "MODEL.ROI_HEADS.NAME"
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
# Family -> config of the zoo, what makes it mined, and the synchronisations that mining adds to an iteration
# of two images. RoI heads lose those of the parent's sampler.
FAMILIES = {
    "fast": ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", (HEADS, "OHEMROIHeads"), -1),
    "faster": (FASTER, (HEADS, "OHEMROIHeads"), -1),
    "c4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", (HEADS, "OHEMRes5ROIHeads"), -2),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", (HEADS, "OHEMCascadeROIHeads"), 21),
    "mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", (HEADS, "OHEMROIHeads"), -1),
    "vgg": ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", (HEADS, "OHEMROIHeads"), -1),
    "rpn": (FASTER, ("MODEL.PROPOSAL_GENERATOR.NAME", "OHEMRPN"), 2),
    "retinanet": (
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
        ("MODEL.META_ARCHITECTURE", "OHEMRetinaNet"),
        5,
    ),
}
SMALL = {
    "c4": ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8,
           "MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    "vgg": ("MODEL.BACKBONE.NAME", "VGG16", "MODEL.ROI_HEADS.IN_FEATURES", ["conv5"],
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
}  # fmt: skip


def cfg_of(family, mined=True):
    name, opts, _ = FAMILIES[family]
    cfg = read_zoo_config(name)
    make_tiny(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cuda", "MODEL.RPN.POST_NMS_TOPK_TRAIN", 16, *SMALL.get(family, ())])
    if mined:
        cfg.merge_from_list(list(opts))
    return cfg


def build(family, mined=True):
    torch.manual_seed(0)
    cfg = cfg_of(family, mined)
    return build_model(cfg), make_batch(cfg)


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "amp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_and_an_inference(family, amp, cuda_device):
    if family == "vgg" and amp and cuda_device is not None:
        pytest.skip("torchvision has autocast of RoIPool for CUDA alone")
    model, batch = build(family)
    with EventStorage():
        with torch.autocast("cuda", enabled=amp):
            losses = model(batch)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.is_cuda for p in trained) and all(p.grad is None or p.grad.is_cuda for p in trained)
    assert any(p.grad is not None for p in trained)
    with torch.no_grad(), torch.autocast("cuda", enabled=amp):
        found = model.eval()(batch)
    assert all(output["instances"].pred_boxes.device.type == "cuda" for output in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_mining_adds_so_many_synchronisations_and_no_more(family, cuda_device):
    if cuda_device is None:
        pytest.skip("synchronisations are counted on the pretended device")
    syncs = {}
    for mined in (False, True):
        model, batch = build(family, mined)
        before = cuda_device.syncs.total()
        with EventStorage():
            model(batch)
        syncs[mined] = cuda_device.syncs.total() - before
    assert syncs[True] - syncs[False] == FAMILIES[family][2]


@pytest.mark.parametrize("kind", ["simple", "amp", "accumulating", "accumulating amp"])
def test_trainers_step_with_and_without_loss_scaling(kind):
    torch.manual_seed(0)
    cfg = cfg_of_test("MODEL.DEVICE", "cuda")
    model, batch = build_model(cfg), make_batch(cfg)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4, momentum=0.9)
    trainers = {
        "simple": lambda: SimpleTrainer(model, [batch] * 4, optimizer),
        "amp": lambda: AMPTrainer(model, [batch] * 4, optimizer),
        "accumulating": lambda: AccumulatingTrainer(model, [batch] * 4, optimizer, 2, amp=False),
        "accumulating amp": lambda: AccumulatingTrainer(model, [batch] * 4, optimizer, 2, amp=True),
    }
    trainer, before = trainers[kind](), copy.deepcopy(model.state_dict())
    if kind.endswith("amp"):  # from its usual start the first steps overflow and are skipped
        trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=1.0)
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
    moved = [
        k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.equal(v, before[k])
    ]
    assert moved and all(value.is_cuda for value in model.state_dict().values())
    resumed = trainers[kind]()
    resumed.load_state_dict(trainer.state_dict())
    assert all(
        value.is_cuda
        for state in resumed.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


SCALES = (*AUG, "(48, 64)")


@pytest.mark.parametrize(
    "opts",
    [VOTING, SOFT, SCALES, (*SCALES, *VOTING, "TEST.AUG.COMBINE", "proposals")],
    ids=["voting", "soft-NMS", "scales", "scales, voting"],
)
def test_testing_as_the_paper_is_that_of_the_cpu(opts, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        cfg = cfg_of_test("MODEL.DEVICE", device, *opts)
        inputs = inputs_of(cfg, record_of(tmp_path))
        with torch.no_grad():
            found[device] = build_test_model(cfg, model_of(cfg))([inputs])[0]["instances"]
    assert found["cuda"].pred_boxes.device.type == "cuda"
    expected, fields = fields_of(found["cpu"]), fields_of(found["cuda"].to("cpu"))
    for name in expected:
        torch.testing.assert_close(fields[name], expected[name], rtol=1e-3, atol=1e-3)
