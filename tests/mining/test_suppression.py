"""The two ways to suppress duplicates, that of GPUs and that of CPUs, are one."""

import pytest
import torch

from ohem_d2.mining.suppression import _all_at_once, _group_by_group

from .test_selection import brute_force, random_rois


@pytest.mark.parametrize("suppress", [_all_at_once, _group_by_group])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("thresh", [0.0, 0.3, 0.7, 1.0])
def test_both_ways_equal_brute_force(suppress, levels, thresh):
    for seed in range(10):
        losses, boxes, images, _ = random_rois(seed, 60, levels=levels)
        kept = suppress(losses.double(), boxes.double(), images, thresh).tolist()
        assert sorted(kept) == sorted(brute_force(losses, boxes, images, 60, thresh))
        assert kept == sorted(kept, key=lambda i: (-losses[i].item(), i))


@pytest.mark.parametrize("suppress", [_all_at_once, _group_by_group])
def test_both_ways_take_no_boxes(suppress):
    assert suppress(
        torch.zeros(0).double(), torch.zeros(0, 4).double(), torch.zeros(0).long(), 0.7
    ).shape == (0,)


@pytest.mark.parametrize("suppress", [_all_at_once, _group_by_group])
def test_an_iou_equal_to_the_threshold_is_no_duplicate_however_far_its_group(suppress):
    # Intersection 70, union 100: IoU is 0.7 exactly.
    boxes, groups = (
        torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7]]).double().repeat(50, 1),
        torch.arange(50).repeat_interleave(2),
    )
    losses = torch.arange(100.0).double()
    assert len(suppress(losses, boxes, groups, 0.7)) == 100
    assert len(suppress(losses, boxes, groups, 0.6999)) == 50


@pytest.mark.parametrize("suppress", [_all_at_once, _group_by_group])
def test_groups_do_not_meet_where_coordinates_are_negative(suppress):
    boxes, groups = torch.tensor([[-10.0, -10, 10, 10]] * 2).double(), torch.arange(2)
    assert len(suppress(torch.ones(2).double(), boxes, groups, 0.5)) == 2
