"""Data sets in COCO layout: Detectron2's loader with clear errors."""

import codecs
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..utils.messages import brief, name_some, one_line

__all__ = ["MARKED", "has_mark", "has_outline", "leads_outside", "load_coco"]

MARKED = "it begins with a byte order mark, which readers of COCO JSON refuse; save it as UTF-8 without"
# What Detectron2 and pycocotools raise for a file that is none of COCO's.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError),
    ValueError,
)


def load_coco(
    json_file: str,
    image_root: str,
    name: str,
    classes: Sequence[str] = (),
    ignore: Sequence[str] = (),
    images_outside: bool = False,
) -> list[dict[str, Any]]:
    """Load a COCO instances file as Detectron2 dataset dicts.

    The metadata of the data set get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, as from
    Detectron2's ``load_coco_json``.

    Args:
        json_file: COCO instances JSON.
        image_root: folder that its ``file_name`` entries are relative to.
        name: registered name of the data set.
        classes: if given, the class names that the file must have, in the order of its category ids.
        ignore: keys of an annotation that make it an ignore region where they are 1, besides ``iscrowd`` and
            ``ignore``; such annotations get ``iscrowd`` 1.
        images_outside: whether ``file_name`` may lead outside of `image_root`. Links in it may in any case.

    Raises:
        FileNotFoundError: the JSON, or images that it lists, do not exist.
        ValueError: not a COCO instances file; other classes than `classes`; images outside of `image_root`.
    """
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"data set {name!r}: annotation file {json_file} does not exist")
    if has_mark(json_file):
        raise ValueError(f"{json_file}: {MARKED}")
    try:
        with _with_ignore_as_crowd(json_file) as file:
            dicts = load_coco_json(file, image_root, name, extra_annotation_keys=list(ignore))
    except _DAMAGED as error:
        raise ValueError(f"{json_file}: not a COCO instances file: {one_line(repr(error))}") from error
    _require_distinct(json_file, len(dicts))
    for record in dicts:
        _check(record, json_file)
    if not images_outside:
        _require_inside(dicts, json_file, image_root)
    found = list(MetadataCatalog.get(name).thing_classes)
    if not all(isinstance(known, str) for known in found):
        raise ValueError(f"{json_file}: names of categories are {brief(found)}; valid: texts")
    if classes and list(classes) != found:
        raise ValueError(f"data set {name!r} lists classes {list(classes)} but {json_file} holds {found}")
    _mark_crowds(dicts, ignore)
    _require_images(dicts, image_root)
    return dicts


def has_mark(file: str | Path) -> bool:
    """Whether a file begins with the byte order mark of UTF-8."""
    with open(file, "rb") as stream:
        return stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


@contextmanager
def _with_ignore_as_crowd(json_file: str) -> Iterator[str]:
    """A file in which annotations with ``ignore``, which Detectron2 refuses, have ``iscrowd`` instead."""
    with open(json_file, encoding="utf-8") as file:
        text = file.read()
    if '"ignore"' not in text:
        yield json_file
        return
    content = json.loads(text)
    for annotation in content.get("annotations", ()):
        if annotation.pop("ignore", 0):
            annotation["iscrowd"] = 1
    with tempfile.TemporaryDirectory(prefix="coco_") as folder:
        # Under its own name, by which Detectron2 excuses repeated ids in minival.
        converted = Path(folder) / Path(json_file).name
        converted.write_text(json.dumps(content), encoding="utf-8")
        yield str(converted)


def _check(record: dict[str, Any], json_file: str) -> None:
    """Check the size of an image and the numbers of its boxes; which boxes are trained on is seen later."""
    problem, sides = "", (record["width"], record["height"])
    if not all(isinstance(side, (int, float)) and side > 0 for side in sides):
        problem = f"its width and height are {brief(sides)}; valid: numbers above 0"
    for box in (annotation.get("bbox") for annotation in record["annotations"]):
        if not isinstance(box, list) or [type(v) in (int, float) for v in box] != [True] * 4:
            problem = f"a bbox is {brief(box)}; valid: four numbers"
    if problem:
        raise ValueError(f"{json_file}, image {brief(record['image_id'])}: {problem}")


def _require_distinct(json_file: str, num_images: int) -> None:
    """Refuse ids of images that come again: pycocotools keeps the last image, with the objects of all."""
    text = Path(json_file).read_text(encoding="utf-8")
    if text.count('"file_name"') == num_images:  # sooner than to parse it again
        return
    ids = Counter(image["id"] for image in json.loads(text)["images"])
    if again := [str(image_id) for image_id, times in ids.items() if times > 1]:
        raise ValueError(f"{json_file}: {len(again)} ids belong to several images: {name_some(again)}")


def has_outline(annotation: Mapping[str, Any]) -> bool:
    """Whether the ``segmentation`` is a mask, or has a polygon of three points or more.

    An object whose polygons are all shorter is left out by Detectron2, box and all.
    """
    outline = annotation.get("segmentation")
    polygons = outline if isinstance(outline, list) else []
    long = any(isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 6 for p in polygons)
    return long or (isinstance(outline, dict) and bool(outline))


def leads_outside(path: str | Path, folder: str | Path) -> bool:
    """Whether `path` is not below `folder` as both are written; links are not followed."""
    return not os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))


def _require_inside(dicts: list[dict[str, Any]], json_file: str, image_root: str) -> None:
    outside = [record["file_name"] for record in dicts if leads_outside(record["file_name"], image_root)]
    if outside:
        raise ValueError(
            f"{json_file}: {len(outside)} of {len(dicts)} images lie outside of {image_root}, the first is "
            f"{brief(outside[0])}; allowed by `images_outside: true` in the catalogue"
        )


def _mark_crowds(dicts: list[dict[str, Any]], marks: Sequence[str]) -> None:
    """Set ``iscrowd`` of annotations with one of `marks`, which are removed."""
    for annotation in (annotation for record in dicts for annotation in record.get("annotations", ())):
        if any([annotation.pop(mark, 0) for mark in marks]):
            annotation["iscrowd"] = 1


def _require_images(dicts: list[dict[str, Any]], image_root: str) -> None:
    """Check that all images exist, listing each folder once."""
    paths = [Path(record["file_name"]) for record in dicts]
    listed = {folder: set(os.listdir(folder)) for folder in {p.parent for p in paths} if folder.is_dir()}
    missing = [
        str(record["image_id"])
        for record, path in zip(dicts, paths)
        if path.name not in listed.get(path.parent, ())
    ]
    if missing:
        raise FileNotFoundError(
            f"{image_root}: {len(missing)} of {len(dicts)} images are missing, ids: {name_some(missing)}"
        )
