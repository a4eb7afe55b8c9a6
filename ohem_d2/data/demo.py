"""Synthetic images for the demo: textured shapes of five classes, among distractors that resemble them.

A shape is a list of polygons in its own frame (x right, y down, far points about 1 from the centre); where
polygons overlap, even-odd filling makes a hole. Each drawing function takes the NumPy generator of its random
numbers, so an image is a function of its seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = [
    *("CLASS_NAMES", "CROWD", "DRAWING_VERSION", "IMAGE_SIZE"),
    *("DemoImage", "DemoObject", "draw_demo_image"),
]

Shape = list[np.ndarray]

DRAWING_VERSION = 1  # raise it when the same seed gives other images
IMAGE_SIZE = (200, 160)  # width, height
WHOLE = np.array([(0, 0), IMAGE_SIZE])  # corners of an image
SIZE_RANGE = (24, 90)  # longest side of an object's box before rotation, pixels
CROWD = "crowd"  # category of a crowd, which is not a class
CROWD_AREA = (110, 90)  # width, height
CROWD_SIZE_RANGE = (24, 34)  # as SIZE_RANGE, of the objects of a crowd
CROWD_NUMBER = (8, 14)  # least number of objects that are tried to place, and the first that is too large
MAX_OVERLAP = 0.25  # of two shapes, as a share of the smaller one
MIN_CONTRAST = 40  # distance in Lab between the mean colours of a shape and of what it covers
SUPERSAMPLING = 4
MAX_TRIES = 20  # to place one shape


@dataclass(frozen=True)
class DemoObject:
    """A drawn object or crowd: its class and tight XYXY_ABS box of visible pixels, x2 and y2 exclusive."""

    category: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class DemoImage:
    """A drawn image and its objects, which include neither the distractors nor the single ones of a crowd."""

    pixels: np.ndarray  # (H, W, 3) uint8 BGR
    objects: list[DemoObject]


# ---- shapes -----------------------------------------------------------------------------------------------


def polar(angles: Sequence[float], radii) -> np.ndarray:
    """(P, 2) points at `angles` (degrees, clockwise from the top) and distances `radii` from the centre."""
    angles = np.radians(angles)
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1) * np.broadcast_to(radii, len(angles))[:, None]


def regular_polygon(corners: int) -> np.ndarray:
    return polar(np.arange(corners) * 360 / corners, 1.0)


def star(points: int, inner: float) -> np.ndarray:
    return polar(np.arange(2 * points) * 180 / points, np.tile([1.0, inner], points))


def disc() -> Shape:
    return [regular_polygon(64)]


def square() -> Shape:
    return [regular_polygon(4)]


def triangle() -> Shape:
    return [regular_polygon(3)]


def star_of_five() -> Shape:
    return [star(5, 0.45)]


def cross() -> Shape:
    a, b = 0.33, 0.95
    corner = np.array([[a, -b], [a, -a], [b, -a]])  # the other corners are this one turned by 90 degrees
    quarter = np.array([[0, 1], [-1, 0]])
    return [np.concatenate([corner @ np.linalg.matrix_power(quarter, turns) for turns in range(4)])]


def ring() -> Shape:
    """Looks like a disc."""
    return [regular_polygon(64), 0.5 * regular_polygon(64)]


def notched_disc() -> Shape:
    """Looks like a disc."""
    return [np.concatenate([polar(np.linspace(32, 328, 56), 1.0), [[0.0, 0.1]]])]


def rhombus() -> Shape:
    """Looks like a square: corners rounded, angles of 60 and 120 degrees."""
    arc = np.linspace(-60, 60, 9)
    blunt, sharp = polar(arc / 2, 0.2) + [0, -0.37], polar(arc + 90, 0.2) + [0.72, 0]
    return [np.concatenate([blunt, sharp, -blunt, -sharp])]


def trapezium() -> Shape:
    """Looks like a triangle: the top is cut off."""
    return [np.array([[-0.38, -0.6], [0.38, -0.6], [0.95, 0.6], [-0.95, 0.6]])]


def star_of_six() -> Shape:
    """Looks like a star of five."""
    return [star(6, 0.55)]


def tee() -> Shape:
    """Looks like a cross: one arm is missing."""
    a, b = 0.33, 0.95
    return [np.array([[-b, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a]])]


# Shape, frequency and mean hue, in [0, 180), of each class.
CLASSES: dict[str, tuple[Callable[[], Shape], float, int]] = {
    "disc": (disc, 0.30, 0),
    "square": (square, 0.25, 36),
    "triangle": (triangle, 0.20, 72),
    "star": (star_of_five, 0.15, 108),
    "cross": (cross, 0.10, 144),
}
CLASS_NAMES = tuple(CLASSES)
HUE_RANGE = 18  # around the mean: the ranges of neighbouring classes touch
# Each has the hues of the class that it resembles, so that only its shape tells them apart.
DISTRACTORS = (
    (ring, "disc"),
    (notched_disc, "disc"),
    (rhombus, "square"),
    (trapezium, "triangle"),
    (star_of_six, "star"),
    (tee, "cross"),
)


# ---- textures: (H, W) float in [0, 1] ---------------------------------------------------------------------


def noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Sum of random grids of several scales, the coarse ones strongest."""
    total = np.zeros((height, width))
    for cell in (48, 20, 8, 3):
        grid = rng.random((height // cell + 2, width // cell + 2)).astype(np.float32)
        total += cell**0.5 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return unit_range(total)


def stripes(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
    y, x = np.mgrid[:height, :width]
    bend = 4 * noise(rng, width, height)
    return 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + bend)


def blobs(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    canvas = np.zeros((height, width), np.float32)
    for _ in range(40):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(4, 22)), int(rng.integers(4, 22)))
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, rng.random(), -1, cv2.LINE_AA)
    return unit_range(cv2.GaussianBlur(canvas, (0, 0), 3))


def gradient(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    return unit_range(x * np.cos(angle) + y * np.sin(angle))


def unit_range(texture: np.ndarray) -> np.ndarray:
    texture = texture - texture.min()
    return texture / max(texture.max(), 1e-9)


# ---- colour -----------------------------------------------------------------------------------------------


def random_color(
    rng: np.random.Generator,
    saturation: tuple[int, int],
    value: tuple[int, int],
    hue: tuple[int, int] = (0, 180),
) -> np.ndarray:
    """(3,) float BGR in [0, 255]; saturation and value are ranges in [0, 255], hue is one modulo 180."""
    hsv = np.uint8([[[rng.integers(*hue) % 180, rng.integers(*saturation), rng.integers(*value)]]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float64)


def contrast(color_a: np.ndarray, color_b: np.ndarray) -> float:
    """Distance of two BGR colours in Lab, about 0 to 250."""
    lab = cv2.cvtColor(np.float32([[color_a, color_b]]) / 255, cv2.COLOR_BGR2Lab)[0]
    return float(np.linalg.norm(lab[0] - lab[1]))


def contrasting_color(rng: np.random.Generator, surround: np.ndarray, hue: int) -> np.ndarray:
    hues = (hue - HUE_RANGE, hue + HUE_RANGE + 1)
    candidates = [random_color(rng, (90, 256), (70, 256), hues) for _ in range(MAX_TRIES)]
    distinct = (color for color in candidates if contrast(color, surround) >= MIN_CONTRAST)
    return next(distinct, max(candidates, key=lambda color: contrast(color, surround)))


def paint(texture: np.ndarray, color_a: np.ndarray, color_b: np.ndarray) -> np.ndarray:
    """(H, W, 3) float BGR: the texture, in [0, 1], blends from the first colour to the second."""
    return color_a + texture[..., None] * (color_b - color_a)


# ---- composition ------------------------------------------------------------------------------------------


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


def blend(rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, hue: int) -> np.ndarray:
    """Draw the shape of `mask` on the canvas (H, W, 3), textured, in colours around `hue`."""
    alpha = mask[..., None]
    surround = (canvas * alpha).sum(axis=(0, 1)) / alpha.sum()
    color = contrasting_color(rng, surround, hue)
    pattern = [gradient, noise, stripes][rng.integers(3)]
    fill = paint(pattern(rng, *IMAGE_SIZE), color, color + rng.uniform(-35, 35, size=3))
    return canvas * (1 - alpha) + fill.clip(0, 255) * alpha


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """XYXY_ABS box, x2 and y2 exclusive, of the pixels that are at least half covered."""
    rows, columns = (np.flatnonzero((mask >= 0.5).any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def random_shapes(rng: np.random.Generator) -> list[tuple[str | None, Shape, int]]:
    """(class, shape, hue) of 2 to 5 objects and 1 to 3 distractors, whose class is None, in drawing order."""
    names = rng.choice(CLASS_NAMES, size=rng.integers(2, 6), p=[weight for _, weight, _ in CLASSES.values()])
    shapes: list[tuple[str | None, Shape, int]] = []
    for name in names:
        draw, _, hue = CLASSES[name]
        shapes.append((str(name), draw(), hue))
    for index in rng.integers(len(DISTRACTORS), size=rng.integers(1, 4)):
        draw, like = DISTRACTORS[index]
        shapes.append((None, draw(), CLASSES[like][2]))
    return [shapes[index] for index in rng.permutation(len(shapes))]


def random_crowd(rng: np.random.Generator) -> tuple[list[tuple[str, Shape, int]], np.ndarray]:
    """The objects of a crowd, all of one class, as from `random_shapes`; and the corners of its area."""
    draw, _, hue = CLASSES[str(rng.choice(CLASS_NAMES))]
    corner = rng.uniform(0, np.array(IMAGE_SIZE) - CROWD_AREA)
    return [(CROWD, draw(), hue)] * int(rng.integers(*CROWD_NUMBER)), np.stack([corner, corner + CROWD_AREA])


def draw_demo_image(rng: np.random.Generator, has_crowd: bool = False) -> DemoImage:
    """Draw one image with at least one object; with `has_crowd` also many small ones that stand close."""
    canvas = background(rng)
    names: list[str | None] = []
    visible: list[np.ndarray] = []
    crowd, area = random_crowd(rng) if has_crowd else ([], WHOLE)
    for name, shape, hue in [*crowd, *random_shapes(rng)]:
        mask = place(rng, shape, visible, *((CROWD_SIZE_RANGE, area) if name == CROWD else ()))
        if mask is None:
            continue
        canvas = blend(rng, canvas, mask, hue)
        visible = [below * (1 - mask) for below in visible] + [mask]
        names.append(name)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 0.6) + rng.normal(0, 4, canvas.shape)
    found = [DemoObject(name, tight_box(mask)) for name, mask in zip(names, visible) if name in CLASSES]
    if not found:  # no object found a place among the distractors
        return draw_demo_image(rng, has_crowd)
    if has_crowd:
        members = [mask for name, mask in zip(names, visible) if name == CROWD]
        found.append(DemoObject(CROWD, tight_box(np.max(members, axis=0))))
    return DemoImage(np.round(canvas).clip(0, 255).astype(np.uint8), found)
