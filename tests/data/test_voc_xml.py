"""Labels written as VOC's XML."""

import xml.etree.ElementTree as ET

from ohem_d2.data.voc import load_voc
from ohem_d2.data.voc_xml import LabelledBox, voc_xml

LABEL = LabelledBox("star", (0, 10, 30, 45))


def test_pixels_are_counted_from_one_and_the_last_is_included():
    element = ET.fromstring(voc_xml("x.jpg", (200, 160), [LABEL])).find("object")
    # columns 0 to 29 are numbers 1 to 30, rows 10 to 44 are numbers 11 to 45
    assert {child.tag: child.text for child in element.find("bndbox")} == {
        "xmin": "1", "ymin": "11", "xmax": "30", "ymax": "45",
    }  # fmt: skip
    assert element.find("name").text == "star" and element.find("difficult").text == "0"


def test_what_is_written_is_read_again(make_voc):
    root = make_voc({"a": []})
    (root / "Annotations/a.xml").write_bytes(voc_xml("a.jpg", (37, 21), [LABEL]))
    (record,) = load_voc(root, "train", ["disc", "star"])
    assert (record["width"], record["height"]) == (37, 21)
    assert [(a["category_id"], a["bbox"]) for a in record["annotations"]] == [(1, [0.0, 10.0, 30.0, 45.0])]
