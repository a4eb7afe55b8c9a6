"""Annotated boxes that are not as they should be: what the loaders do about them, and what a check says."""

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ohem_d2.data import write_proposals
from ohem_d2.data.boxes import box_problem, with_valid_boxes
from ohem_d2.data.loaders import build_labelled_loader, build_train_loader

from .test_loaders import config

GOOD = [10, 10, 20, 20]


def record(*boxes, mode=BoxMode.XYWH_ABS, **more):
    annotations = [{"bbox": list(box), "bbox_mode": mode, "category_id": 0} for box in boxes]
    return {
        "file_name": "a.jpg",
        "image_id": 7,
        "width": 40,
        "height": 30,
        "annotations": annotations,
        **more,
    }


def boxes_of(record):
    return [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in record["annotations"]]


@pytest.mark.parametrize(
    "box, problem",
    [
        ([0, 0, 40, 30], None),
        ([0, 0, 40.009, 30.009], None),  # COCO rounds to hundredths
        ([5, 5, 5, 9], "has no area"),
        ([9, 5, 5, 9], "has no area"),
        ([40, 5, 50, 9], "lies outside its image"),
        ([-5, 5, 0, 9], "lies outside its image"),
        ([5, 30, 9, 35], "lies outside its image"),
        ([-1, 5, 9, 9], "reaches beyond its image"),
        ([5, 5, 9, 30.1], "reaches beyond its image"),
    ],
)
def test_what_is_wrong_with_a_box(box, problem):
    assert box_problem(box, (40, 30)) == problem


def test_what_cannot_be_trained_on_is_dropped_and_the_rest_clipped_with_one_warning_each(caplog):
    # As x, y, width, height: mirrored, of no height, beside the image; then two reach beyond it.
    bad = record(GOOD, [30, 10, -10, 5], [1, 1, 5, 0], [41, 1, 5, 5], [30, 20, 20, 20], [-4, -4, 8, 8])
    good = record(GOOD)
    with caplog.at_level(logging.WARNING, "ohem_d2"):
        found, same = with_valid_boxes([bad, good], "cells")
    assert boxes_of(found) == [[10, 10, 30, 30], [30, 20, 40, 30], [0, 0, 4, 4]]
    assert same is good and len(bad["annotations"]) == 6
    dropped, clipped = caplog.messages
    assert dropped.startswith(
        "cells: dropped 3 boxes that have no area or lie outside their image: image 7 [30, 10"
    )
    assert clipped == (
        "cells: clipped 2 boxes that reach beyond their image: "
        "image 7 [30, 20, 20, 20], image 7 [-4, -4, 8, 8]"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_an_error(value):
    with pytest.raises(
        ValueError, match=r"cells, image 7 \[10, (nan|inf), 5, 5\]: .*finite numbers \(a.jpg\)"
    ):
        with_valid_boxes([record(GOOD, [10, value, 5, 5])], "cells")


def test_rotated_boxes_and_images_of_unknown_size_stay():
    rotated = record([10, 10, -4, 99, 30], mode=BoxMode.XYWHA_ABS)
    unknown = {k: v for k, v in record([100, 100, 9, 9]).items() if k not in ("width", "height")}
    without = {"image_id": 1, "file_name": "b.jpg"}
    assert with_valid_boxes([rotated, unknown, without], "cells") == [rotated, unknown, without]


@pytest.fixture
def mirrored(make_voc):
    """A registered data set of one image with a good box, one mirrored and one that reaches beyond it."""
    file = make_voc({"000001": [("dog", (3, 4, 20, 25))]}, name="mirrored") / "JPEGImages/000001.jpg"
    DatasetCatalog.register(
        "mirrored", lambda: [record(GOOD, [30, 10, -10, 5], [35, 0, 9, 9], file_name=str(file))]
    )
    MetadataCatalog.get("mirrored").set(thing_classes=["dog"])


@pytest.mark.parametrize("load_proposals", [True, False])
def test_both_loaders_of_annotated_images_have_the_boxes_that_are_right(
    mirrored, tmp_path, caplog, load_proposals
):
    write_proposals(tmp_path / "p", {"7": ([GOOD], [1.0])})
    cfg = config(("mirrored",), (str(tmp_path / "p"),))
    cfg.MODEL.LOAD_PROPOSALS, cfg.INPUT.RANDOM_FLIP, cfg.SOLVER.IMS_PER_BATCH = load_proposals, "none", 1
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (30,), 30
    for loader in (build_train_loader(cfg), build_labelled_loader(cfg, "mirrored", 1)):
        (image,) = next(iter(loader))
        assert image["instances"].gt_boxes.tensor.tolist() == [[10, 10, 30, 30], [35, 0, 40, 9]]
    assert sum("mirrored: dropped 1 boxes" in message for message in caplog.messages) == 2
