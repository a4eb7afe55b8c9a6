"""Folders of images that show no object: background to train on, without annotations."""

from pathlib import Path
from typing import Any

from ..utils.images import IMAGE_EXTENSIONS, find_images, read_image_size

__all__ = ["find_background", "load_background"]


def load_background(root: str | Path) -> list[dict[str, Any]]:
    """Dataset dicts of all images below a folder, sorted, each with no annotation.

    The id of an image is its path relative to `root`, with slashes; its size is that of its header.

    Raises:
        FileNotFoundError: there is no image.
        ValueError: an image without a readable header.
    """
    dicts = []
    for image_id, path in find_background(root).items():
        width, height = read_image_size(path)
        record = {"file_name": str(path), "image_id": image_id, "height": height, "width": width}
        dicts.append({**record, "annotations": []})
    if not dicts:
        raise FileNotFoundError(f"{root}: there is no image ({', '.join(IMAGE_EXTENSIONS)})")
    return dicts


def find_background(root: str | Path) -> dict[str, Path]:
    """Id -> path of the images that `load_background` loads."""
    return {path.relative_to(root).as_posix(): path for path in find_images(root)}
