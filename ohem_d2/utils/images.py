"""Headers of images."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

__all__ = ["read_image_size"]

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: those by a quarter


def read_image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image as Detectron2 reads it, turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no header that can be read.
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
