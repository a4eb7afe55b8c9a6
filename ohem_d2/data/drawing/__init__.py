"""The drawn data set: its images, and wrong labels of them."""

from .images import (
    BACKGROUND,
    CROWD,
    DRAWING_VERSION,
    IMAGE_SIZE,
    Contents,
    DemoImage,
    DemoObject,
    draw_demo_image,
)
from .shapes import CLASS_NAMES
from .wrong_labels import WRONG_KINDS, WrongLabel, corrupt_labels

__all__ = [
    "BACKGROUND",
    "CLASS_NAMES",
    "CROWD",
    "Contents",
    "DRAWING_VERSION",
    "DemoImage",
    "DemoObject",
    "IMAGE_SIZE",
    "WRONG_KINDS",
    "WrongLabel",
    "corrupt_labels",
    "draw_demo_image",
]
