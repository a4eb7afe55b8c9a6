"""MATLAB files of Fast R-CNN's authors and of MCG, for a whole data set or per image.

- Fast R-CNN, data set (``voc_2007_trainval.mat``): cells ``boxes`` and ``images``; y1 x1 y2 x2, 1-based,
  inclusive.
- Fast R-CNN, image (``000004_boxes.mat``): array ``boxes``; x1 y1 x2 y2, 0-based, inclusive.
- MCG, image (``COCO_train2014_000000000009.mat``): arrays ``boxes`` and ``scores``; y1 x1 y2 x2, 1-based,
  inclusive.

The variables of a file tell its kind. Per-image files are read one by one or as a folder; the image id is the
stem of the file, without ``_boxes``.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.messages import one_line
from .base import Entry, Format, RawProposals, equal_scores
from .hdf5 import read_mat73
from .mat5 import read_mat5

__all__ = ["MATLAB"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_SUFFIX = "_boxes"  # Fast R-CNN's demo appends it to the id


def read_matlab(path: Path) -> RawProposals:
    """Open a file of a data set or of one image, or a folder of per-image files of one kind."""
    files = sorted(path.rglob("*.mat")) if path.is_dir() else [path]
    first = _load(files[0])
    if len(files) == 1 and isinstance(first["boxes"], list):
        return RawProposals(_dataset_entries(path, first), "yxyx1-inclusive", "Fast R-CNN, data set")
    if "scores" in first:
        return RawProposals(_image_entries(files, first, scored=True), "yxyx1-inclusive", "MCG, per image")
    return RawProposals(
        _image_entries(files, first, scored=False), "xyxy0-inclusive", "Fast R-CNN, per image"
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            start = file.read(520)
        read = read_mat73 if _HDF5 in (start[:8], start[512:]) else read_mat5
        variables = read(path, ("boxes", "images", "scores"))
    except ImportError:
        raise
    except Exception as error:  # damaged HDF5 raises nearly anything
        raise ValueError(f"{path}: not a readable MATLAB file: {one_line(error)}") from error
    if "boxes" not in variables:
        raise ValueError(f"{path}: not a proposal file: it has no variable 'boxes'")
    return variables


def _dataset_entries(path: Path, variables: dict[str, Any]) -> Iterator[Entry]:
    boxes, images = variables["boxes"], variables.get("images")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"{path}: 'boxes' is a cell array, but 'images' is no cell array of names")
    if len(boxes) != len(images):
        raise ValueError(f"{path}: {len(images)} images but boxes of {len(boxes)}")
    for image, array in zip(images, boxes):
        yield image, array, equal_scores(array)


def _image_entries(files: list[Path], first: dict[str, Any], scored: bool) -> Iterator[Entry]:
    for file, variables in zip(files, chain([first], map(_load, files[1:]))):
        if ("scores" in variables) != scored or not isinstance(variables["boxes"], np.ndarray):
            raise ValueError(f"{file}: of another kind than {files[0]}: convert them apart")
        boxes = variables["boxes"]
        scores = np.ravel(variables["scores"]) if scored else equal_scores(boxes)
        yield file.stem.removesuffix(_SUFFIX), boxes, scores


def _is_matlab(path: Path, start: bytes) -> bool:
    if path.is_dir():
        return next(path.rglob("*.mat"), None) is not None
    return start.startswith((b"MATLAB 5.0", b"MATLAB 7.3", _HDF5)) or path.suffix == ".mat"


MATLAB = Format(
    "matlab", "MATLAB file of Fast R-CNN or MCG, or a folder of one per image", _is_matlab, read_matlab
)
