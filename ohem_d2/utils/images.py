"""Images of a folder; the size of an image from its header, and whether it can be read."""

from pathlib import Path

from detectron2.data.detection_utils import read_image
from PIL import Image, UnidentifiedImageError

from .files import find_files
from .messages import one_line

__all__ = [
    *("IMAGE_EXTENSIONS", "UnreadableImageError", "find_images", "read_image_size"),
    "require_readable",
]

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# The EXIF tag of the orientation, and its values that swap width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


# Modes of Pillow, of which Detectron2 cuts off all that is above 255.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def find_images(folder: str | Path) -> list[Path]:
    """The images below a folder, as `find_files`."""
    return find_files(folder, IMAGE_EXTENSIONS)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as Detectron2 reads it, that is, rotated by its EXIF orientation.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the header cannot be read, or its pixels have more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            mode = image.mode
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    if mode in _DEEP:
        raise ValueError(
            f"{path} has more than 8 bits a pixel (mode {mode}), which Detectron2 reads as white"
        )
    return (height, width) if turned else (width, height)


class UnreadableImageError(ValueError):
    """Of an image file that does not exist or is damaged; the message is one line that names it."""


def require_readable(path: str | Path, image_format: str = "BGR") -> None:
    """Raise `UnreadableImageError` unless Detectron2 can read an image as `image_format`, such as "BGR"."""
    try:
        read_image(str(path), image_format)
    except Exception as error:  # decoders raise nearly anything
        raise UnreadableImageError(f"{path} cannot be read as an image: {one_line(error)}") from error
