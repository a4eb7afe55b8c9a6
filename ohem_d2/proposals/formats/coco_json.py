"""COCO results, parsed as a stream: ``[{"image_id": ..., "bbox": [x, y, width, height], "score": ...}]``."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...utils.messages import brief, one_line
from .base import Entry, Format, RawProposals, require_extra

__all__ = ["COCO_JSON"]

_CHUNK = 2**20
_MAX_DEPTH = 100  # far above that of any results file


def read_coco_json(path: Path) -> RawProposals:
    """Gather all boxes first, in 40 bytes each, since those of an image may be scattered over the file."""
    rows: dict[Any, array[float]] = {}
    for number, item in enumerate(_items(path)):
        image_id, values = _row(item, f"{path}, entry {number}")
        rows.setdefault(image_id, array("d")).extend(values)
    return RawProposals(_entries(rows), "xywh0", "COCO results")


def _items(path: Path) -> Iterator[Any]:
    try:
        import ijson
    except ImportError:
        raise require_extra("ijson", "a COCO results file") from None
    with open(path, "rb") as file:
        _check_depth(file, path)
        if not file.read(512).lstrip().startswith(b"["):
            raise ValueError(f"{path}: not a COCO results file: it holds no list")
        file.seek(0)
        try:
            yield from ijson.items(file, "item", use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a COCO results file: {one_line(error)}") from error


def _check_depth(file: BinaryIO, path: Path) -> None:
    """Refuse deeply nested JSON, on which the parser takes quadratic time. Brackets in strings count too."""
    depth = 0
    while chunk := file.read(_CHUNK):
        codes = np.frombuffer(chunk, np.uint8) | 32  # "[" and "]" become "{" and "}"
        steps = (codes == ord("{")).astype(np.int8) - (codes == ord("}"))
        if depth + int(np.cumsum(steps, dtype=np.int32).max()) > _MAX_DEPTH:
            raise ValueError(f"{path}: not a COCO results file: it nests more than {_MAX_DEPTH} deep")
        depth += int(steps.sum())
    file.seek(0)


def _row(item: Any, where: str) -> tuple[Any, list[float]]:
    if not isinstance(item, dict) or not {"image_id", "bbox", "score"} <= item.keys():
        raise ValueError(f"{where}: needs image_id, bbox and score, found {brief(item)}")
    box = item["bbox"]
    values = [*box, item["score"]] if isinstance(box, list) and len(box) == 4 else []
    if not values or not all(type(value) in (int, float) for value in values):
        raise ValueError(
            f"{where}: bbox must be four numbers and score one, found {brief(box)} and {brief(item['score'])}"
        )
    if not isinstance(item["image_id"], (int, str)):
        raise ValueError(f"{where}: image_id must be an integer or a string, not {brief(item['image_id'])}")
    try:
        return item["image_id"], [float(value) for value in values]
    except OverflowError:
        raise ValueError(f"{where}: a number is too large for a coordinate or score") from None


def _entries(rows: dict[Any, "array[float]"]) -> Iterator[Entry]:
    for image_id, values in rows.items():
        table = np.frombuffer(values).reshape(-1, 5)
        yield image_id, table[:, :4], table[:, 4]


def _is_json(path: Path, start: bytes) -> bool:
    return path.suffix == ".json" or start.lstrip()[:1] == b"["


COCO_JSON = Format("coco", "COCO results JSON", _is_json, read_coco_json)
