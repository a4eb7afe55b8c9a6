"""What the pretended device finds: mistakes that only CUDA would show, planted on purpose."""

import inspect
import textwrap

import pytest
import torch
from detectron2.utils.events import EventStorage

from ohem_d2.evaluation import soft_nms, vote_boxes, voting
from ohem_d2.evaluation import soft_nms as soft_nms_function
from ohem_d2.mining import selection
from ohem_d2.modeling import anchors, candidates, pooling, retinanet

from .builders import random_boxes
from .pretended_cuda import pretended_cuda
from .test_cuda_families import build

SOFT_NMS = inspect.getmodule(soft_nms_function)


def step(family):
    def run():
        model, batch = build(family)
        batch[0]["instances"] = batch[0]["instances"][:0]
        with EventStorage():
            model(batch)

    return run


def vote():
    boxes = random_boxes(8).tensor.cuda()
    groups = torch.zeros(8, dtype=torch.long).cuda()
    vote_boxes(boxes, groups, boxes, torch.ones(8).cuda(), groups, 0.5)


def soften():
    soft_nms(random_boxes(8).tensor.cuda(), torch.rand(8).cuda(), torch.zeros(8).long().cuda(), 0.5, 0.0)


# Function, what is left out of it, and what then has to fail.
PLANTS = {
    "rank in image": (selection._rank_in_image, ", device=grouped_ids.device", step("fast")),
    "levels": (pooling._sort_by_level, ", device=levels.device", step("fast")),
    "labels": (candidates._match, ", device=device", step("fast")),
    "anchors": (anchors.mine_anchors, ", device=losses.device", step("rpn")),
    "classes": (retinanet.OHEMRetinaNetMixin._focal_losses, ", device=labels.device", step("retinanet")),
    "voters": (voting._vote, ", device=boxes.device", vote),
    "groups": (SOFT_NMS._by_group, ", device=boxes.device", soften),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_device_left_out_is_found(name, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("for machines without a GPU")
    function, text, run = PLANTS[name]
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    assert text in source
    namespace = dict(function.__globals__)
    exec(source.replace(text, ""), namespace)
    planted = inspect.unwrap(namespace[function.__name__])
    with pretended_cuda():
        run()
    monkeypatch.setattr(function, "__code__", planted.__code__)
    with pretended_cuda(), pytest.raises(RuntimeError, match="on the same device|expected all tensors"):
        run()


def test_numpy_does_not_read_the_device():
    with pretended_cuda(), pytest.raises(TypeError, match="can't convert cuda:0"):
        torch.ones(2).cuda().numpy()


def test_reads_copies_and_sizes_are_counted():
    with pretended_cuda() as kernels:
        x = torch.arange(4.0, device="cuda")
        assert not kernels.syncs
        x.tolist(), float(x.sum()), x.cpu(), x.nonzero(), x[x > 1], torch.tensor([1.0], device="cuda")
        x[x > 1] = 0.0  # by the mask itself
        assert kernels.syncs == {"tolist": 1, "__float__": 1, "copy to the host": 1, "aten::nonzero": 1,
                                 "aten::index": 1, "copy to the device": 1}  # fmt: skip
