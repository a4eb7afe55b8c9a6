"""Pooling in the read-only pass is Detectron2's, with less work."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ohem_d2 import OHEMOptions
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.pooling import pool_in_chunks, split_boxes
from ohem_d2.modeling.readonly_pass import candidate_losses

from ..builders import build_heads, make_inputs

SINGLE_LEVEL = ("MODEL.ROI_HEADS.IN_FEATURES", "['p2']", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool")


def pool(pooler, features, boxes, share, size=1000):
    """All chunks, one after the other, and the row of each RoI in them."""
    chunks, order, rows = pool_in_chunks(pooler, features, boxes, size, share)
    chunks = list(chunks)
    assert all(0 < len(chunk) <= size for chunk in chunks) or not sum(map(len, boxes))
    return torch.cat(chunks), rows if order is None else order.argsort()


def drawn_boxes(num_rois, seed, size=600):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_rois, 2, generator=generator) * size * 0.7
    return Boxes(
        torch.cat([corners, corners + 1 + torch.rand(num_rois, 2, generator=generator) * size * 0.3], dim=1)
    )


@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize("strides", [(4, 8, 16), (16,)])
@pytest.mark.parametrize("numbers", [(50, 30), (0, 20), (0, 0)])
@pytest.mark.parametrize("size", [7, 1000])
def test_each_roi_gets_what_detectron2s_pooler_gives_it(kind, strides, numbers, size):
    pooler = ROIPooler(5, [1 / s for s in strides], sampling_ratio=0, pooler_type=kind)
    features = [torch.randn(2, 4, 640 // s, 640 // s) for s in strides]
    boxes = [drawn_boxes(n, seed) for seed, n in enumerate(numbers)]
    for of_image in boxes:
        of_image.tensor[::3] *= 5  # of each level, and too large for the last
    pooled, rows = pool(pooler, features, boxes, True, size)
    assert torch.equal(pooled if rows is None else pooled[rows], pooler(features, boxes))


@pytest.mark.parametrize("seed", range(5))
def test_rois_are_shared_exactly_where_roi_pool_rounds_them_alike(seed):
    """The partition is that of a unique over rows of image and cells, also outside the image."""
    boxes = [drawn_boxes(300, seed + i, size=60) for i in range(3)]
    for b in boxes:
        b.tensor[:100] -= 50
    pooler = ROIPooler(3, [1 / 16], sampling_ratio=0, pooler_type="ROIPool")
    _, _, rows = pool_in_chunks(pooler, [torch.randn(3, 4, 10, 10)], boxes, 1000, share=True)
    cells = torch.cat([b.tensor for b in boxes]) / 16
    cells = torch.where(cells < 0, cells - 0.5, cells + 0.5).trunc() + 0.0
    images = torch.arange(3.0).repeat_interleave(300)
    _, expected = torch.cat([images[:, None], cells], dim=1).unique(dim=0, return_inverse=True)
    assert torch.equal(rows[:, None] == rows, expected[:, None] == expected) and len(rows.unique()) < 900


@pytest.mark.parametrize("numbers", [(3, 4, 2), (0, 5, 0), (1,), (0, 0), (9, 0, 1, 1)])
@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_chunks_are_of_every_roi_once_in_order_and_full_but_for_the_last(numbers, size):
    images = [list(range(100 * i, 100 * i + number)) for i, number in enumerate(numbers)]
    chunks = list(split_boxes(images, size))
    assert all(len(chunk) == len(images) for chunk in chunks)
    assert [sum((chunk[i] for chunk in chunks), []) for i in range(len(images))] == images
    lengths = [sum(map(len, chunk)) for chunk in chunks]
    full, rest = divmod(sum(numbers), size)
    assert lengths == [size] * full + [rest] * (rest > 0 or not full)


def test_borders_that_are_far_outside_every_feature_map_are_one():
    """Packed into one integer, a coordinate has 14 bits, in cells."""
    far = [[0, 0, 2**20, 2**20], [0, 0, 2**21, 2**21], [-(2**21), 0, 5, 5], [-(2**20), 0, 5, 5]]
    far = torch.tensor(far, dtype=torch.float32)
    pooler = ROIPooler(3, [1.0], sampling_ratio=0, pooler_type="ROIPool")
    pooled, rows = pool(pooler, [torch.randn(1, 1, 4, 4)], [Boxes(far)], share=True)
    assert rows[0] == rows[1] != rows[2] == rows[3] and len(pooled) == 2


def test_a_level_of_another_type_is_cast_while_it_is_needed_alone():
    pooler = ROIPooler(5, [1 / 4, 1 / 8, 1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2")
    features, boxes = [torch.randn(1, 4, 640 // s, 640 // s).half() for s in (4, 8, 16)], [drawn_boxes(60, 0)]
    pooled, rows = pool(pooler, features, boxes, True, 7)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled[rows], pooler([feature.float() for feature in features], boxes))


def test_rois_that_roi_pool_rounds_to_the_same_cells_are_pooled_once():
    # At stride 16 the first two round to cells (0, 0, 2, 2); a border at 24 pixels is 1.5 cells, and gives 2.
    boxes = torch.tensor([[0, 0, 32, 32], [7.9, 0, 39.9, 24], [8, 0, 32, 32], [0, 0, 32, 40]])
    pooler = ROIPooler(3, [1 / 16], sampling_ratio=0, pooler_type="ROIPool")
    features = [torch.randn(2, 4, 10, 10)]
    pooled, rows = pool(pooler, features, [Boxes(boxes), Boxes(boxes[:1])], share=True)
    assert len(pooled) == 4 and rows[0] == rows[1] and len(rows.unique()) == 4  # one more in the other image
    for share, kind in ((False, "ROIPool"), (True, "ROIAlign")):
        pooler = ROIPooler(3, [1 / 16], sampling_ratio=0, pooler_type=kind)
        pooled, rows = pool(pooler, features, [Boxes(boxes)], share=share)
        assert len(pooled) == 4 and rows is None


def test_another_class_of_pooler_is_called_as_it_is():
    class Doubled(ROIPooler):
        def forward(self, x, box_lists):
            return 2 * super().forward(x, box_lists)

    pooler, features, boxes = (
        Doubled(3, [1 / 16], 0, "ROIPool"),
        [torch.randn(1, 4, 40, 40)],
        [drawn_boxes(9, 0)],
    )
    pooled, rows = pool(pooler, features, boxes, share=True)
    assert rows is None and torch.equal(pooled, pooler(features, boxes))


def test_dropout_treats_equal_rois_each_for_itself(storage):
    heads, (features, proposals, targets) = build_heads(*SINGLE_LEVEL), make_inputs(num_images=1)
    proposals[0].proposal_boxes.tensor[:] = proposals[0].proposal_boxes.tensor[0]
    heads.box_head.add_module("dropout", torch.nn.Dropout(0.5).train())
    candidates = label_candidates(heads, proposals, targets)
    losses = [
        candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_dropout=d)).total
        for d in (False, True)
    ]
    assert len(losses[0].unique()) == 1 and len(losses[1].unique()) > 10
