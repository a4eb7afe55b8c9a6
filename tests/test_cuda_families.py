"""Training and inference of every family on CUDA, or on a device that pretends to be it.

Host-device synchronisations are counted, and what mining adds to them is asserted.
"""

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from ohem_d2.engine.accumulation import AccumulatingTrainer, build_inner_trainer
from ohem_d2.evaluation import build_test_model

from .evaluation.models import AUG, SOFT, VOTING, fields_of, inputs_of, model_of, record_of
from .evaluation.models import cfg_of as cfg_of_test
from .zoo import LEFT, make_batch, make_tiny, read_zoo_config

pytestmark = pytest.mark.cuda

HEADS = "MODEL.ROI_HEADS.NAME"
ENABLED = ("MODEL.IGNORE_REGIONS.ENABLED", True)
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
# Family -> config of the zoo, what makes it mined, and the most synchronisations that mining adds to an
# iteration of two images, which are those on Detectron2 0.6. RoI heads lose those of the parent's sampler.
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


@contextmanager
def counted_syncs(kernels):
    """A block whose synchronisations are counted: the item of the list that it gives.

    The pretended device counts them itself; of a GPU PyTorch warns at each.
    """
    count = []
    if kernels is not None:
        before = kernels.syncs.total()
        yield count
        count.append(kernels.syncs.total() - before)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield count
        finally:
            torch.cuda.set_sync_debug_mode("default")
    count.append(sum("called a synchronizing CUDA operation" in str(w.message) for w in caught))


@pytest.mark.parametrize("family", FAMILIES)
def test_mining_adds_so_many_synchronisations_and_no_more(family, cuda_device):
    syncs = {}
    for mined in (False, True):
        model, batch = build(family, mined)
        with EventStorage(), counted_syncs(cuda_device) as count:
            model(batch)
        syncs[mined] = count[0]
    assert syncs[False] > 0 and syncs[True] - syncs[False] <= FAMILIES[family][2]


# Family -> the synchronisations that ignoring adds to an iteration of two images that have regions: their
# copies, which a pretended device counts three times, and one for each filter of RoIs, of which a cascade has
# three. Anchors are labelled. Boxes of a stage of a cascade are counted as copied, too.
IGNORING = {"fast": 7, "c4": 7, "cascade": 13, "rpn": 6, "retinanet": 6}


@pytest.mark.parametrize("is_mining", [True, False], ids=["mined", "plain"])
@pytest.mark.parametrize("family", IGNORING)
def test_ignoring_adds_no_synchronisation_without_regions(family, is_mining, cuda_device):
    syncs = []
    for opts, regions in (((), ()), (ENABLED, ()), (ENABLED, (LEFT,))):
        torch.manual_seed(0)
        cfg = cfg_of(family)
        section = {"rpn": ".RPN", "retinanet": ".RETINANET"}.get(family, "")
        cfg.merge_from_list([f"MODEL.OHEM{section}.ENABLED", is_mining, *opts])
        model, batch = build_model(cfg), make_batch(cfg, regions=regions)
        with EventStorage(), counted_syncs(cuda_device) as count:
            model(batch)
        syncs.append(count[0])
    assert syncs[1] == syncs[0] and syncs[2] - syncs[0] <= IGNORING[family]


@pytest.mark.parametrize("kind", ["simple", "amp", "accumulating", "accumulating amp"])
def test_trainers_step_with_and_without_loss_scaling(kind):
    torch.manual_seed(0)
    cfg = cfg_of_test("MODEL.DEVICE", "cuda")
    model, batch = build_model(cfg), make_batch(cfg)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4, momentum=0.9)
    number, amp = 2 if kind.startswith("accumulating") else 1, kind.endswith("amp")
    trainer = build_inner_trainer(model, [batch] * 4, optimizer, number, amp)
    before = copy.deepcopy(model.state_dict())
    if amp:  # from its usual start the first steps overflow and are skipped
        trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=1.0)
    with EventStorage() as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
    moved = [
        k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.equal(v, before[k])
    ]
    assert moved and all(value.is_cuda for value in model.state_dict().values())


def scaling_trainer(kind):
    torch.manual_seed(0)
    cfg = cfg_of_test("MODEL.DEVICE", "cuda", "MODEL.OHEM.READONLY_DTYPE", "float32")
    model, batch = build_model(cfg), make_batch(cfg)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-4, momentum=0.9)
    if kind == "amp":
        return build_inner_trainer(model, [batch] * 4, optimizer, 1, amp=True)
    return AccumulatingTrainer(model, [batch] * 4, optimizer, 2, amp=True)


def run_steps(trainer, num_steps):
    with EventStorage() as trainer.storage:
        for trainer.iter in range(num_steps):
            trainer.run_step()
    return trainer.model.state_dict()


@pytest.mark.parametrize("kind", ["amp", "accumulating"])
def test_a_resumed_trainer_goes_on_with_its_momentum_and_loss_scale(kind, tmp_path):
    trainer = scaling_trainer(kind)
    trainer.grad_scaler = torch.amp.GradScaler("cuda", init_scale=2.0, growth_interval=1)
    run_steps(trainer, 1)
    torch.save([trainer.model.state_dict(), trainer.state_dict()], tmp_path / "state.pth")
    weights, state = torch.load(tmp_path / "state.pth", map_location="cpu")

    resumed = scaling_trainer(kind)
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    momentum, expected = (
        [entry["momentum_buffer"] for entry in x.optimizer.state.values()] for x in (resumed, trainer)
    )
    assert momentum and all(buffer.is_cuda for buffer in momentum)
    assert len(momentum) == len(expected) and all(map(torch.equal, momentum, expected))
    assert resumed.grad_scaler.get_scale() == trainer.grad_scaler.get_scale() == 4.0
    after, expected = (run_steps(x, 1) for x in (resumed, trainer))
    assert resumed.grad_scaler._scale.is_cuda and resumed.grad_scaler.get_scale() == 8.0
    for name, value in expected.items():
        assert after[name].is_cuda
        torch.testing.assert_close(after[name], value)


def test_one_process_under_nccl_trains_as_without(cuda_device, tmp_path):
    if cuda_device is not None:
        pytest.skip("NCCL needs a GPU")
    models, (_, batch) = [build("faster")[0] for _ in range(2)], build("faster")
    dist.init_process_group("nccl", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(models[0], device_ids=[0])
        losses = []
        for model in (parallel, models[1]):
            with EventStorage():
                torch.manual_seed(1)  # the RPN draws its anchors
                losses.append(model(copy.deepcopy(batch)))
            sum(losses[-1].values()).backward()
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(*(model.parameters() for model in models)):
        if theirs.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-2, atol=1e-4)


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
