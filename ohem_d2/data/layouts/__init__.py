"""Folders of labelled images, as annotation tools write them, read with every defect listed."""

from pathlib import Path

from .base import LabelledFolder, LabelledImage
from .coco import explain_json, read_coco
from .images import ImageIndex
from .voc import read_voc
from .yolo import read_yolo

__all__ = ["LabelledFolder", "LabelledImage", "read_folder"]

_READERS = (read_voc, read_coco, read_yolo)
EXPECTED = (
    "VOC XML (beside the images, or in Annotations), COCO JSON (with images, categories and annotations), or "
    "YOLO txt with its data.yaml"
)


def read_folder(folder: str | Path) -> LabelledFolder:
    """Read the labelled images below `folder`, in the first layout that fits: VOC, COCO, YOLO.

    Nothing in the folder is changed. What is wrong with single files, objects or boxes is listed in the
    result and left out of it, so that everything in it can be trained on.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, no annotations in one of the layouts, or none that can be used.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"folder {folder} does not exist")
    index = ImageIndex(folder)
    if not index.paths:
        raise ValueError(f"{folder}: found no images; expected images with {EXPECTED}")
    for read in _READERS:
        found = read(folder, index)
        if found is not None:
            return _checked(folder, found)
    wrong = explain_json(folder)
    nothing = f"{folder}: found {len(index.paths)} images, but no annotations; expected {EXPECTED}"
    raise ValueError(f"{nothing}; {wrong}" if wrong else nothing)


def _checked(folder: Path, found: LabelledFolder) -> LabelledFolder:
    if any(image.has_objects for image in found.images):
        return found
    what = f"{found.layout}, {len(found.images)} images, but no box that can be trained on"
    first = f"; the first problem: {found.problems[0]}" if found.problems else ""
    raise ValueError(f"{folder}: found {what}{first}")
