"""The objects of a registered data set, and the detections that a run left for it, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..data.registered import require_registered
from ..data.voc import VOCFolders, load_voc
from ..utils.messages import brief, name_some
from ..utils.text_files import read_json
from .matching import ObjectBoxes, ScoredBoxes

__all__ = ["LabelledImages", "load_labelled_images", "read_detections", "read_records"]

RESULTS = "coco_instances_results.json"


@dataclass(frozen=True)
class LabelledImages:
    """A data set with annotations; the images of `objects` are indices into ``records``."""

    name: str
    records: Sequence[dict[str, Any]]  # Detectron2's, with ``image_id`` and ``file_name``
    classes: Sequence[str]
    category_ids: dict[int, int]  # that of a results file -> label
    objects: ObjectBoxes


def load_labelled_images(name: str) -> LabelledImages:
    """Load the annotations of a registered data set.

    Crowds, objects marked difficult and ignore regions are ignored.

    Raises:
        ValueError: it is not registered or has no annotations, or they cannot be read.
        FileNotFoundError: files are missing.
    """
    require_registered(name)
    records, metadata = read_records(name), MetadataCatalog.get(name)
    if not metadata.get("has_annotations", True) or not any("annotations" in r for r in records):
        raise ValueError(f"data set {name!r} has no annotations")
    classes = list(metadata.thing_classes)
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(classes))}
    found = [(image, a) for image, r in enumerate(records) for a in r.get("annotations", ())]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for _, a in found]
    crowd = np.array([bool(a.get("iscrowd", 0)) for _, a in found], bool)
    difficult = np.array([bool(a.get("difficult", 0)) for _, a in found], bool)
    objects = ObjectBoxes(
        np.array([image for image, _ in found], np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([a["category_id"] for _, a in found], np.int64),
        crowd | difficult,
        crowd,
    )
    return LabelledImages(name, records, classes, dict(ids), objects)


def read_records(name: str) -> list[dict[str, Any]]:
    """The dataset dicts; of VOC layout from the files, since not every loader keeps the difficult mark."""
    metadata = MetadataCatalog.get(name)
    if not hasattr(metadata, "dirname") or not metadata.get("has_annotations", True):
        return DatasetCatalog.get(name)
    classes, marks = metadata.thing_classes, metadata.get("ignore", ())
    return load_voc(metadata.dirname, metadata.split, classes, marks, metadata.get("folders", VOCFolders()))


def read_detections(folder: str | Path, images: LabelledImages) -> ScoredBoxes:
    """Read the results file in the folder that a run wrote for a data set.

    Raises:
        FileNotFoundError: no results file: the run was not tested on the data set, or by an older version.
        ValueError: the file is not one of COCO results, or is of other images or classes; names the file.
    """
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"no detections: {path} does not exist; train_net.py --eval-only writes it")
    try:
        rows = read_json(path)
        columns = [[row[key] for row in rows] for key in ("image_id", "category_id", "bbox", "score")]
        boxes = np.array(columns[2], np.float64).reshape(-1, 4)
        scores = np.array(columns[3], np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of COCO results: {brief(error)}") from None
    places = {str(record["image_id"]): place for place, record in enumerate(images.records)}
    ids = [str(image_id) for image_id in columns[0]]
    for what, values, known in (("images", ids, places), ("classes", columns[1], images.category_ids)):
        if unknown := sorted({v for v in values if v not in known}, key=str):
            raise ValueError(f"{path}: {what} that data set {images.name!r} lacks: {name_some(unknown)}")
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([images.category_ids[c] for c in columns[1]], np.int64)
    return ScoredBoxes(np.array([places[i] for i in ids], np.int64), boxes, labels, scores)
