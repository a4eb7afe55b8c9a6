"""Findings as CSV, COCO JSON and tasks of Label Studio, read back by other readers where there are some."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

from ohem_d2.evaluation.label_error_files import (
    read_inspected,
    write_coco,
    write_csv,
    write_inspected,
    write_label_studio,
)
from ohem_d2.evaluation.label_errors import WRONG_CLASS
from ohem_d2.evaluation.label_ranking import rank_findings

from .inspected import two_images

CLASSES = ["cat", "dog, small"]


@pytest.fixture
def images():
    return two_images()


def test_the_csv_has_a_line_for_each(images, tmp_path):
    write_csv(tmp_path / "x.csv", rank_findings(images), CLASSES)
    with open(tmp_path / "x.csv", newline="") as file:
        first, second, _ = csv.DictReader(file)
    assert (first["rank"], first["image_id"], first["kind"], first["label"]) == (
        "1",
        "b c",
        WRONG_CLASS,
        "cat",
    )
    assert (first["class"], first["score"], first["label_x1"], first["y2"]) == (
        "dog, small",
        "0.7500",
        "10.0",
        "40.0",
    )
    assert (second["label"], second["label_x1"], second["objectlab"]) == ("", "", "")


def test_pycocotools_reads_the_coco_file(images, tmp_path, capsys):
    write_coco(tmp_path / "x.json", list(enumerate(rank_findings(images), 1)), CLASSES)
    coco = COCO(str(tmp_path / "x.json"))
    assert [i["file_name"] for i in coco.loadImgs([1, 2])] == ["b c.jpg", "a.jpg"]
    first, second, third = coco.loadAnns(coco.getAnnIds())
    assert (first["bbox"], first["area"], first["category_id"]) == ([10, 20, 20, 20], 400, 2)
    assert first["attributes"] == {"kind": WRONG_CLASS, "loss": 3.5, "label": "cat"}
    assert (first["label_bbox"], third["label_bbox"]) == ([10, 20, 20, 20], [10, 20, 20, 20])
    assert "label_bbox" not in second and second["score"] == 0.75
    assert coco.loadCats([2])[0]["name"] == "dog, small"


def test_tasks_of_label_studio_are_in_percent_and_the_worst_image_is_first(images, tmp_path):
    write_label_studio(tmp_path / "x.json", rank_findings(images), CLASSES)
    first, second = json.loads((tmp_path / "x.json").read_text())
    assert first["data"]["image"] == "/data/local-files/?d=b%20c.jpg" and second["data"]["image_id"] == "a"
    (prediction,) = first["predictions"]
    assert prediction["score"] == 3.5 and len(prediction["result"]) == 2
    # (10, 20, 30, 40) of 200 x 100 pixels.
    value = {"x": 5, "y": 20, "width": 10, "height": 20, "rotation": 0, "rectanglelabels": ["dog, small"]}
    assert prediction["result"][0]["value"] == value
    assert prediction["result"][0]["meta"]["text"] == ["wrong class, loss 3.50, labelled cat"]
    assert prediction["result"][1]["meta"]["text"] == ["missing object, loss 2.00"]


def test_the_loss_of_the_files_is_the_one_that_the_list_is_ordered_by(images, tmp_path):
    images[1].findings[1] = replace(images[1].findings[1], cls_loss=3.4, box_loss=0.6)
    for rank_by, losses in {
        "cls": [3.4, 2.0, 0.5],
        "box": [0.6, 0.5, 0.5],
        "cls+box": [4.0, 2.5, 1.0],
    }.items():
        write_coco(tmp_path / "x.json", list(enumerate(rank_findings(images, None, rank_by), 1)), CLASSES)
        found = json.loads((tmp_path / "x.json").read_text())["annotations"]
        assert [row["attributes"]["loss"] for row in found] == losses


def test_what_was_inspected_is_read_back_as_it_was(images, tmp_path):
    write_inspected(tmp_path / "x.json", images)
    for found, expected in zip(read_inspected(tmp_path / "x.json"), images, strict=True):
        for key, value in vars(expected).items():
            assert np.array_equal(getattr(found, key), value), key
            assert getattr(getattr(found, key), "dtype", None) == getattr(value, "dtype", None)


def test_without_findings_the_files_are_there_too(tmp_path):
    write_csv(tmp_path / "x.csv", [], CLASSES)
    write_coco(tmp_path / "x.json", [], CLASSES)
    write_label_studio(tmp_path / "y.json", [], CLASSES)
    assert json.loads((tmp_path / "x.json").read_text())["annotations"] == []
    assert json.loads((tmp_path / "y.json").read_text()) == []
