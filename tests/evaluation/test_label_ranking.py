"""One list of hand-made findings."""

import numpy as np
import pytest

from ohem_d2.evaluation.label_errors import BAD_BOX, MISSING, Finding
from ohem_d2.evaluation.label_ranking import box_ious, first_of_each_kind, rank_findings

from .inspected import finding, image, two_images


@pytest.fixture
def images():
    return two_images()


def test_the_list_of_all_images_is_by_loss(images):
    assert [f.finding.loss for f in rank_findings(images, rank_by="cls+box")] == [4.0, 2.5, 1.0]


def test_the_list_is_by_one_term_where_that_is_chosen(images):
    """The boxes have 0.5 each, but for what is missing, which comes last; equal ones in their order."""
    images[1].findings[0] = Finding("b c", MISSING, 3.8, 3.8, 0.0, (50, 50, 70, 90), 1, 0.75)
    assert [f.finding.loss for f in rank_findings(images, rank_by="cls")] == [3.8, 4.0, 1.0]
    assert [f.finding.loss for f in rank_findings(images, rank_by="box")] == [1.0, 4.0, 3.8]


def test_the_first_of_each_kind_keep_their_ranks():
    kinds = [BAD_BOX, BAD_BOX, MISSING, BAD_BOX, MISSING, MISSING]
    found = [finding("a", kind, 9.0 - n, (1, 1, 5, 5), 0) for n, kind in enumerate(kinds)]
    first = first_of_each_kind(rank_findings([image("a", *found)]), 2)
    assert [(rank, f.finding.kind) for rank, f in first] == [
        (1, BAD_BOX),
        (2, BAD_BOX),
        (3, MISSING),
        (5, MISSING),
    ]


def test_objectlab_stands_beside_a_label_and_a_detection_of_the_missing_object(images):
    scores = [(np.array([0.1]), np.array([0.9])), (np.array([0.2]), np.array([0.3]))]
    assert [f.objectlab for f in rank_findings(images, scores)] == [0.2, 0.3, 0.1]
    unsure = [scores[0], (np.array([0.2]), np.array([np.nan]))]
    assert [f.objectlab for f in rank_findings(images, unsure)] == [0.2, None, 0.1]
    images[1] = image("b c", images[1].findings[0], found=[(60, 50, 80, 90, 0.8)])  # IoU 1/3
    assert rank_findings(images, scores)[0].objectlab is None
    assert rank_findings([image("b c", images[1].findings[0], found=[])], scores[:1])[0].objectlab is None


def test_iou_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    # 5 x 10 in common of 100 + 100: 50 / 150.
    assert box_ious(boxes, np.array([[5, 0, 15, 10], [20, 20, 30, 30]], float)).tolist() == [
        pytest.approx([1 / 3, 0]),
        [0, 0],
    ]
    assert box_ious(boxes, np.zeros((0, 4))).shape == (2, 0)
