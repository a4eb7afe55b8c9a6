"""What a conversion removes from the boxes of an image."""

from dataclasses import dataclass, fields
from typing import Optional

import numpy as np

__all__ = ["Removed", "clean_boxes"]


@dataclass
class Removed:
    """How many boxes were changed or removed, and why; two add up with ``+=``."""

    clipped: int = 0  # reached beyond their image
    duplicates: int = 0  # equal to another box of their image, which has a score as high or higher
    small: int = 0  # a side shorter than the minimum

    def __iadd__(self, other: "Removed") -> "Removed":
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


def clean_boxes(
    boxes: np.ndarray, scores: np.ndarray, size: Optional[tuple[int, int]], min_size: float
) -> tuple[np.ndarray, np.ndarray, Removed]:
    """
    Clip boxes to their image, keep the best scored one of equal boxes, drop small ones; the order stays.

    Args:
        boxes: (n, 4) float32 XYXY_ABS; scores: (n,), descending.
        size: width and height of the image in pixels; None if not known: nothing is clipped then.
        min_size: least width and height in pixels.
    """
    removed = Removed()
    if size is not None:
        inside = np.clip(boxes, 0, np.array([*size, *size], np.float32))
        removed.clipped = int((inside != boxes).any(axis=1).sum())
        boxes = inside
    unique = _first_of_equals(boxes)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(axis=1)
    removed.duplicates, removed.small = int((~unique).sum()), int((unique & ~large).sum())
    return boxes[unique & large], scores[unique & large], removed


def _first_of_equals(boxes: np.ndarray) -> np.ndarray:
    """(n,) bool, True for each box that no earlier one equals."""
    keys = np.ascontiguousarray(boxes + np.float32(0)).view(np.uint64)  # + 0: -0.0 and 0.0 are equal
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: the first of equals comes first
    first = np.ones(len(boxes), bool)
    first[order[1:]] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    return first
