"""Reading the size of an image from its header."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

__all__ = ["read_image_size"]

# The EXIF tag of the orientation, and its values that swap width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as Detectron2 reads it, that is, rotated by its EXIF orientation.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the header cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    return (height, width) if turned else (width, height)
