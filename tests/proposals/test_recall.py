import math

import numpy as np
import pytest
from detectron2.structures import BoxMode

from ohem_d2.proposals import Proposals, proposal_recall, summarize_proposals


def image(image_id, *boxes, mode=BoxMode.XYXY_ABS, **fields):
    annotations = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0, **fields} for box in boxes]
    return {"image_id": image_id, "width": 100, "height": 50, "annotations": annotations}


# In image 1 the box (0, 0, 10, 5) is half of the object (0, 0, 10, 10): IoU 0.5; (0, 0, 10, 8) has IoU 0.8.
PROPOSALS = Proposals(
    [(1, [[0, 0, 10, 5], [0, 0, 10, 8]], [2, 1]), (2, [], []), (3, [[100, 0, 110, 9]], [1])]
)
OBJECT = (0, 0, 10, 10)


@pytest.mark.parametrize(
    "iou, top_k, recall",
    [(0.5, None, 1), (0.5, 1, 1), (0.51, 1, 0), (0.8, None, 1), (0.81, None, 0), (0.5, 0, 0)],
)
def test_an_object_is_covered_at_the_threshold_or_above(iou, top_k, recall):
    assert proposal_recall([image(1, OBJECT)], PROPOSALS, iou, top_k) == recall


def test_recall_counts_objects_over_all_images_even_those_without_boxes():
    dicts = [image(1, OBJECT, (50, 50, 60, 60)), image(2, OBJECT), image("not there", OBJECT)]
    assert proposal_recall(dicts, PROPOSALS) == 1 / 4


def test_recall_reads_the_box_mode_of_each_annotation_and_skips_crowds():
    crowd = image(1, (50, 0, 60, 9), iscrowd=1)["annotations"]
    mixed = image(1, (0, 0, 10, 10), mode=BoxMode.XYWH_ABS)
    mixed["annotations"] += crowd + image(1, (80, 0, 90, 9))["annotations"]
    assert proposal_recall([mixed], PROPOSALS) == 1 / 2
    # x, y, w, h = 2, 0, 8, 10 is x2 = 10: IoU with (0, 0, 10, 8) is 64 / (80 + 80 - 64) = 2/3
    shifted = [image(1, (2, 0, 8, 10), mode=BoxMode.XYWH_ABS)]
    assert proposal_recall(shifted, PROPOSALS, 0.66) == 1 and proposal_recall(shifted, PROPOSALS, 0.67) == 0


def test_recall_without_ground_truth_is_nan():
    assert math.isnan(proposal_recall([image(1), {"image_id": 1}], PROPOSALS))
    assert "no ground truth" in str(summarize_proposals([image(1)], PROPOSALS))


def test_summary_counts_images_boxes_and_strays():
    summary = summarize_proposals([image(1, OBJECT), image(2, OBJECT), image(3)], PROPOSALS)
    assert (summary.num_images, summary.num_empty, summary.num_outside) == (3, 1, 1)  # x1 = 100 = width
    assert (summary.boxes_min, summary.boxes_median, summary.boxes_max, summary.recall) == (0, 1, 2, 0.5)
    assert str(summary) == (
        "proposals for 2 of 3 images, 0 to 2 boxes per image (median 1), recall 0.500 at IoU 0.5"
    )


@pytest.mark.parametrize(
    "box, outside", [([-9, 0, 0, 9], 1), ([0, 50, 9, 60], 1), ([-9, -9, 1, 1], 0), ([0, -9, 9, 0], 1)]
)
def test_a_box_that_shares_no_area_with_its_image_is_outside(box, outside):
    assert summarize_proposals([image(1)], Proposals([(1, [box], [1])])).num_outside == outside


def test_recall_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)

    def random_boxes(n):
        corner = rng.uniform(0, 50, (n, 2))
        return np.hstack([corner, corner + rng.uniform(1, 40, (n, 2))]).astype(np.float32)

    truth, boxes = [random_boxes(6) for _ in range(5)], [random_boxes(20) for _ in range(5)]
    covered = 0
    for t, (x1, y1, x2, y2) in ((t, g) for t, gts in enumerate(truth) for g in gts.astype(float)):
        overlaps = []
        for a1, b1, a2, b2 in boxes[t].astype(float):
            inter = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            overlaps.append(inter / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inter))
        covered += max(overlaps) >= 0.5
    proposals = Proposals((i, b, np.zeros(20)) for i, b in enumerate(boxes))
    assert 0 < covered < 30
    assert proposal_recall([image(i, *t) for i, t in enumerate(truth)], proposals) == covered / 30


def test_recall_and_strays_can_be_measured_on_some_images():
    images = [image(1, OBJECT), image(3, OBJECT), image(1, OBJECT), image(3, OBJECT)]
    summary = summarize_proposals(images, PROPOSALS, max_images=2)  # the first and the third
    assert (summary.num_images, summary.num_measured, summary.recall, summary.num_outside) == (4, 2, 1, 0)
    assert str(summary).endswith("(median 1.5), recall 1.000 at IoU 0.5 (2 images measured)")


def test_an_image_that_is_not_there_counts_as_one_without_boxes():
    assert summarize_proposals([image(1), image("none")], PROPOSALS).num_empty == 1
    assert summarize_proposals([image(1), image("none")], dict(PROPOSALS)).boxes_min == 0
