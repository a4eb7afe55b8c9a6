"""Boxes on images, and images side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# One colour per class, by its index; the colour-blind can tell them apart (Okabe and Ito).
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
)
BACKGROUND = (160, 160, 160)

_HEADER = 28


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    num_classes: int,
    texts: Sequence[str] | None = None,
    width: int = 2,
) -> np.ndarray:
    """Draw boxes on a copy of an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (n, 4) XYXY_ABS in pixels of the image; later ones are drawn on top.
        classes: (n,) in [0, num_classes].
        num_classes: number of foreground classes; also the label of the background, drawn grey.
        texts: (n,) written at the upper left corner of each box.
        width: of the lines, in pixels.

    Returns:
        (H, W, 3) uint8.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for i, (box, label) in enumerate(zip(np.asarray(boxes).tolist(), classes)):
        colour = BACKGROUND if label == num_classes else PALETTE[label % len(PALETTE)]
        draw.rectangle(box, outline=colour, width=width)
        if texts is not None:
            draw.text(
                (box[0] + width + 1, box[1] + width),
                texts[i],
                fill=colour,
                font=_font(13),
                stroke_width=2,
                stroke_fill=(255, 255, 255),
            )
    return np.asarray(picture)


def tile(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], gap: int = 6) -> np.ndarray:
    """Arrange images in rows and columns, with a title above each column.

    Args:
        rows: images (H, W, 3) uint8, all of the same size; one per title in each row.
        titles: one per column.
        gap: number of white pixels between images.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: images of different sizes, or a row without one image per title.
    """
    shapes = {image.shape for row in rows for image in row}
    if len(shapes) != 1 or any(len(row) != len(titles) for row in rows):
        raise ValueError(
            f"cannot tile rows of {[len(row) for row in rows]} images of {shapes} under {len(titles)} titles"
        )
    height, width, _ = shapes.pop()
    size = (len(titles) * (width + gap) - gap, _HEADER + len(rows) * (height + gap) - gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + 2, 4), title, fill=(0, 0, 0), font=_font(17))
        for row, images in enumerate(rows):
            sheet.paste(Image.fromarray(images[column]), _corner(row, column, height + gap, width + gap))
    return np.asarray(sheet)


def _corner(row: int, column: int, height: int, width: int) -> tuple[int, int]:
    return column * width, _HEADER + row * height


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
