"""Boxes on images, images side by side, and the legend of both."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# One colour per class, by its index; the colour-blind can tell them apart (Okabe and Ito).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BACKGROUND = (110, 110, 110)

_HEADER = 28


def class_colours(classes: Sequence[int], num_classes: int) -> list[Colour]:
    """One colour per label.

    Args:
        classes: (n,) in [0, num_classes].
        num_classes: number of foreground classes; also the label of the background, which is grey.
    """
    return [BACKGROUND if label == num_classes else PALETTE[label % len(PALETTE)] for label in classes]


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    colours: Sequence[Colour],
    texts: Sequence[str] | None = None,
    width: int = 2,
) -> np.ndarray:
    """Draw boxes on a copy of an image, each between two thin white lines, so that it shows on any ground.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (n, 4) XYXY_ABS in pixels of the image; later ones are drawn on top.
        colours: (n,) RGB.
        texts: (n,) written at the upper left corner of each box.
        width: of the coloured lines, in pixels.

    Returns:
        (H, W, 3) uint8.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for i, ((x1, y1, x2, y2), colour) in enumerate(zip(np.asarray(boxes).tolist(), colours)):
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=WHITE, width=width + 2)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
        if texts is not None:
            place = (x1 + width + 2, y1 + width + 1)
            draw.text(place, texts[i], fill=colour, font=_font(13), stroke_width=2, stroke_fill=WHITE)
    return np.asarray(picture)


def tile(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: Mapping[str, Colour] | None = None,
    gap: int = 6,
) -> np.ndarray:
    """Arrange images in rows and columns, with a title above each column and a legend below all.

    Args:
        rows: images (H, W, 3) uint8, all of the same size; one per title in each row.
        titles: one per column.
        legend: what the colours of the boxes mean.
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
    bottom = _HEADER + len(rows) * (height + gap) - gap
    size = (len(titles) * (width + gap) - gap, bottom + (_HEADER if legend else 0))
    sheet = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + 2, 4), title, fill=BLACK, font=_font(17))
        for row, images in enumerate(rows):
            sheet.paste(Image.fromarray(images[column]), _corner(row, column, height + gap, width + gap))
    _draw_legend(draw, legend or {}, bottom)
    return np.asarray(sheet)


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Mapping[str, Colour], top: int) -> None:
    left, middle = 4, top + _HEADER // 2
    for text, colour in legend.items():
        draw.rectangle((left, middle - 6, left + 18, middle + 6), outline=colour, width=3)
        draw.text((left + 26, middle), text, fill=BLACK, font=_font(15), anchor="lm")
        left += 26 + round(draw.textlength(text, _font(15))) + 24


def _corner(row: int, column: int, height: int, width: int) -> tuple[int, int]:
    return column * width, _HEADER + row * height


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
