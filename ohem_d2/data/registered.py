"""What is known of a data set by its registered name, before it is loaded."""

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..utils.messages import brief
from .voc import VOCFolders

__all__ = [
    *("annotation_file", "category_ids", "class_names", "first_class_names", "is_background"),
    *("missing_files_explained", "require_images", "require_registered"),
]


def require_registered(name: str) -> None:
    """Raise ValueError, with the nearest names, unless there is a data set of that name."""
    if isinstance(name, str) and name in DatasetCatalog:
        return
    near = ", ".join(difflib.get_close_matches(str(name), DatasetCatalog.list()))
    hint = f"did you mean {near}?" if near else "data sets of your own are registered by a catalogue"
    raise ValueError(f"data set {brief(name)} is not registered; {hint}")


def annotation_file(name: str) -> str:
    """The file that lists the images of a registered data set; "" where its layout is not known."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("json_file"):
        return str(metadata.json_file)
    if not metadata.get("dirname"):
        return ""
    folders = metadata.get("folders", VOCFolders())
    return str(Path(metadata.dirname, folders.imagesets, f"{metadata.split}.txt"))


@contextmanager
def missing_files_explained(names: str) -> Iterator[None]:
    """A block that loads data sets; if a file is not there, the error says where data sets are looked for."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename is None:  # of ours, which says more
            raise
        root = os.environ.get("DETECTRON2_DATASETS", "datasets")
        raise FileNotFoundError(
            f"data set {names}: {error.filename} does not exist; data sets of Detectron2 lie in "
            f"$DETECTRON2_DATASETS, here {root} (see datasets/README.md)"
        ) from None


def require_images(name: str) -> None:
    """Load a registered data set; raise ValueError with its file if it has no images."""
    with missing_files_explained(name):
        num_images = len(DatasetCatalog.get(name))
    if num_images == 0:
        raise ValueError(f"data set {name!r} has no images: {annotation_file(name)}")


def is_background(name: str) -> bool:
    """Whether a registered data set is one of images without objects, by its metadata ``is_background``."""
    return bool(MetadataCatalog.get(name).get("is_background", False))


def class_names(name: str) -> list[str] | None:
    """Names of the classes of a registered data set, in the order of their labels.

    They are those of its metadata or catalogue entry, else those of its COCO file.

    Returns:
        None: not known without loading the data set, or its file cannot be read.
    """
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes") or getattr(DatasetCatalog[name], "classes", ())
    return list(names) or [category["name"] for category in _coco_categories(metadata)] or None


def first_class_names(names: Sequence[str]) -> list[str]:
    """Those of the first of several registered data sets that tells its classes; [] if none does."""
    return next(filter(None, map(class_names, names)), [])


def category_ids(name: str) -> dict[int, int] | None:
    """Label -> category id in the COCO file of a registered data set, from its metadata or the file.

    Returns:
        None: it has no such file, or the file cannot be read.
    """
    metadata = MetadataCatalog.get(name)
    labels = metadata.get("thing_dataset_id_to_contiguous_id")
    if labels is not None:
        return {label: category_id for category_id, label in labels.items()}
    return {label: category["id"] for label, category in enumerate(_coco_categories(metadata))} or None


def _coco_categories(metadata: Metadata) -> list[dict[str, Any]]:
    """As Detectron2 orders them, by id; none where the file cannot be read, of which the loader says why."""
    try:
        with open(metadata.get("json_file") or "", encoding="utf-8") as file:
            categories = json.load(file)["categories"]
        known = [{"id": category["id"], "name": category["name"]} for category in categories]
        return sorted(known, key=lambda category: category["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return []
