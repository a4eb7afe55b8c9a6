"""Checks of a split in COCO layout."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from ...utils.messages import brief
from ...utils.text_files import read_json
from ..coco import MARKED, has_mark, has_outline, leads_outside
from .report import Report, check_image, describe_box, repeated

__all__ = ["check_coco"]

_LISTS = ("images", "categories", "annotations")


def check_coco(
    report: Report,
    json_file: str,
    image_root: str,
    classes: Sequence[str] | None,
    progress: bool,
    images_outside: bool = False,
) -> None:
    """Check the JSON and the images of a split; one without ``annotations`` is a test set.

    If `classes` is given, the categories must have these names. `images_outside` is that of `load_coco`.
    """
    content = _load(report, json_file)
    if content is None:
        return
    images, categories, annotations = (_entries(report, json_file, content, key) for key in _LISTS)
    _check_ids(report, json_file, {"image": images, "category": categories, "annotation": annotations})
    _check_categories(report, json_file, categories, classes)
    if not images_outside:
        _check_inside(report, json_file, images, image_root)
    sizes = _check_images(report, json_file, images, image_root, progress)
    known = {entry["id"] for entry in categories if isinstance(entry.get("id"), (int, str))}
    for annotation in annotations:
        _check_annotation(report, json_file, annotation, sizes, known)


def _load(report: Report, path: str) -> Mapping[str, Any] | None:
    if not os.path.isfile(path):
        report.add(path, "the annotation file does not exist")
        return None
    try:
        content = read_json(path)
    except ValueError as error:
        report.add(path, str(error).removeprefix(f"{path}: "))
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(key, []), list) for key in _LISTS):
        report.add(path, f"not a COCO file: it has to hold the lists {', '.join(_LISTS)}")
        return None
    if has_mark(path):
        report.add(path, MARKED)
    for key in _LISTS[:2]:
        if not content.get(key):
            report.add(path, f"{key} is missing or empty")
    return content


def _entries(report: Report, path: str, content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = content.get(key, [])
    entries = [item for item in items if isinstance(item, dict)]
    if len(entries) < len(items):
        report.add(path, f"{len(items) - len(entries)} entries of {key} are no objects")
    return entries


def _check_ids(report: Report, path: str, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for what, items in entries.items():
        ids = [item.get("id") for item in items]
        wrong = [value for value in ids if not isinstance(value, (int, str)) or isinstance(value, bool)]
        if wrong:
            report.add(path, f"{len(wrong)} {what} ids are no numbers: {wrong[0]!r} for one")
        for value in repeated([value for value in ids if isinstance(value, (int, str))]):
            report.add(path, f"{what} id {value} comes more than once")


def _check_categories(
    report: Report, path: str, categories: Sequence[Mapping[str, Any]], classes: Sequence[str] | None
) -> None:
    by_id = sorted(categories, key=lambda entry: str(entry.get("id")).zfill(20))
    names = [entry.get("name") for entry in by_id]
    for name in repeated([name for name in names if isinstance(name, str)]):
        report.add(path, f"category name {name!r} comes more than once")
    if classes is not None and names and list(classes) != names:
        report.add(path, f"its categories are not those of the data set: {names!s:.200}")


def _check_inside(report: Report, path: str, images: Sequence[Mapping[str, Any]], root: str) -> None:
    names = [image["file_name"] for image in images if isinstance(image.get("file_name"), str)]
    for name in names:
        if leads_outside(os.path.join(root, name), root):
            report.add(path, f"image {brief(name)} lies outside of {root}")


def _check_images(
    report: Report, path: str, images: Sequence[Mapping[str, Any]], root: str, progress: bool
) -> dict[Any, tuple[int, int] | None]:
    """Image id, as in the file -> width and height, None if unknown."""
    sizes: dict[Any, tuple[int, int] | None] = {}
    for image in tqdm(images, report.name, unit="image", disable=not progress):
        image_id, name = image.get("id"), image.get("file_name")
        if not isinstance(image_id, (int, str)):
            continue
        annotated = (image.get("width"), image.get("height"))
        if not all(isinstance(side, int) and side > 0 for side in annotated):
            report.add(path, f"image {image_id}: its size is {annotated[0]!r} x {annotated[1]!r}")
            annotated = None
        if isinstance(name, str) and name:
            sizes[image_id] = check_image(report, os.path.join(root, name), annotated, path)
        else:
            report.add(path, f"image {image_id} has no file_name")
            sizes[image_id] = annotated
        report.sizes[str(image_id)] = sizes[image_id]
    return sizes


def _check_annotation(
    report: Report, path: str, annotation: Mapping[str, Any], sizes: Mapping[Any, Any], known: set
) -> None:
    where, image_id = f"annotation {annotation.get('id')}", annotation.get("image_id")
    report.num_objects += 1
    if not isinstance(image_id, (int, str)) or image_id not in sizes:
        report.add(path, f"{where}: image id {image_id!r} is not in the file")
    category = annotation.get("category_id")
    if not isinstance(category, (int, str)) or category not in known:
        report.add(path, f"{where}: category id {category!r} is not in the file")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        report.add(path, f"{where}: its bbox is {box!r:.80}, not four numbers")
        return
    x, y, width, height = box
    size = sizes.get(image_id) if isinstance(image_id, (int, str)) else None
    if annotation.get("segmentation") and not has_outline(annotation):
        text = "its segmentation has no polygon of three points, for which training leaves the object out"
        report.add(path, f"{where}: {text}")
    problem = describe_box((x, y, x + width, y + height), size)
    if problem:
        report.add(path, f"{where}, image {image_id}: box [{x:g}, {y:g}, {width:g}, {height:g}] {problem}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
