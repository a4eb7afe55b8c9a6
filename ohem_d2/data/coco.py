"""Data sets in COCO layout: Detectron2's loader with clear errors."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..utils.messages import name_some

__all__ = ["load_coco"]


def load_coco(
    json_file: str, image_root: str, name: str, classes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Load a COCO instances file as Detectron2 dataset dicts.

    The metadata of the data set get ``thing_classes`` and ``thing_dataset_id_to_contiguous_id``, as from
    Detectron2's ``load_coco_json``.

    Args:
        json_file: COCO instances JSON.
        image_root: folder that its ``file_name`` entries are relative to.
        name: registered name of the data set.
        classes: if given, the class names that the file must have, in the order of its category ids.

    Raises:
        FileNotFoundError: the JSON, or images that it lists, do not exist.
        ValueError: not a COCO instances file, or its classes are not `classes`.
    """
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"data set {name!r}: annotation file {json_file} does not exist")
    try:
        dicts = load_coco_json(json_file, image_root, name)
    except (AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{json_file}: not a COCO instances file: {error!r}") from error
    found = list(MetadataCatalog.get(name).thing_classes)
    if classes and list(classes) != found:
        raise ValueError(f"data set {name!r} lists classes {list(classes)} but {json_file} holds {found}")
    _require_images(dicts, image_root)
    return dicts


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
