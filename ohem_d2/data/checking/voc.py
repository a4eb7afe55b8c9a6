"""Checks of a split in VOC layout."""

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..voc import CORNERS, IMAGE_EXTENSIONS, VOCFolders, index_folder, split_ids
from .report import Report, check_image, describe_box, repeated

__all__ = ["check_voc"]

# Fields of an object that Detectron2's evaluator reads besides name and box.
_EVALUATED = ("pose", "truncated", "difficult")


def check_voc(
    report: Report,
    root: str,
    split: str,
    folders: VOCFolders,
    classes: Sequence[str],
    labelled: bool,
    progress: bool,
) -> None:
    """Check the split file, the images and, if ``labelled``, the XML files of a split."""
    path = Path(root, folders.imagesets, f"{split}.txt")
    if not path.is_file():
        report.add(path, "the split file does not exist")
        return
    ids = split_ids(path.read_text("utf-8-sig", errors="replace"))
    if not ids:
        report.add(path, "names no image")
    for image_id in repeated(ids):
        report.add(path, f"id {image_id} comes more than once")
    images = index_folder(Path(root, folders.images), IMAGE_EXTENSIONS)
    for image_id in tqdm(dict.fromkeys(ids), report.name, unit="image", disable=not progress):
        xml = str(Path(root, folders.annotations, f"{image_id}.xml"))
        tree = _parse(report, xml) if labelled else None
        annotated = _size(report, xml, tree) if tree is not None else None
        image = images.get(image_id, str(Path(root, folders.images, f"{image_id}{IMAGE_EXTENSIONS[0]}")))
        size = check_image(report, image, annotated, xml)
        report.sizes[image_id] = size
        if tree is not None:
            _check_objects(report, xml, tree, annotated or size, classes)


def _parse(report: Report, path: str) -> ET.Element | None:
    if not os.path.isfile(path):
        report.add(path, "the XML file does not exist")
        return None
    try:
        return ET.parse(path).getroot()
    except (ET.ParseError, ValueError, LookupError) as error:
        report.add(path, f"malformed XML: {error}")
        return None


def _size(report: Report, path: str, tree: ET.Element) -> tuple[int, int] | None:
    sides = [_number(tree, f"size/{side}") for side in ("width", "height")]
    if any(side is None or side <= 0 or side != int(side) for side in sides):
        texts = [tree.findtext(f"size/{side}") for side in ("width", "height")]
        report.add(path, f"the image size is {texts[0]!r} x {texts[1]!r}")
        return None
    return int(sides[0]), int(sides[1])


def _check_objects(
    report: Report, path: str, tree: ET.Element, size: tuple[int, int] | None, classes: Sequence[str]
) -> None:
    for number, element in enumerate(tree.findall("object"), 1):
        report.num_objects += 1
        report.num_difficult += element.findtext("difficult") == "1"
        name, where = element.findtext("name"), f"object {number}"
        if name not in classes:
            report.add(path, f"{where}: class {name!r} is not among the {len(classes)} of the data set")
        missing = [tag for tag in _EVALUATED if element.find(tag) is None]
        if missing:
            report.add(path, f"{where}: no {', '.join(missing)}, which Detectron2's evaluator reads")
        corners = [_number(element, f"bndbox/{corner}") for corner in CORNERS]
        if None in corners:
            report.add(path, f"{where}: its bndbox lacks a number in {CORNERS[corners.index(None)]}")
            continue
        xmin, ymin, xmax, ymax = corners
        # Pixels are 1-based and inclusive; the loader drops a box with xmin = xmax as one without area.
        flat = xmax <= xmin or ymax <= ymin
        problem = "has no area" if flat else describe_box((xmin - 1, ymin - 1, xmax, ymax), size)
        if problem:
            report.add(path, f"{where}: box [{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}] {problem}")


def _number(element: ET.Element, tag: str) -> float | None:
    try:
        value = float(element.findtext(tag))
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
