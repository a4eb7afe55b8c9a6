"""Pooling in the read-only pass is Detectron2's, with less work."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from ohem_d2 import OHEMOptions
from ohem_d2.modeling.candidates import candidate_losses, label_candidates
from ohem_d2.modeling.pooling import pool_rois

from ..builders import build_heads, make_inputs

SINGLE_LEVEL = ("MODEL.ROI_HEADS.IN_FEATURES", "['p2']", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool")


def drawn_boxes(num_rois, seed, size=600):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_rois, 2, generator=generator) * size * 0.7
    return Boxes(
        torch.cat([corners, corners + 1 + torch.rand(num_rois, 2, generator=generator) * size * 0.3], dim=1)
    )


@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize("strides", [(4, 8, 16), (16,)])
@pytest.mark.parametrize("numbers", [(50, 30), (0, 20), (0, 0)])
def test_each_roi_gets_what_detectron2s_pooler_gives_it(kind, strides, numbers):
    pooler = ROIPooler(5, [1 / s for s in strides], sampling_ratio=0, pooler_type=kind)
    features = [torch.randn(2, 4, 640 // s, 640 // s) for s in strides]
    boxes = [drawn_boxes(n, seed) for seed, n in enumerate(numbers)]
    pooled, rows = pool_rois(pooler, features, boxes, share=True)
    assert torch.equal(pooled if rows is None else pooled[rows], pooler(features, boxes))


def test_rois_that_roi_pool_rounds_to_the_same_cells_are_pooled_once():
    # At stride 16 the first two round to cells (0, 0, 2, 2); a border at 24 pixels is 1.5 cells, and gives 2.
    boxes = torch.tensor([[0, 0, 32, 32], [7.9, 0, 39.9, 24], [8, 0, 32, 32], [0, 0, 32, 40]])
    pooler = ROIPooler(3, [1 / 16], sampling_ratio=0, pooler_type="ROIPool")
    features = [torch.randn(2, 4, 10, 10)]
    pooled, rows = pool_rois(pooler, features, [Boxes(boxes), Boxes(boxes[:1])], share=True)
    assert len(pooled) == 4 and rows[0] == rows[1] and len(rows.unique()) == 4  # one more in the other image
    for share, kind in ((False, "ROIPool"), (True, "ROIAlign")):
        pooler = ROIPooler(3, [1 / 16], sampling_ratio=0, pooler_type=kind)
        pooled, rows = pool_rois(pooler, features, [Boxes(boxes)], share=share)
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
    pooled, rows = pool_rois(pooler, features, boxes, share=True)
    assert rows is None and torch.equal(pooled, pooler(features, boxes))


def test_dropout_treats_equal_rois_each_for_itself(storage):
    heads, (features, proposals, targets) = build_heads(*SINGLE_LEVEL), make_inputs(num_images=1)
    proposals[0].proposal_boxes.tensor[:] = proposals[0].proposal_boxes.tensor[0]
    heads.box_head.add_module("dropout", torch.nn.Dropout(0.5).train())
    candidates = label_candidates(heads, proposals, targets)
    losses = [
        candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_dropout=d))
        for d in (False, True)
    ]
    assert len(losses[0].unique()) == 1 and len(losses[1].unique()) > 10
