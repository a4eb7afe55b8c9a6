"""Synthetic images: textured shapes of five classes, among distractors that resemble them.

Each drawing function takes the NumPy generator of its random numbers, so an image is a function of its seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..voc_xml import LabelledBox
from .shapes import CLASS_NAMES, CLASSES, DISTRACTORS, Shape
from .textures import blobs, contrasting_color, gradient, noise, paint, random_color, stripes

__all__ = [
    *("BACKGROUND", "CROWD", "DRAWING_VERSION", "IMAGE_SIZE"),
    *("Contents", "DemoImage", "draw_demo_image"),
]

DRAWING_VERSION = 1  # raise it when the same seed gives other images
IMAGE_SIZE = (200, 160)  # width, height
WHOLE = np.array([(0, 0), IMAGE_SIZE])  # corners of an image
SIZE_RANGE = (24, 90)  # longest side of an object's box before rotation, pixels
HUE_RANGE = (18, 90)  # around the mean of a class: the ranges of neighbours touch; all classes have all hues
CROWD = "crowd"  # category of a crowd, which is not a class
CROWD_AREA = (110, 90)  # width, height
CROWD_SIZE_RANGE = (24, 34)  # as SIZE_RANGE, of the objects of a crowd
CROWD_NUMBER = (8, 14)  # least number of objects that are tried to place, and the first that is too large
MAX_OVERLAP = 0.25  # of two shapes, as a share of the smaller one
SUPERSAMPLING = 4
MAX_TRIES = 20  # to place one shape


@dataclass(frozen=True)
class Contents:
    """What images show."""

    objects: tuple[int, int] = (2, 5)  # least and largest number that are tried to place in an image
    distractors: tuple[int, int] = (1, 3)  # as `objects`
    look_alike: float = 0.0  # in [0, 1]: 0, each class has its own hues; 1, all have all hues
    dropped: Mapping[str, float] = field(default_factory=dict)  # class -> share of its objects left out

    def hues(self, mean: int) -> tuple[int, int]:
        """The range of hues of a class with this mean; the second is the first that is too large."""
        distinct, alike = HUE_RANGE
        around = round(distinct + self.look_alike * (alike - distinct))
        return mean - around, mean + around + 1


BACKGROUND = Contents(objects=(0, 0), distractors=(3, 6))


@dataclass(frozen=True)
class DemoImage:
    """A drawn image and its objects, which include neither the distractors nor the single ones of a crowd."""

    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    objects: list[LabelledBox]  # boxes are tight around the visible pixels


def background(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float BGR."""
    pattern = [noise, stripes, blobs][rng.integers(3)]
    base = random_color(rng, (20, 130), (60, 210))
    texture = 0.6 * pattern(rng, *IMAGE_SIZE) + 0.4 * noise(rng, *IMAGE_SIZE)
    return paint(texture, base, base + rng.uniform(30, 70) * rng.choice([-1, 1]))


def random_mask(rng: np.random.Generator, shape: Shape, sizes=SIZE_RANGE, area=WHOLE) -> np.ndarray:
    """(H, W) float in [0, 1]: how much a shape of random place, size, angle and aspect covers each pixel.

    Its size is in the range `sizes`, its place in `area`, the upper left and the lower right corner.
    """
    size = np.exp(rng.uniform(*np.log(sizes)))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    squeeze = np.diag([1.0, rng.uniform(0.85, 1.0)])
    outlines = [size / 2 * outline @ squeeze @ rotation for outline in shape]
    low, high = outlines[0].min(axis=0), outlines[0].max(axis=0)
    shift = rng.uniform(area[0] + 2 - low, area[1] - 2 - high)
    return rasterize([outline + shift for outline in outlines])


def rasterize(outlines: Shape) -> np.ndarray:
    """Anti-aliased even-odd filling of polygons in pixel coordinates: (H, W) float in [0, 1]."""
    width, height = IMAGE_SIZE
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.float32)
    # fillPoly counts from the centre of the first pixel
    points = [np.round(outline * SUPERSAMPLING - 0.5).astype(np.int32) for outline in outlines]
    cv2.fillPoly(canvas, points, 1.0)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def place(rng: np.random.Generator, shape: Shape, visible: Sequence[np.ndarray], *where) -> np.ndarray | None:
    """A mask for the shape that overlaps none of `visible` by more than `MAX_OVERLAP`; None if no try did."""
    for _ in range(MAX_TRIES):
        mask = random_mask(rng, shape, *where)
        if all(overlap(mask, below) <= MAX_OVERLAP for below in visible):
            return mask
    return None


def overlap(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """The common area of two masks, as a fraction of the smaller one."""
    return float((mask_a * mask_b).sum() / min(mask_a.sum(), mask_b.sum()))


def blend(
    rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, hues: tuple[int, int]
) -> np.ndarray:
    """Draw the shape of `mask` on the canvas (H, W, 3), textured, in a colour of `hues`."""
    alpha = mask[..., None]
    surround = (canvas * alpha).sum(axis=(0, 1)) / alpha.sum()
    color = contrasting_color(rng, surround, hues)
    pattern = [gradient, noise, stripes][rng.integers(3)]
    fill = paint(pattern(rng, *IMAGE_SIZE), color, color + rng.uniform(-35, 35, size=3))
    return canvas * (1 - alpha) + fill.clip(0, 255) * alpha


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """XYXY_ABS box, x2 and y2 exclusive, of the pixels that are at least half covered."""
    rows, columns = (np.flatnonzero((mask >= 0.5).any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def random_shapes(rng: np.random.Generator, contents: Contents) -> list[tuple[str | None, Shape, tuple]]:
    """(class, shape, hues) of objects and distractors, whose class is None, in drawing order."""
    least, largest = contents.objects
    frequencies = [weight for _, weight, _ in CLASSES.values()]
    names = rng.choice(CLASS_NAMES, size=rng.integers(least, largest + 1), p=frequencies)
    shapes: list[tuple[str | None, Shape, tuple]] = []
    for name in map(str, names):
        if name in contents.dropped and rng.random() < contents.dropped[name]:
            continue
        draw, _, hue = CLASSES[name]
        shapes.append((name, draw(), contents.hues(hue)))
    few, many = contents.distractors
    for index in rng.integers(len(DISTRACTORS), size=rng.integers(few, many + 1)):
        draw, like = DISTRACTORS[index]
        shapes.append((None, draw(), contents.hues(CLASSES[like][2])))
    return [shapes[index] for index in rng.permutation(len(shapes))]


def random_crowd(
    rng: np.random.Generator, contents: Contents
) -> tuple[list[tuple[str, Shape, tuple]], np.ndarray]:
    """The objects of a crowd, all of one class, as from `random_shapes`; and the corners of its area."""
    draw, _, hue = CLASSES[str(rng.choice(CLASS_NAMES))]
    corner = rng.uniform(0, np.array(IMAGE_SIZE) - CROWD_AREA)
    members = [(CROWD, draw(), contents.hues(hue))] * int(rng.integers(*CROWD_NUMBER))
    return members, np.stack([corner, corner + CROWD_AREA])


def draw_demo_image(
    rng: np.random.Generator, contents: Contents = Contents(), has_crowd: bool = False
) -> DemoImage:
    """Draw one image; with `has_crowd` also many small objects that stand close.

    It has an object at least, unless `contents` have none.
    """
    canvas = background(rng)
    names: list[str | None] = []
    visible: list[np.ndarray] = []
    crowd, area = random_crowd(rng, contents) if has_crowd else ([], WHOLE)
    for name, shape, hues in [*crowd, *random_shapes(rng, contents)]:
        mask = place(rng, shape, visible, *((CROWD_SIZE_RANGE, area) if name == CROWD else ()))
        if mask is None:
            continue
        canvas = blend(rng, canvas, mask, hues)
        visible = [below * (1 - mask) for below in visible] + [mask]
        names.append(name)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.6) + rng.normal(0, 4, canvas.shape)
    found = [LabelledBox(name, tight_box(mask)) for name, mask in zip(names, visible) if name in CLASSES]
    # No object found a place among the distractors, or all were dropped.
    if not found and max(contents.objects) > 0:
        return draw_demo_image(rng, contents, has_crowd)
    if has_crowd:
        members = [mask for name, mask in zip(names, visible) if name == CROWD]
        found.append(LabelledBox(CROWD, tight_box(np.max(members, axis=0))))
    return DemoImage(np.round(canvas).clip(0, 255).astype(np.uint8), found)
