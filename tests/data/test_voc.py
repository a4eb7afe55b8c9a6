import json
import logging

import numpy as np
import pytest
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances
from detectron2.structures import BoxMode

from ohem_d2.data import load_voc

ONE_DOG = {"000001": [("dog", (3, 4, 20, 25))]}


def test_box_loses_one_at_the_near_corner_only(make_voc):
    (record,) = load_voc(make_voc(ONE_DOG, difficult=1), "train", ["cat", "dog"])
    assert record["file_name"].endswith("JPEGImages/000001.jpg")
    assert (record["image_id"], record["height"], record["width"]) == ("000001", 30, 40)
    assert record["annotations"] == [
        {"bbox": [2, 3, 20, 25], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "difficult": 1}
    ]


def test_same_records_as_detectron2s_loader(make_voc):
    root = make_voc({"a": [("cat", (1, 1, 40, 30)), ("dog", (2, 2, 9, 9))], "b": [("dog", (5, 6, 7, 8))]})
    ours = load_voc(root, "train", ("cat", "dog"))
    theirs = load_voc_instances(str(root), "train", ("cat", "dog"))
    for record in ours:
        for annotation in record["annotations"]:
            del annotation["difficult"]
    assert ours == theirs


def test_first_column_of_a_split_file_counts_and_blank_lines_do_not(make_voc):
    root = make_voc({"000001": [], "000002": []})
    (root / "ImageSets/Main/dog_train.txt").write_text("000002 -1\n\n000001  1\n")
    assert [r["image_id"] for r in load_voc(root, "dog_train", ["dog"])] == ["000002", "000001"]


def test_ids_may_have_spaces(make_voc):
    root = make_voc({"street 1": [], "old street": [("dog", (3, 4, 20, 25))]})
    assert [r["image_id"] for r in load_voc(root, "train", ["dog"])] == ["street 1", "old street"]
    (root / "ImageSets/Main/dog_train.txt").write_text("street 1 -1\nold street  1\n")
    assert [r["image_id"] for r in load_voc(root, "dog_train", ["dog"])] == ["street 1", "old street"]


@pytest.mark.parametrize("extension", [".JPG", ".jpeg", ".png"])
def test_image_extension_is_found(make_voc, extension):
    root = make_voc(ONE_DOG, extension=extension)
    assert load_voc(root, "train", ["dog"])[0]["file_name"].endswith("000001" + extension)


@pytest.mark.parametrize("folder, extension", [("JPEGImages", "jpg"), ("Annotations", "xml")])
def test_missing_files_are_counted_and_named(make_voc, folder, extension):
    root = make_voc({"a": [], "b": [], "c": []})
    for image_id in ("a", "c"):
        (root / folder / f"{image_id}.{extension}").unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder}: 2 of 3 .* missing: a, c$"):
        load_voc(root, "train", ["dog"])


def test_missing_split_lists_those_there(make_voc):
    with pytest.raises(FileNotFoundError, match="test.txt does not exist; splits there: train$"):
        load_voc(make_voc(ONE_DOG), "test", ["dog"])


@pytest.mark.parametrize(
    "text, message", [("\n", "names no image"), ("a\nb\na\n", "1 ids .* more than once: a$")]
)
def test_split_without_ids_or_with_one_twice_is_refused(make_voc, text, message):
    root = make_voc({"a": [], "b": []})
    (root / "ImageSets/Main/train.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_voc(root, "train", ["dog"])


def test_unlisted_class_names_file_class_and_choices(make_voc):
    with pytest.raises(ValueError, match=r"000001\.xml: class 'dog' .* listed classes: cat, cow$"):
        load_voc(make_voc(ONE_DOG), "train", ["cat", "cow"])


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("</annotation>", "", r"000001\.xml: malformed XML"),
        ("<xmin>3</xmin>", "", r"000001\.xml: <object> needs a number in <bndbox/xmin>, found None"),
        ("<ymax>25<", "<ymax>nan<", r"000001\.xml: .*<bndbox/ymax>, found 'nan'"),
        (
            "<width>40<",
            "<width>wide<",
            r"000001\.xml: <annotation> needs a number in <size/width>, found 'wide'",
        ),
    ],
)
def test_broken_xml_names_the_file_and_the_fault(make_voc, old, new, message):
    root = make_voc(ONE_DOG)
    xml = root / "Annotations/000001.xml"
    assert old in xml.read_text()
    xml.write_text(xml.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_voc(root, "train", ["dog"])


def test_a_size_of_zero_is_read_from_the_image_with_one_warning(make_voc, caplog):
    root = make_voc({"a": [], "b": [("dog", (3, 4, 20, 25))], "c": []})
    for image_id, side in (("a", "width>40"), ("b", "height>30")):
        xml = root / f"Annotations/{image_id}.xml"
        xml.write_text(xml.read_text().replace(side, side[:-2] + "0"))
    assert [(r["width"], r["height"]) for r in load_voc(root, "train", ["dog"])] == [(40, 30)] * 3
    (message,) = caplog.messages
    assert message.endswith(
        "split train: the size of 2 images is 0 in the XML, and read from the images: a, b"
    )
    (root / "JPEGImages/b.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="b.jpg cannot be read as an image"):
        load_voc(root, "train", ["dog"])


def test_zero_size_boxes_are_dropped_with_one_warning(make_voc, caplog):
    boxes = {"a": [("dog", (3, 4, 3, 9)), ("dog", (1, 2, 5, 6))], "b": [("dog", (7, 9, 8, 8))]}
    with caplog.at_level(logging.WARNING):
        first, second = load_voc(make_voc(boxes), "train", ["dog"])
    assert [a["bbox"] for a in first["annotations"]] == [[0, 1, 5, 6]] and second["annotations"] == []
    (message,) = caplog.messages
    assert "2 boxes" in message and "a [3, 4, 3, 9], b [7, 9, 8, 8]" in message


def test_bccd_loads_and_names_its_two_zero_size_boxes(real_data, caplog):
    classes = ["RBC", "WBC", "Platelets"]
    dicts = [r for split in ("trainval", "test") for r in load_voc(real_data / "BCCD", split, classes)]
    assert len(dicts) == 364 and sum(len(r["annotations"]) for r in dicts) == 4888 - 2
    assert "BloodImage_00338 [504, 337, 504, 337]" in caplog.text
    assert "BloodImage_00343 [181, 329, 181, 329]" in caplog.text


def test_voc_xml_and_coco_json_hold_the_same_boxes(real_data):
    """The JSON has x, y = xmin, ymin and w, h = xmax - xmin, ymax - ymin: its near corner is 1 beyond."""
    dicts = load_voc(real_data / "voc_sample", "trainval", CLASS_NAMES)
    coco = json.loads((real_data / "voc_sample/instances_trainval.json").read_text())
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    boxes = {}
    for annotation in coco["annotations"]:
        boxes.setdefault(names[annotation["image_id"]], []).append(annotation["bbox"])
    assert sum(map(len, boxes.values())) == 273
    for record in dicts:
        ours = np.array([a["bbox"] for a in record["annotations"]])
        theirs = np.array(boxes[record["file_name"].rsplit("/")[-1]])
        theirs[:, 2:] += theirs[:, :2]
        np.testing.assert_array_equal(ours + [1, 1, 0, 0], theirs)
