"""What only a GPU can show."""

import copy

import pytest
import torch

from ohem_d2 import OHEMOptions
from ohem_d2.mining import rank_hard_rois, select_hard_rois
from ohem_d2.modeling.candidates import candidate_losses, label_candidates

from ..builders import build_heads, make_inputs

pytestmark = pytest.mark.cuda


def on_cuda(features, proposals, targets):
    return (
        {k: v.cuda() for k, v in features.items()},
        [p.to("cuda") for p in proposals],
        [t.to("cuda") for t in targets],
    )


@pytest.mark.parametrize("nms_thresh", [None, 0.3, 0.7])
@pytest.mark.parametrize("pooled", [None, 3])
def test_the_gpu_selects_what_the_cpu_selects(nms_thresh, pooled):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randint(0, 60, (500, 2), generator=generator)
        boxes = torch.cat(
            [corners, corners + torch.randint(1, 40, (500, 2), generator=generator)], dim=1
        ).float()
        losses = torch.randint(0, 50, (500,), generator=generator).float()  # many ties
        images = torch.randint(0, 3, (500,), generator=generator)
        cpu = rank_hard_rois(losses, boxes, images, 20, nms_thresh, num_images=pooled)
        gpu = rank_hard_rois(losses.cuda(), boxes.cuda(), images.cuda(), 20, nms_thresh, num_images=pooled)
        assert gpu.order.is_cuda and gpu.num_selected.is_cuda and gpu.num_selected == cpu.num_selected
        assert torch.equal(gpu.order.cpu(), cpu.order) and torch.equal(gpu.survivors.cpu(), cpu.survivors)


@pytest.mark.parametrize("thresh, height", [(0.7, 7), (0.3, 3), (0.5, 5), (0.9, 9)])
def test_an_iou_equal_to_the_threshold_is_no_duplicate(thresh, height):
    # Boxes of 10 x 10 and 10 x `height`: the IoU is `thresh` exactly, which float32 may round below itself.
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, height]]).float().repeat(50, 1)
    losses, images = torch.arange(100.0), torch.arange(50).repeat_interleave(2)
    assert len(select_hard_rois(losses.cuda(), boxes.cuda(), images.cuda(), 2, thresh)) == 100
    assert len(select_hard_rois(losses.cuda(), boxes.cuda(), images.cuda(), 2, thresh - 0.001)) == 50


def test_the_losses_of_the_gpu_are_those_of_the_cpu(storage):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    options = OHEMOptions(readonly_dtype="float32")
    cpu = candidate_losses(heads, features, label_candidates(heads, proposals, targets), targets, options)
    heads, (features, proposals, targets) = heads.cuda(), on_cuda(features, proposals, targets)
    gpu = candidate_losses(heads, features, label_candidates(heads, proposals, targets), targets, options)
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("readonly", ["auto", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("heads", ["OHEMROIHeads", "OHEMCascadeROIHeads"])
def test_mixed_precision_trains_every_parameter(storage, dtype, readonly, heads):
    agnostic = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True") if "Cascade" in heads else ()
    model = build_heads(
        "MODEL.ROI_HEADS.NAME", heads, "MODEL.OHEM.READONLY_DTYPE", readonly, *agnostic
    ).cuda()
    inputs = on_cuda(*make_inputs())
    with torch.autocast("cuda", dtype=dtype):
        trained, losses = model(None, *copy.deepcopy(inputs))
    sum(losses.values()).backward()
    assert all(len(p) == 8 for p in trained)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_mining_pass_leaves_the_gpus_generator_alone(storage):
    heads = build_heads("MODEL.OHEM.READONLY_DROPOUT", "True")
    heads.box_head.add_module("dropout", torch.nn.Dropout(0.5).train())
    heads, (features, proposals, targets) = heads.cuda(), on_cuda(*make_inputs())
    before = torch.cuda.get_rng_state()
    candidate_losses(heads, features, label_candidates(heads, proposals, targets), targets, heads.ohem)
    assert torch.equal(torch.cuda.get_rng_state(), before)
