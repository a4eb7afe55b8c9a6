"""Candidates are labelled as the matcher of the heads labels them."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from ohem_d2.modeling.candidates import as_sampled, label_candidates

from ..builders import build_heads, make_inputs


class NothingMatches(Matcher):
    def __call__(self, ious):
        matched, labels = super().__call__(ious)
        return matched, torch.zeros_like(labels)


@pytest.mark.parametrize("kind", [Matcher, NothingMatches])
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize(
    "thresholds, labels", [([0.5], [0, 1]), ([0.25, 0.5], [-1, 0, 1]), ([0.25, 0.5], [0, -1, 1])]
)
def test_labels_are_the_matchers(kind, low_quality, thresholds, labels):
    heads = build_heads()
    heads.proposal_matcher = kind(thresholds, labels, allow_low_quality_matches=low_quality)
    objects = Boxes(torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 50]]))
    # IoU with the first object 1, 0.5, 0.25 (on both thresholds) and 0.1; with the second 0.4; 0 with both.
    heights = torch.tensor([10.0, 5, 2.5, 1])
    boxes = torch.cat([torch.stack([heights * 0, heights * 0, heights * 0 + 10, heights], dim=1),
                       torch.tensor([[30.0, 30, 40, 38], [60, 60, 70, 70]])])  # fmt: skip
    proposals = Instances((80, 80), proposal_boxes=Boxes(boxes))
    targets = Instances((80, 80), gt_boxes=objects, gt_classes=torch.tensor([2, 1]))

    matched, expected = heads.proposal_matcher(pairwise_iou(objects, proposals.proposal_boxes))
    candidates = label_candidates(heads, [proposals], [targets])[0]

    kept = expected != -1
    classes = torch.where(expected == 1, targets.gt_classes[matched], heads.num_classes)
    assert torch.equal(candidates.proposal_boxes.tensor, boxes[kept])
    assert torch.equal(candidates.gt_classes, classes[kept])
    assert torch.equal(candidates.gt_boxes.tensor, objects.tensor[matched][kept])
    assert candidates.gt_ious.tolist() == pytest.approx(
        torch.tensor([1, 0.5, 0.25, 0.1, 0.4, 0])[kept].tolist()
    )


@pytest.mark.parametrize("num_objects", [0, 1, 3])
def test_sampled_proposals_have_the_fields_of_the_objects_that_they_match(num_objects):
    _, proposals, targets = make_inputs(num_images=1, num_objects=num_objects)
    targets[0].gt_weight, targets[0].notes = 7 * torch.arange(num_objects), list("abc"[:num_objects])
    (candidates,) = label_candidates(build_heads(), proposals, targets)
    sampled = as_sampled(candidates, targets[0], ["proposal_boxes"])
    own = {"proposal_boxes", "gt_classes"}
    assert sampled.get_fields().keys() == own | ({"gt_boxes", "gt_weight"} if num_objects else set())
    assert torch.equal(sampled.gt_classes, candidates.gt_classes)
    if num_objects:
        assert torch.equal(sampled.gt_weight, 7 * candidates.gt_matches)
        assert torch.equal(sampled.gt_boxes.tensor, targets[0].gt_boxes.tensor[candidates.gt_matches])
