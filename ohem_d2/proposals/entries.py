"""The proposals of one image: checks, order, and the image id as text."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..utils.messages import brief

__all__ = ["check_stored", "image_id_text", "sorted_entry"]


def image_id_text(image_id: Any, where: str) -> str:
    """The id as it is compared: a string unchanged, an integer in decimal.

    Raises:
        ValueError: another type, such as float or bytes, or text that is not valid Unicode.
    """
    if isinstance(image_id, (int, np.integer)) and not isinstance(image_id, bool):
        return str(int(image_id))
    if not isinstance(image_id, str):
        raise ValueError(f"{where}: an image id is a string or an integer, not {brief(image_id)}")
    try:
        image_id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where}: image id {brief(image_id)} is not valid Unicode") from None
    return str(image_id)


def sorted_entry(boxes: Any, scores: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check the boxes and scores of one image and sort them by descending score; ties keep their order.

    Args:
        boxes: (n, 4) XYXY_ABS, any real dtype, or empty.
        scores: (n,), any real dtype.
        where: file and image, for errors.

    Returns:
        (n, 4) float32 and (n,) float32.

    Raises:
        ValueError: other shapes or dtypes; a value that is not finite, also as float32; x1 > x2 or y1 > y2.
    """
    boxes, scores = _numbers(boxes, where), _numbers(scores, where)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: boxes must have shape (n, 4), not {boxes.shape}")
    if scores.shape != (len(boxes),):
        raise ValueError(f"{where}: {len(boxes)} boxes but scores of shape {scores.shape}")
    _require_finite(boxes, "box", where)
    _require_finite(scores[:, None], "score", where)
    bad = (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
    if bad.any():
        raise ValueError(f"{where}: box {bad.argmax()} has x1 > x2 or y1 > y2: {boxes[bad][0].tolist()}")
    order = np.argsort(-scores, kind="stable")  # in float64: rounding to float32 can make scores equal
    return boxes[order].astype(np.float32), scores[order].astype(np.float32)


def check_stored(boxes: NDArray[Any], scores: NDArray[Any], where: str) -> None:
    """Check an entry of a store: values finite, corners in order, scores descending.

    Done on each access, which takes microseconds, because on opening it would read all boxes from disk.
    """
    if not len(scores):
        return
    x1, y1, x2, y2 = boxes.T
    ordered = (scores[1:] <= scores[:-1]).all() and (x1 <= x2).all() and (y1 <= y2).all()  # so nothing is NaN
    if not (ordered and _finite(scores[[0, -1]]) and _finite(boxes)):
        raise ValueError(
            f"{where}: the file is damaged: boxes or scores are not finite, unsorted or reversed"
        )


def _finite(values: NDArray[Any]) -> bool:
    """Whether all values, of which there is at least one, are finite; faster than ``np.isfinite``."""
    return bool(-np.inf < values.min() and values.max() < np.inf)


def _numbers(values: Any, where: str) -> NDArray[Any]:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" and array.size:
            raise TypeError(f"found {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: boxes and scores must be numbers: {error}") from error


def _require_finite(values: NDArray[Any], what: str, where: str) -> None:
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32)).all(axis=1)
    if bad.any():
        raise ValueError(f"{where}: {what} {bad.argmax()} is not finite: {values[bad][0].tolist()}")
