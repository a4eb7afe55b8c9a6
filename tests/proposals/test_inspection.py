import json
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO

from ohem_d2.proposals import Proposals, proposal_recall
from ohem_d2.proposals.inspection import SIZES, format_inspections, inspect_proposals


def image(image_id, *boxes):
    annotations = [{"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes]
    return {"image_id": image_id, "annotations": annotations}


# Image a: a small object of 10 x 10, covered at IoU 0.5 (5 x 10), from the 101st box on at 0.72 (9 x 8).
# Image b: a medium object of 50 x 50 without boxes. Image c: a large one of 100 x 100, covered exactly.
HALF, MOST = [0, 0, 5, 10], [0, 0, 9, 8]
PROPOSALS = Proposals(
    [
        ("a", [HALF] * 100 + [MOST], np.ones(101)),
        ("c", [[0, 0, 100, 100]], [1]),
        ("of another set", [[0, 0, 600, 600]], [1]),
    ]
)
DICTS = [image("a", (0, 0, 10, 10)), image("b", (0, 0, 50, 50)), image("c", (0, 0, 100, 100))]


@pytest.fixture
def inspection():
    return inspect_proposals("x", PROPOSALS, DICTS)


def test_recall_counts_objects_per_threshold_limit_and_area(inspection):
    # of the three objects a is covered at 0.5, with all boxes also at 0.7; b never; c always
    assert inspection.recall(0.5) == inspection.recall(0.5, 100) == 2 / 3
    assert (inspection.recall(0.7), inspection.recall(0.7, 100), inspection.recall(0.8)) == (
        2 / 3,
        1 / 3,
        1 / 3,
    )
    assert [inspection.recall(0.7, area=area) for area in ("small", "medium", "large")] == [1, 0, 1]
    assert [inspection.num_objects(area) for area in ("all", "small", "medium", "large")] == [3, 1, 1, 1]


def test_average_recall_is_the_mean_over_ten_thresholds(inspection):
    # The first 100 boxes cover a at 0.5 only, the 101st at 0.5, 0.55, ..., 0.7 (5 of 10); c is covered at 10.
    assert inspection.average_recall(100) == pytest.approx((1 + 0 + 10) / 30)
    assert (
        inspection.average_recall(1000) == inspection.average_recall(2000) == pytest.approx((5 + 0 + 10) / 30)
    )
    assert inspection.average_recall(100, "small") == pytest.approx(0.1)


def test_an_area_on_the_border_belongs_to_the_larger_class():
    truth = [image("a", (0, 0, 32, 32), (0, 0, 96, 96), (0, 0, 31, 33))]  # 1024, 9216, 1023
    inspection = inspect_proposals("x", PROPOSALS, truth)
    assert [inspection.num_objects(area) for area in ("small", "medium", "large")] == [1, 1, 1]


def test_images_boxes_sizes_duplicates_and_strangers_are_counted(inspection):
    assert inspection.counts.tolist() == [101, 0, 1] and inspection.empty == ["b"]
    assert (inspection.duplicates, inspection.num_unknown) == (99, 1)
    # roots of the areas: 7.1 a hundred times, 8.5 once: below 16; 100 once: 96 to 128
    assert dict(zip(SIZES, inspection.sizes.tolist())) == {
        0: 101,
        16: 0,
        32: 0,
        64: 0,
        96: 1,
        128: 0,
        256: 0,
        512: 0,
    }


def test_foreground_is_counted_with_the_objects_themselves_before_and_after_nms(inspection):
    # a: its object, 100 boxes of IoU 0.5, one of 0.72. NMS leaves one of the hundred, and the object or the
    # one of 0.72, whose IoU with the hundred is 50 / 72. b: its object. c: its object, and the same box.
    assert inspection.foreground.tolist() == [[1, 1, 1], [102, 1, 2], [2, 1, 1]]
    lines = format_inspections([inspection]).splitlines()
    assert [line.split()[-5:] for line in lines if "NMS" in line] == [["1", "/", "1", "/", "2"]]
    background = inspect_proposals("x", PROPOSALS, [{"image_id": "a"}, image("c", (50, 50, 70, 70))])
    assert background.foreground.tolist() == [[0, 1], [0, 1], [0, 1]]


def test_without_a_data_set_the_images_are_those_of_the_file():
    inspection = inspect_proposals("x", PROPOSALS)
    assert (
        inspection.counts.tolist() == [101, 1, 1] and inspection.sizes[-1] == 1 and inspection.objects is None
    )
    assert "recall" not in format_inspections([inspection])


def test_recall_agrees_with_the_summary_of_the_log(inspection):
    for iou in (0.5, 0.6, 0.7, 0.72, 0.73, 1):
        assert inspection.recall(iou) == proposal_recall(DICTS, PROPOSALS, iou)
        assert inspection.recall(iou, 100) == proposal_recall(DICTS, PROPOSALS, iou, 100)


def test_average_recall_agrees_with_detectron2_where_each_box_has_its_own_object(tmp_path):
    """Detectron2 assigns a box to one object only, which makes no difference for objects far apart."""
    rng = np.random.default_rng(0)
    truth = [np.array([x, x, x + 20 + 30 * k, x + 90], float) for k, x in enumerate((0.0, 200, 400))]
    boxes = np.concatenate([t + rng.uniform(-6, 6, (50, 4)) for t in truth]).astype(np.float32)[
        rng.permutation(150)
    ]
    annotations = [
        {"id": k, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [t[0], t[1], *(t[2:] - t[:2])],
         "area": (t[2:] - t[:2]).prod()}
        for k, t in enumerate(truth, 1)
    ]  # fmt: skip
    images, categories = [{"id": 1, "width": 500, "height": 500}], [{"id": 1, "name": "x"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "x.json").write_text(json.dumps(content))
    scores = torch.arange(150, 0, -1).float()
    instances = Instances((500, 500), proposal_boxes=Boxes(torch.tensor(boxes)), objectness_logits=scores)
    ours = inspect_proposals("x", Proposals([(1, boxes, scores)]), [image(1, *truth)])
    for area in ("all", "small", "medium", "large"):
        theirs = _evaluate_box_proposals(
            [{"image_id": 1, "proposals": instances}], COCO(tmp_path / "x.json"), area=area, limit=100
        )
        assert ours.num_objects(area) == theirs["num_pos"]
        if theirs["num_pos"]:
            assert ours.average_recall(100, area) == pytest.approx(float(theirs["ar"]))
    assert 0 < ours.average_recall(100) < 1


def test_a_table_has_a_column_for_each_file_and_a_dash_for_what_has_no_value(inspection):
    other = inspect_proposals("a longer name", Proposals([]), DICTS)
    lines = format_inspections([inspection, other]).splitlines()
    table = {line[:31].strip(): line[31:].split() for line in lines[1:14]}  # the content, without objects
    assert lines[0].split() == ["x", "a", "longer", "name"]
    assert (
        table["images"] == ["3", "3"]
        and table["without boxes"] == ["1", "3"]
        and table["duplicates"] == ["99", "0"]
    )
    assert table["size 0 to 16"] == ["99.0%", "-"]
    assert any(line.split() == ["AR", "at", "100", "boxes", "0.367", "0.000"] for line in lines)
    empty = inspect_proposals("x", PROPOSALS, [image("a")])
    assert math.isnan(empty.recall(0.5)) and "recall at IoU 0.5" in format_inspections([empty])


def test_no_images_at_all_is_a_table_too():
    assert "images" in format_inspections([inspect_proposals("x", Proposals([]), [])])
