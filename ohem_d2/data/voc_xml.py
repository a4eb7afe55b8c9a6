"""Labels written as VOC's XML, which `load_voc` reads."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LabelledBox", "voc_xml"]


@dataclass(frozen=True)
class LabelledBox:
    """A label: its class and XYXY_ABS box, x2 and y2 exclusive."""

    category: str
    box: tuple[float, float, float, float]


def voc_xml(file_name: str, size: tuple[int, int], labels: Sequence[LabelledBox]) -> bytes:
    """The annotation of an image of `size` (width, height): boxes in 1-based inclusive pixels."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    _add_numbers(ET.SubElement(root, "size"), width=size[0], height=size[1], depth=3)
    for label in labels:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = label.category
        ET.SubElement(element, "pose").text = "Unspecified"
        _add_numbers(element, truncated=0, difficult=0)
        x1, y1, x2, y2 = label.box
        _add_numbers(ET.SubElement(element, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ET.indent(root)
    return ET.tostring(root) + b"\n"


def _add_numbers(parent: ET.Element, **numbers: float) -> None:
    for name, number in numbers.items():
        ET.SubElement(parent, name).text = f"{number:g}"
