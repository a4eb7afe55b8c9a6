"""What is wrong with annotated boxes, and which of them are trained on."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from detectron2.structures import BoxMode

from ..utils.messages import name_some

__all__ = ["box_problem", "clip_box", "with_valid_boxes"]

logger = logging.getLogger(__name__)

_NO_AREA, _OUTSIDE, _BEYOND = "has no area", "lies outside its image", "reaches beyond its image"
_ROUNDING = 0.01  # COCO's boxes are rounded to hundredths of a pixel


def box_problem(box: Sequence[float], size: Sequence[float]) -> str | None:
    """What is wrong with an XYXY_ABS box in an image of `size` (width, height), None if nothing."""
    x1, y1, x2, y2 = box
    width, height = size
    if x2 <= x1 or y2 <= y1:
        return _NO_AREA
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return _OUTSIDE
    if min(x1, y1) < -_ROUNDING or x2 > width + _ROUNDING or y2 > height + _ROUNDING:
        return _BEYOND
    return None


def clip_box(box: Sequence[float], size: Sequence[float]) -> list[float]:
    """An XYXY_ABS box, clipped to an image of `size` (width, height)."""
    (x1, y1, x2, y2), (width, height) = box, size
    return [max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)]


def with_valid_boxes(dataset_dicts: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The dataset dicts without boxes that have no area or lie outside their image, and the others clipped.

    One warning counts and names what was dropped, another one what was clipped. A box of negative width or
    height has no area. Rotated boxes are not looked at.

    Args:
        dataset_dicts: in Detectron2's format; they are not changed.
        name: of the data set, for the messages.

    Raises:
        ValueError: a coordinate that is not a finite number; names data set, image and box.
    """
    found: dict[str, list[str]] = {_NO_AREA: [], _OUTSIDE: [], _BEYOND: []}
    dicts = [_with_valid_boxes(record, name, found) for record in dataset_dicts]
    dropped, clipped = found[_NO_AREA] + found[_OUTSIDE], found[_BEYOND]
    if dropped:
        what = "boxes that have no area or lie outside their image"
        logger.warning("%s: dropped %d %s: %s", name, len(dropped), what, name_some(dropped))
    if clipped:
        what = "boxes that reach beyond their image"
        logger.warning("%s: clipped %d %s: %s", name, len(clipped), what, name_some(clipped))
    return dicts


def _with_valid_boxes(record: dict[str, Any], name: str, found: dict[str, list[str]]) -> dict[str, Any]:
    """The record itself if nothing is wrong with its boxes; what is wrong is added to `found`."""
    size = record.get("width", math.inf), record.get("height", math.inf)
    annotations, is_changed = [], False
    for annotation in record.get("annotations", ()):
        corners = _corners(annotation)
        if corners is None:
            annotations.append(annotation)
            continue
        if not math.isfinite(sum(corners)):
            box = f"image {record['image_id']} {annotation['bbox']}"
            raise ValueError(f"{name}, {box}: a box needs finite numbers ({record['file_name']})")
        problem = box_problem(corners, size)
        if problem:
            is_changed = True
            found[problem].append(f"image {record['image_id']} {annotation['bbox']}")
        if problem == _BEYOND:
            annotation = {**annotation, "bbox": clip_box(corners, size), "bbox_mode": BoxMode.XYXY_ABS}
        if problem in (None, _BEYOND):
            annotations.append(annotation)
    return {**record, "annotations": annotations} if is_changed else record


def _corners(annotation: dict[str, Any]) -> Sequence[float] | None:
    """The box as XYXY_ABS, None if it is of another kind."""
    if annotation["bbox_mode"] == BoxMode.XYXY_ABS:
        return annotation["bbox"]
    if annotation["bbox_mode"] == BoxMode.XYWH_ABS:
        x, y, width, height = annotation["bbox"]
        return x, y, x + width, y + height
    return None
