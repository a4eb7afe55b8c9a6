"""What all layouts are read to."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..boxes import box_problem, clip_box
from ..checking.report import Problem, Report, check_image, describe_box

__all__ = ["LabelledFolder", "LabelledImage", "split_of"]

# Names of splits in files and folders -> ours; the longer ones first.
_SPLITS = {"trainval": "train", "train": "train", "valid": "val", "val": "val", "test": "test"}


@dataclass
class LabelledImage:
    """An image, its size in pixels, and its objects as annotations of COCO.

    In place of ids the annotations have ``category``, the name of their class; ``bbox`` is XYWH_ABS, inside
    the image and with an area. With ``iscrowd`` 1 they are ignored: not trained on, nor missed in evaluation.
    `split` is "train", "val" or "test", None if the layout says nothing.
    """

    path: Path
    width: int
    height: int
    split: str | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    is_incomplete: bool = False  # whether a label of it cannot be used, so that an object may be unlabelled

    @property
    def has_objects(self) -> bool:
        """Whether there are annotations that are not ignored."""
        return any(not annotation["iscrowd"] for annotation in self.annotations)


class LabelledFolder:
    """The labelled images of a folder, and what was left out of it.

    Attributes:
        layout: its name, for people.
        classes: names in the order of their labels, also those without boxes.
        images: those that exist and are labelled.
        problems: what is wrong, with its file.
    """

    def __init__(self, layout: str):
        self.layout = layout
        self.classes: list[str] = []
        self.images: list[LabelledImage] = []
        self._report = Report(layout)

    @property
    def problems(self) -> list[Problem]:
        return self._report.problems

    def add_problem(self, file: object, text: str) -> None:
        self._report.add(file, text)

    def add_unusable(self, image: LabelledImage | None, file: object, text: str) -> None:
        """Add the problem of a label of `image` that cannot be read, or is of no known class."""
        self.add_problem(file, text)
        if image is not None:
            image.is_incomplete = True

    def add_image(
        self, path: Path, source: Path, annotated: tuple[int, int] | None = None, split: str | None = None
    ) -> LabelledImage | None:
        """Add an image of the size in its header; None, and a problem, if it cannot be read.

        Args:
            path: of the image.
            source: the file that names it, and its size `annotated`, if it does.
            annotated: width and height.
            split: see `LabelledImage`.
        """
        size = check_image(self._report, str(path), None, str(source))
        if size is None:
            return None
        if annotated is not None and annotated != size:
            check_image(self._report, str(path), annotated, str(source))
        self.images.append(LabelledImage(path, *size, split))
        return self.images[-1]

    def add_box(
        self, image: LabelledImage, category: str, box: Sequence[float], source: Path, what: str, **keys: Any
    ) -> None:
        """Add an object to `image`, unless its XYXY_ABS box has no area inside it, which is a problem.

        Args:
            image: one of `images`.
            category: name of a class, which is appended to `classes` if it is new.
            box: clipped to the image, which is a problem if it reaches beyond by more than a pixel.
            source: the file that has it.
            what: of the file, for the problem.
            **keys: more of the annotation, such as ``iscrowd``.
        """
        size = image.width, image.height
        if not all(math.isfinite(value) for value in box):
            return self.add_unusable(image, source, f"{what}: a coordinate is no number")
        inside = clip_box(box, size)
        if box_problem(inside, size) is not None or max(abs(a - b) for a, b in zip(box, inside)) > 1:
            self.add_problem(source, f"{what}: box {_text(box)} {describe_box(box, size)}")
        if box_problem(inside, size) is not None:
            return None
        if category not in self.classes:
            self.classes.append(category)
        x1, y1, x2, y2 = inside
        bbox = [x1, y1, x2 - x1, y2 - y1]
        image.annotations.append({"iscrowd": 0, **keys, "category": category, "bbox": bbox})
        return None


def split_of(names: Sequence[str]) -> str | None:
    """The split that the last of `names`, of folders or files, tells: "val" for "instances_val2017"."""
    for name in reversed(names):
        words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
        found = [_SPLITS[word] for word in words if word in _SPLITS]
        if found:
            return found[0]
    return None


def _text(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"
