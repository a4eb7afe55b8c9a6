"""Findings in labels as files: CSV, COCO JSON, and tasks of Label Studio."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..utils.files import atomic_file
from ..utils.messages import brief
from ..utils.text_files import read_json
from .label_errors import Finding, InspectedImage
from .label_ranking import RankedFinding

__all__ = [
    "read_inspected",
    "write_coco",
    "write_csv",
    "write_inspected",
    "write_label_studio",
]

CORNERS = ("x1", "y1", "x2", "y2")


def write_inspected(path: str | Path, images: Sequence[InspectedImage]) -> None:
    """Labels, detections and findings of all images as JSON, for `read_inspected`."""
    rows = [{**vars(image), "findings": list(map(asdict, image.findings))} for image in images]
    lists = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()} for row in rows]
    _write_json(path, lists)


def read_inspected(path: str | Path) -> list[InspectedImage]:
    """What `write_inspected` wrote; ValueError for another file."""
    rows = read_json(path)
    try:
        return [_image_of(row) for row in rows]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of inspected labels: {brief(error)}") from None


def _image_of(row: dict[str, Any]) -> InspectedImage:
    boxes = {key: np.array(row[key], np.float64).reshape(-1, 4) for key in ("boxes", "found_boxes")}
    numbers = {key: np.array(row[key], np.int64) for key in ("categories", "found_categories")}
    findings = [Finding(**{**found, "box": tuple(found["box"])}) for found in row["findings"]]
    given = {"size": tuple(row["size"]), "found_scores": np.array(row["found_scores"], np.float64)}
    return InspectedImage(**{**row, **boxes, **numbers, **given, "findings": findings})


def write_csv(path: str | Path, ranked: Sequence[RankedFinding], classes: Sequence[str]) -> None:
    """One line for each finding: the label, and the class and the box that the model sees."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    label_corners = [f"label_{corner}" for corner in CORNERS]
    writer.writerow(
        ["rank", "image_id", "file_name", "kind", "loss", "cls_loss", "box_loss", "label", *label_corners,
         "class", "score", *CORNERS, "objectlab"]
    )  # fmt: skip
    for rank, found in enumerate(ranked, 1):
        finding, label_box = found.finding, found.label_box
        losses = [f"{value:.4f}" for value in (finding.loss, finding.cls_loss, finding.box_loss)]
        corners = [""] * 4 if label_box is None else [f"{v:.1f}" for v in label_box]
        seen = [classes[finding.category], f"{finding.score:.4f}", *(f"{v:.1f}" for v in finding.box)]
        quality = "" if found.objectlab is None else f"{found.objectlab:.4f}"
        place = [rank, finding.image_id, found.image.file_name, finding.kind]
        writer.writerow([*place, *losses, found.label_name(classes), *corners, *seen, quality])
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def write_coco(
    path: str | Path, numbered: Sequence[tuple[int, RankedFinding]], classes: Sequence[str]
) -> None:
    """A COCO instances file with the findings as annotations: the class and the box that the model sees.

    Ids are the ranks. ``score`` is the probability of the class, ``attributes`` are the kind, the loss that
    it is ranked by and the labelled class, ``label_bbox`` is the labelled box. ``file_name`` is relative to
    the folder that all images share.
    """
    names = _relative_names([found for _, found in numbered])
    sizes = {found.image.image_id: found.image.size for _, found in numbered}
    ids = {image_id: number for number, image_id in enumerate(names, 1)}
    images = [
        {"id": ids[i], "file_name": name, "width": sizes[i][0], "height": sizes[i][1]}
        for i, name in names.items()
    ]
    annotations = []
    for rank, found in numbered:
        finding, box = found.finding, _xywh(found.finding.box)
        attributes = {"kind": finding.kind, "loss": found.loss, "label": found.label_name(classes)}
        place = {"id": rank, "image_id": ids[finding.image_id], "category_id": finding.category + 1}
        row = {**place, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": finding.score}
        label_box = {} if found.label_box is None else {"label_bbox": _xywh(found.label_box)}
        annotations.append({**row, "attributes": attributes, **label_box})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    _write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def write_label_studio(path: str | Path, ranked: Sequence[RankedFinding], classes: Sequence[str]) -> None:
    """Tasks of Label Studio, an image each, by its highest loss descending, with findings as predictions.

    For its template "Object Detection with Bounding Boxes": ``from_name`` is "label", ``to_name`` "image".
    Images are files of its local storage, relative to the folder that all images share.
    """
    names, of_images = _relative_names(ranked), {}
    for found in ranked:
        of_images.setdefault(found.image.image_id, []).append(found)
    tasks = []
    for image_id, of_image in of_images.items():
        results = [_label_studio_box(found, number, classes) for number, found in enumerate(of_image, 1)]
        score = of_image[0].loss
        data = {"image": f"/data/local-files/?d={quote(names[image_id])}", "image_id": image_id}
        predictions = [{"model_version": "label errors", "score": score, "result": results}]
        tasks.append({"data": data, "predictions": predictions})
    _write_json(path, tasks)


def _label_studio_box(found: RankedFinding, number: int, classes: Sequence[str]) -> dict[str, Any]:
    """A rectangle in percent of the image."""
    width, height = found.image.size
    x, y, w, h = _xywh(found.finding.box)
    value = {
        "x": 100 * x / width,
        "y": 100 * y / height,
        "width": 100 * w / width,
        "height": 100 * h / height,
    }
    label = found.label_name(classes)
    said = f"{found.finding.kind}, loss {found.loss:.2f}" + (f", labelled {label}" if label else "")
    return {
        "id": str(number),
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": found.finding.score,
        "meta": {"text": [said]},
        "value": {**value, "rotation": 0, "rectanglelabels": [classes[found.finding.category]]},
    }


def _relative_names(ranked: Sequence[RankedFinding]) -> dict[str, str]:
    """Image id -> file name, relative to the folder that the images share; in the order of the ranks."""
    files = {found.image.image_id: os.path.abspath(found.image.file_name) for found in ranked}
    folder = os.path.commonpath([os.path.dirname(file) for file in files.values()]) if files else ""
    return {image_id: Path(file).relative_to(folder).as_posix() for image_id, file in files.items()}


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = map(float, box)
    return [x1, y1, x2 - x1, y2 - y1]


def _write_json(path: str | Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(content) + "\n").encode())
