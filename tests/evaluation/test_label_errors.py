"""Findings of hand-made candidates, and of a tiny detector."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ohem_d2.evaluation import label_errors
from ohem_d2.evaluation.label_errors import (
    BAD_BOX,
    MISSING,
    NO_OBJECT,
    WRONG_CLASS,
    find_in_image,
    inspect_labels,
)
from ohem_d2.modeling import inspect_candidates
from ohem_d2.utils.regions import TargetsWithRegions

from .models import RPN, SIZE, cfg_of, model_of, record_of

K = 3
CAT, DOG, BIRD, BACKGROUND = range(K + 1)
LABEL, OTHER = [0, 0, 20, 20], [50, 50, 70, 70]


def labels(*pairs):
    """(box, class) of each label."""
    boxes = torch.tensor([box for box, _ in pairs], dtype=torch.float32).reshape(-1, 4)
    classes = torch.tensor([c for _, c in pairs], dtype=torch.int64)
    return Instances((100, 100), gt_boxes=Boxes(boxes), gt_classes=classes)


def candidates(*rows):
    """(label, index of the label, decoded box, best class, its probability, losses of both terms) of each."""
    label, match, decoded, classes, scores, cls, box = zip(*rows)
    return Instances(
        (100, 100),
        gt_classes=torch.tensor(label),
        gt_matches=torch.tensor(match),
        decoded=torch.tensor(decoded, dtype=torch.float32),
        classes=torch.tensor(classes),
        scores=torch.tensor(scores),
        cls_losses=torch.tensor(cls),
        box_losses=torch.tensor(box),
    )


def find(rois, *pairs):
    return find_in_image("7", rois, labels(*pairs), K)


def test_a_label_is_judged_by_the_candidate_that_most_looks_like_an_object():
    rois = candidates(
        (CAT, 0, [1, 1, 9, 9], CAT, 0.4, 5.0, 2.0),
        (CAT, 0, [2, 2, 22, 22], DOG, 0.9, 3.0, 0.5),
        (DOG, 1, [50, 50, 70, 70], BIRD, 0.95, 9.0, 9.0),
    )
    found = find(rois, (LABEL, CAT), (OTHER, DOG))[0]
    assert (found.image_id, found.kind, found.category, found.label) == ("7", WRONG_CLASS, DOG, 0)
    assert (found.loss, found.cls_loss, found.box_loss) == (3.5, 3.0, 0.5)
    assert found.box == (2, 2, 22, 22) and found.score == pytest.approx(0.9)


def test_a_label_of_the_right_class_has_a_bad_box():
    rois = candidates((DOG, 0, [9, 0, 29, 20], DOG, 0.8, 0.25, 4.0))
    (found,) = find(rois, (LABEL, DOG))
    assert (found.kind, found.category, found.loss) == (BAD_BOX, DOG, 4.25)


def test_a_label_in_which_the_model_sees_no_class_may_have_no_object():
    for score, kind in ((0.09, NO_OBJECT), (0.11, BAD_BOX)):
        (found,) = find(candidates((DOG, 0, LABEL, DOG, score, 0.7, 0.1)), (LABEL, DOG))
        assert found.kind == kind


def test_what_looks_like_an_object_far_from_every_label_is_missing():
    # p(background) = 0.05: the loss is -ln 0.05 = 3.0.
    loss = -math.log(0.05)
    rois = candidates((BACKGROUND, 0, OTHER, BIRD, 0.9, loss, 0.0), (CAT, 0, LABEL, CAT, 0.9, 0.1, 0.1))
    found = find(rois, (LABEL, CAT))
    assert [f.kind for f in found] == [BAD_BOX, MISSING]
    assert (found[1].label, found[1].category, found[1].box) == (None, BIRD, tuple(OTHER))
    assert found[1].loss == pytest.approx(3.0, abs=0.01)


def test_what_overlaps_a_label_is_not_missing_and_neither_is_what_looks_like_nothing():
    # 10 of 20 columns in common: 200 / (400 + 400 - 200) = 0.33. With 9: 180 / 620 = 0.29.
    near, beside = [10, 0, 30, 20], [11, 0, 31, 20]
    one = (CAT, 0, LABEL, CAT, 0.9, 0.1, 0.1)
    for box, score, number in ((near, 0.9, 0), (beside, 0.9, 1), (OTHER, 0.11, 1), (OTHER, 0.09, 0)):
        rois = candidates(one, (BACKGROUND, 0, box, CAT, score, 2.0, 0.0))
        assert [f.kind for f in find(rois, (LABEL, CAT))] == [BAD_BOX] + [MISSING] * number


def test_nothing_is_missing_in_a_crowd():
    # 15 of 20 columns lie in the region: 0.75 of the box, more than 0.7; then 14, which is not more.
    rois = candidates((BACKGROUND, 0, OTHER, CAT, 0.9, 2.0, 0.0))
    for left, number in ((55, 0), (56, 1)):
        crowd = Boxes(torch.tensor([[left, 40.0, 90, 90]]))
        targets = TargetsWithRegions((100, 100), crowd, **labels().get_fields())
        assert [f.kind for f in find_in_image("7", rois, targets, K)] == [MISSING] * number


def test_of_what_is_missing_at_one_place_the_highest_loss_counts():
    rois = candidates(
        (BACKGROUND, 0, [50, 50, 70, 70], CAT, 0.8, 1.5, 0.0),
        (BACKGROUND, 0, [52, 50, 72, 70], DOG, 0.7, 2.5, 0.0),
        (BACKGROUND, 0, [80, 80, 99, 99], DOG, 0.6, 0.5, 0.0),
    )
    assert [(f.category, f.loss) for f in find(rois)] == [(DOG, 2.5), (DOG, 0.5)]


def test_a_label_without_candidates_and_an_image_without_any_have_no_finding():
    rois = candidates((CAT, 0, LABEL, CAT, 0.9, 0.1, 0.2))
    assert len(find(rois, (LABEL, CAT), (LABEL, CAT))) == 1
    assert find(rois[:0], (LABEL, CAT)) == []


@pytest.fixture
def loaded(tmp_path):
    """A tiny detector whose config appends no objects, and an image with two labels for it."""
    model = model_of(cfg_of("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False"))
    record = record_of(tmp_path)
    return model, record


def example_of(record, zoom=1):
    """As from a loader whose images are `zoom` times as large as their files."""
    height, width = SIZE
    g = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, height * zoom, width * zoom), generator=g, dtype=torch.uint8)
    size = (height * zoom, width * zoom)
    corners = torch.rand(40, 2, generator=g) * 30 * zoom
    proposals = Instances(size, proposal_boxes=Boxes(torch.cat([corners, corners + 20 * zoom], dim=1)))
    proposals.objectness_logits = torch.zeros(40)
    objects = torch.tensor([[4.0, 4, 24, 24], [40, 20, 75, 55]]) * zoom
    targets = Instances(size, gt_boxes=Boxes(objects), gt_classes=torch.tensor([2, 0]))
    return {
        **record,
        "image": image,
        "height": height,
        "width": width,
        "proposals": proposals,
        "instances": targets,
    }


def test_each_label_is_found_with_its_loss_and_in_pixels_of_the_file(loaded):
    model, record = loaded
    x = example_of(record, zoom=2)
    (image,) = inspect_labels(model, [[x]])
    assert image.boxes.tolist() == [[4, 4, 24, 24], [40, 20, 75, 55]] and image.categories.tolist() == [2, 0]
    assert image.size == SIZE[::-1] and len(image.found_scores) == len(image.found_boxes) > 0
    assert image.found_boxes[:, 2].max() <= SIZE[1] and model.roi_heads.proposal_append_gt is False
    of_labels = {f.label: f for f in image.findings if f.label is not None}
    assert sorted(of_labels) == [0, 1]
    model.roi_heads.proposal_append_gt = True
    rois = inspect_candidates(model, [x])[0]
    for label, found in of_labels.items():
        matched = rois[(rois.gt_classes < 3) & (rois.gt_matches == label)]
        best = matched[int(matched.scores.argmax())]
        assert found.loss == pytest.approx(float(best.losses), rel=1e-5)
        inside = (best.decoded[0].numpy() / 2).clip(0, [80, 60, 80, 60])
        assert np.allclose(found.box, inside, atol=1e-4)


def test_boxes_end_at_the_border_of_the_image(loaded, monkeypatch):
    model, record = loaded
    x, inspect = example_of(record, zoom=2), label_errors.inspect_candidates

    def larger(model, batch):
        (candidates,) = inspect(model, batch)
        candidates.decoded = candidates.decoded + torch.tensor([-200.0, -200, 200, 200])
        return [candidates]

    monkeypatch.setattr(label_errors, "inspect_candidates", larger)
    (image,) = inspect_labels(model, [[x]])
    assert {f.box for f in image.findings} == {(0, 0, 80, 60)}


def test_a_crowd_is_scaled_to_the_file(loaded, monkeypatch):
    model, record = loaded
    x = example_of(record, zoom=2)
    x["instances"] = TargetsWithRegions(
        (120, 160), Boxes(torch.tensor([[0.0, 0, 160, 60]])), **x["instances"].get_fields()
    )
    seen = []
    monkeypatch.setattr(label_errors, "find_in_image", lambda i, rois, labels, k: seen.append(labels) or [])
    list(inspect_labels(model, [[x]]))
    assert seen[0].ignore_regions.tensor.tolist() == [[0, 0, 80, 30]]


def test_the_labels_of_a_model_with_a_proposal_network_are_judged_too(loaded):
    (image,) = inspect_labels(model_of(cfg_of(*RPN)), [[example_of(loaded[1])]])
    assert [f.label for f in image.findings][:2] == [0, 1]


def test_the_class_of_a_candidate_is_the_one_of_its_probability(loaded):
    """The loss of a label of the best class is -ln of its probability, that of any other class is higher."""
    model, record = loaded
    model.roi_heads.proposal_append_gt = True
    rois = inspect_candidates(model, [example_of(record)])[0]
    objects = rois[rois.gt_classes < 3]
    is_best, surprise = objects.classes == objects.gt_classes, -objects.scores.log()
    assert torch.allclose(objects.cls_losses[is_best], surprise[is_best], atol=1e-5)
    assert (objects.cls_losses[~is_best] > surprise[~is_best]).all() and 0 < is_best.sum() < len(objects)


def test_a_predictor_whose_probabilities_are_not_known_is_refused(loaded):
    model, record = loaded
    model.roi_heads.box_predictor.roi_losses = lambda predictions, proposals: None
    with pytest.raises(TypeError, match="class probabilities"):
        list(inspect_labels(model, [[example_of(record)]]))
