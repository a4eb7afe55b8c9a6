"""Labels made wrong on purpose."""

from collections import Counter

import numpy as np
import pytest

from ohem_d2.data.voc_xml import LabelledBox
from ohem_d2.data.wrong_labels import WRONG_KINDS, corrupt_labels

CLASS_NAMES = ("disc", "square", "star")
CROWD = "crowd"  # of no class
SIZE = (200, 160)


def objects(count, seed=0):
    """`count` objects in images of four, each image with a crowd as its second."""
    rng = np.random.default_rng(seed)
    truths = {}
    for index in range(count):
        corner = rng.integers(0, [150, 110])
        box = (*corner.tolist(), *(corner + rng.integers(12, 50, size=2)).tolist())
        of_image = truths.setdefault(f"train_{index // 4:05d}", [])
        of_image.append(LabelledBox(str(rng.choice(CLASS_NAMES)), box))
        if len(of_image) == 1:
            of_image.append(LabelledBox(CROWD, (0, 0, 110, 90)))
    return truths


def corrupt(truths, **shares):
    sizes = dict.fromkeys(truths, SIZE)
    return corrupt_labels(np.random.default_rng(5), truths, shares, CLASS_NAMES, sizes)


def iou(a, b):
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a, b
    common = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    return common / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common)


def test_the_record_leads_from_the_labels_back_to_the_truth():
    truths = objects(200)
    labels, wrong = corrupt(truths, deleted=0.1, flipped=0.05, shifted=0.2)
    assert Counter(w.kind for w in wrong) == {"deleted": 20, "flipped": 10, "shifted": 40}
    assert labels.keys() == truths.keys()
    for image_id, of_image in labels.items():
        restored = list(of_image)
        for w in (w for w in wrong if w.image_id == image_id and w.kind != "deleted"):
            assert of_image[w.index] == w.label != w.truth
            restored[w.index] = w.truth
        deleted = [w for w in wrong if w.image_id == image_id and w.kind == "deleted"]
        assert all(w.index is None and w.label is None for w in deleted)
        assert Counter(restored + [w.truth for w in deleted]) == Counter(truths[image_id])


def test_the_order_of_labels_that_stay_is_kept_and_a_crowd_stays_as_it_is():
    truths = objects(40)
    labels, _ = corrupt(truths, deleted=0.5)
    for image_id, of_image in labels.items():
        assert [o for o in truths[image_id] if o in of_image] == of_image
        assert truths[image_id][1] in of_image
    labels, wrong = corrupt(truths, deleted=1.0)
    assert len(wrong) == 40 and all([o.category for o in left] == ["crowd"] for left in labels.values())


def test_without_a_share_nothing_is_changed():
    truths = objects(20)
    assert corrupt(truths) == (truths, []) == corrupt(truths, flipped=0.0)


@pytest.mark.parametrize("kind", list(WRONG_KINDS))
def test_a_larger_share_has_the_wrong_labels_of_a_smaller_one(kind):
    (_, few), (_, many) = (corrupt(objects(200), **{kind: share}) for share in (0.05, 0.2))
    assert (len(few), len(many)) == (10, 40)
    found = {(w.image_id, w.truth): w.label for w in many}
    assert all(found[w.image_id, w.truth] == w.label for w in few)


def test_a_flipped_label_has_any_other_class_and_its_box():
    _, wrong = corrupt(objects(1000), flipped=0.5)
    assert all(w.label.box == w.truth.box for w in wrong)
    pairs = {(w.truth.category, w.label.category) for w in wrong}
    assert pairs == {(a, b) for a in CLASS_NAMES for b in CLASS_NAMES if a != b}


def test_a_shifted_box_lies_in_the_image_and_is_no_match_of_the_object():
    _, wrong = corrupt(objects(1000), shifted=1.0)
    boxes = np.array([w.label.box for w in wrong])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [200, 160]).all()
    assert all(w.label.category == w.truth.category for w in wrong)
    # Moved by 0.3 of a side: (1 - 0.3) / (1 + 0.3) = 0.54; by 0.6 along the diagonal, of 0.58 by
    # 0.58 in common: 0.33 / (2 - 0.33) = 0.2. Whole pixels and the border of the image lower it a little.
    ious = [iou(w.label.box, w.truth.box) for w in wrong]
    assert 0.1 < min(ious) < 0.25 and 0.5 < max(ious) < 0.55
    steps = boxes[:, :2] - [w.truth.box[:2] for w in wrong]
    assert {tuple(signs) for signs in np.sign(steps)} >= {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_a_box_of_one_pixel_is_shifted_too():
    truths = {"a": [LabelledBox("disc", (7, 9, 8, 10))] * 20}
    labels, _ = corrupt(truths, shifted=1.0)
    assert not set(labels["a"]) & set(truths["a"])


def test_a_box_that_fits_nowhere_else_is_clipped():
    truths = {
        "a": [LabelledBox("disc", (10, 10, 190, 150))] * 20
    }  # moved either way it would leave the image
    labels, _ = corrupt(truths, shifted=1.0)
    boxes = np.array([label.box for label in labels["a"]])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [200, 160]).all() and (boxes[:, 0] > 0).any()
