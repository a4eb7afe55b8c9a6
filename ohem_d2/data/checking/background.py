"""Checks of a folder of images without objects."""

from tqdm import tqdm

from ..background import find_background
from .report import Report, check_image

__all__ = ["check_background"]


def check_background(report: Report, root: str, progress: bool) -> None:
    """Check that there are images below a folder, and that all of them can be read."""
    images = find_background(root)
    if not images:
        report.add(root, "there is no image")
    for image_id, path in tqdm(images.items(), report.name, unit="image", disable=not progress):
        report.sizes[image_id] = check_image(report, str(path), None, root)
