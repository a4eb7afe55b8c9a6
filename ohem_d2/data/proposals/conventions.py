"""Box conventions: which four numbers a format writes for a box, and how they become XYXY_ABS."""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CONVENTIONS", "Convention", "get_convention"]


@dataclass(frozen=True)
class Convention:
    """
    ``xyxy1-inclusive`` for instance: the order of the numbers, the index of the first pixel, and whether the
    second corner is the last pixel of the box instead of the first one beyond it.
    """

    order: str  # "xyxy", "yxyx" or "xywh"
    first: int  # 0 or 1
    inclusive: bool

    def __str__(self) -> str:
        return f"{self.order}{self.first}{'-inclusive' if self.inclusive else ''}"

    def to_corners(self, boxes: Any) -> Any:
        """
        (n, 4) boxes of this convention as float64 XYXY_ABS: 0-based, width = x2 - x1.

        What is no (n, 4) array of numbers is returned as it is, for who knows the image to refuse it.
        """
        try:
            array = np.asarray(boxes)
            if array.dtype.kind not in "biuf" or array.ndim != 2 or array.shape[1] != 4:
                return boxes
        except (TypeError, ValueError):
            return boxes
        a, b, c, d = array.astype(np.float64).T  # before any sum: int16 and uint8 would wrap
        if self.order == "yxyx":
            a, b, c, d = b, a, d, c
        if self.order == "xywh":
            c, d = a + c, b + d
        beyond = 1 if self.inclusive else 0
        return np.stack([a, b, c + beyond, d + beyond], axis=1) - self.first


CONVENTIONS = {
    str(convention): convention
    for convention in (
        *(
            Convention(order, first, end)
            for order in ("xyxy", "yxyx")
            for first in (0, 1)
            for end in (False, True)
        ),
        *(Convention("xywh", first, False) for first in (0, 1)),
    )
}


def get_convention(name: str) -> Convention:
    """
    The convention of a name.

    Raises:
        ValueError: no such name; it lists them.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"box convention {name!r} is not known; choose from {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]
