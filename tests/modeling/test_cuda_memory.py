"""Peak memory of mined heads beside plain heads."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ..builders import tiny_cfg

pytestmark = pytest.mark.cuda

# Heads and RoIs as of an R50-FPN, on the two largest feature maps of images of SIZE x SIZE pixels.
SIZE = 512
SHAPES = {"p2": ShapeSpec(channels=256, stride=4), "p3": ShapeSpec(channels=256, stride=8)}
LARGE = (
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "512",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7",
    "MODEL.ROI_BOX_HEAD.NUM_FC", "2",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "1024",
)  # fmt: skip


def large_inputs(device):
    generator = torch.Generator().manual_seed(0)

    def boxes(number):
        corners = torch.rand(number, 2, generator=generator) * SIZE / 2
        sizes = 16 + torch.rand(number, 2, generator=generator) * SIZE / 3
        return Boxes(torch.cat([corners, corners + sizes], dim=1))

    features = {
        name: torch.randn(2, s.channels, SIZE // s.stride, SIZE // s.stride, generator=generator)
        for name, s in SHAPES.items()
    }
    proposals = [
        Instances((SIZE, SIZE), proposal_boxes=boxes(2000), objectness_logits=torch.zeros(2000))
        for _ in range(2)
    ]
    targets = [Instances((SIZE, SIZE), gt_boxes=boxes(5), gt_classes=torch.arange(5) % 3) for _ in range(2)]
    return (
        {name: x.to(device).requires_grad_() for name, x in features.items()},
        [x.to(device) for x in proposals],
        [x.to(device) for x in targets],
    )


def train_step(name, device, amp):
    """A function that trains heads of this name on one batch."""
    torch.manual_seed(0)
    heads = build_roi_heads(tiny_cfg("MODEL.ROI_HEADS.NAME", name, *LARGE), SHAPES).to(device).train()
    features, proposals, targets = large_inputs(device)

    def step():
        with EventStorage(), torch.autocast(device, enabled=amp):
            # Under AMP a backbone gives feature maps of half precision.
            maps = {
                name: x.to(torch.get_autocast_dtype(device)) if amp else x for name, x in features.items()
            }
            _, losses = heads(None, maps, proposals, targets)
        del maps
        sum(losses.values()).backward()
        for tensor in [*heads.parameters(), *features.values()]:
            tensor.grad = None

    return step


def peak_of(step):
    """Bytes that `step` allocates at most, above those before it."""
    step()  # what libraries keep is allocated now
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "amp"])
def test_mined_heads_need_no_more_memory_than_plain_heads(amp, cuda_device):
    if cuda_device is not None:
        pytest.skip("peak memory is measured on a GPU")
    plain, mined = (peak_of(train_step(name, "cuda", amp)) for name in ("StandardROIHeads", "OHEMROIHeads"))
    assert mined <= 1.02 * plain
