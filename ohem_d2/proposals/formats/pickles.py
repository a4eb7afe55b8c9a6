"""Pickles of Detectron2, Detectron and mmdetection, read without executing code."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from ...utils.budget import Budget
from ...utils.files import atomic_file
from ...utils.messages import brief
from ...utils.pickles import load_pickle
from .base import Entry, Format, RawProposals

__all__ = ["DETECTRON2", "MMDETECTION", "write_detectron2"]

_DETECTRON1_KEYS = {"indexes": "ids", "scores": "objectness_logits"}
_REQUIRED_KEYS = ("ids", "boxes", "objectness_logits")
_CONVENTIONS = {BoxMode.XYXY_ABS: "xyxy0", BoxMode.XYWH_ABS: "xywh0"}


def read_detectron2(path: Path) -> RawProposals:
    """Read a dict of Detectron2 or Detectron.

    Detectron2's has ``ids``, ``boxes``, ``objectness_logits`` and ``bbox_mode``; Detectron's has ``indexes``,
    ``boxes`` and ``scores``.
    """
    content = _load(path)
    if isinstance(content, list):
        raise ValueError(
            f"{path}: a list, as mmdetection writes it, has no image ids: convert it "
            "with --format mmdetection and --dataset"
        )
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a proposal file: holds a {type(content).__name__} instead of a dict")
    content = {_DETECTRON1_KEYS.get(key, key): value for key, value in content.items()}
    columns = _columns(content, path)
    mode = content.get("bbox_mode", BoxMode.XYXY_ABS)
    if not isinstance(mode, int) or mode not in _CONVENTIONS:
        raise ValueError(f"{path}: bbox_mode must be XYXY_ABS (0) or XYWH_ABS (1), not {brief(mode)}")
    return RawProposals(_bounded(zip(*columns), path), _CONVENTIONS[mode], "Detectron2 or Detectron")


def read_mmdetection(path: Path, ids: Sequence[Any]) -> RawProposals:
    """Read mmdetection's list: an (n, 4) or (n, 5) array for each image of `ids`, in that order.

    Without a fifth column all scores are equal.
    """
    content = _load(path)
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{path}: not mmdetection's: holds a {type(content).__name__} instead of a list")
    if len(content) != len(ids):
        raise ValueError(f"{path}: {len(content)} images, but the data set has {len(ids)}")
    rows = (split_scores(array, f"{path}, image {i}") for i, array in zip(ids, content))
    return RawProposals(_bounded(((i, *row) for i, row in zip(ids, rows)), path), "xyxy0", "mmdetection")


def split_scores(array: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Split an (n, 5) array into boxes and scores; an (n, 4) array gets scores of zero.

    Raises:
        ValueError: another shape, or not numbers.
    """
    array = _plain_array(array)
    array = array.reshape(0, 5) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] not in (4, 5) or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: needs an (n, 4) or (n, 5) array of numbers, not {array.shape} of {array.dtype}"
        )
    return array[:, :4], array[:, 4] if array.shape[1] == 5 else np.zeros(len(array))


def write_detectron2(path: Path, proposals: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Write Detectron2's format; the file appears whole or not at all.

    Ids stay strings: Detectron2's loader compares them as strings.

    Args:
        path: file to write; missing folders are created.
        proposals: image id -> (boxes (n, 4) float32 XYXY_ABS, scores (n,)).
    """
    entries = list(proposals.values())
    content = {
        "ids": list(proposals),
        "boxes": [np.array(boxes) for boxes, _ in entries],
        "objectness_logits": [np.array(scores) for _, scores in entries],
        "bbox_mode": int(BoxMode.XYXY_ABS),  # a plain int loads without Detectron2
    }
    with atomic_file(path) as file:
        pickle.dump(content, file, protocol=4)


def _columns(content: Mapping[Any, Any], path: Path) -> list[Sequence[Any]]:
    missing = [key for key in _REQUIRED_KEYS if key not in content]
    if missing:
        raise ValueError(
            f"{path}: not a proposal file: no {missing[0]!r} among its keys {brief(list(content))}"
        )
    columns = [content[key] for key in _REQUIRED_KEYS]
    for key, column in zip(_REQUIRED_KEYS, columns):
        if not isinstance(column, (list, tuple)) and not (isinstance(column, np.ndarray) and column.ndim):
            raise ValueError(f"{path}: {key} must be a list, not a {type(column).__name__}")
    lengths = {key: len(column) for key, column in zip(_REQUIRED_KEYS, columns)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: ids, boxes and objectness_logits differ in length: {lengths}")
    return columns


def _bounded(entries: Iterator[Entry], path: Path) -> Iterator[Entry]:
    """The entries, bounded by the size of the file, since a pickle can repeat an array at no cost."""
    budget = Budget(path)
    for image_id, boxes, scores in entries:
        boxes, scores = _plain_array(boxes), _plain_array(scores)
        budget.spend(boxes.nbytes + scores.nbytes, f"image {brief(image_id)}")
        yield image_id, boxes, scores


def _plain_array(values: Any) -> NDArray[Any]:
    """Convert a list of numbers or of rows of up to five to an array; anything else to an object array."""
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, (list, tuple)):
        return np.array(None)
    rows = [len(row) for row in values if isinstance(row, (list, tuple, np.ndarray))]
    deep = any(
        isinstance(item, (list, tuple, np.ndarray))
        for row in values
        if isinstance(row, (list, tuple))
        for item in row
    )
    if deep or (rows and max(rows) > 5):
        return np.array(None)
    try:
        return np.array(values) if values else np.zeros((0,))
    except ValueError:
        return np.array(None)


def _box_mode(value: Any) -> BoxMode:
    """Replace the class, which hashes any value."""
    if not isinstance(value, int):
        raise pickle.UnpicklingError(f"box mode {brief(value)} is not admitted")
    return BoxMode(value)


def _box_mode_by_name(owner: Any, name: str) -> BoxMode:
    """Replace ``getattr``, with which Python 3.11 may store an enum member."""
    if owner is not _box_mode or not isinstance(name, str) or name not in BoxMode.__members__:
        raise pickle.UnpicklingError(f"attribute {brief(name)} is not admitted")
    return BoxMode[name]


_BOX_MODE = {
    ("detectron2.structures.boxes", "BoxMode"): _box_mode,
    ("builtins", "getattr"): _box_mode_by_name,
}


def _load(path: Path) -> Any:
    try:
        return load_pickle(path, _BOX_MODE)
    except ValueError as error:
        raise ValueError(f"{path}: not a proposal file: {error}") from error


def _is_pickle(path: Path, start: bytes) -> bool:
    return path.suffix in (".pkl", ".pickle") or start[:1] == b"\x80"


DETECTRON2 = Format("detectron2", "pickle of Detectron2 or Detectron", _is_pickle, read_detectron2)
MMDETECTION = Format(
    "mmdetection", "pickled list of arrays", lambda path, start: False, read_mmdetection, needs_ids=True
)
