"""The drawn data set."""

from .images import (
    BACKGROUND,
    CROWD,
    DRAWING_VERSION,
    IMAGE_SIZE,
    Contents,
    DemoImage,
    draw_demo_image,
)
from .shapes import CLASS_NAMES

__all__ = [
    "BACKGROUND",
    "CLASS_NAMES",
    "CROWD",
    "Contents",
    "DRAWING_VERSION",
    "DemoImage",
    "IMAGE_SIZE",
    "draw_demo_image",
]
