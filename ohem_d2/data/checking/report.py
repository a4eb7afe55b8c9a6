"""The report of a check, and the checks that all layouts share."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...utils.images import UnreadableImageError, read_image_size, require_readable
from ..boxes import box_problem

__all__ = ["Problem", "Report", "check_image", "describe_box", "repeated"]


class Problem(NamedTuple):
    """One problem of a file; ``str()`` gives one line."""

    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass
class Report:
    """What was checked and what is wrong with it; ``str()`` gives one line.

    `sizes` maps an image id to width and height, from the image file or else its annotation; None if unknown.
    `decode`: images are decoded, too, not their headers alone.
    """

    name: str
    decode: bool = False
    problems: list[Problem] = field(default_factory=list)
    num_objects: int = 0
    num_difficult: int = 0
    sizes: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    num_proposals: int | None = None

    def add(self, file: object, text: str) -> None:
        self.problems.append(Problem(str(file), text))

    def __str__(self) -> str:
        parts = [f"{len(self.sizes)} images", f"{self.num_objects} objects ({self.num_difficult} difficult)"]
        parts += ["no proposals"] if self.num_proposals is None else [f"{self.num_proposals} proposals"]
        parts += [f"{len(self.problems)} problems" if self.problems else "no problem"]
        return f"{self.name}: {', '.join(parts)}"


def check_image(
    report: Report, path: str, annotated: tuple[int, int] | None, source: str
) -> tuple[int, int] | None:
    """Check that an image exists, can be read as far as the report says, and has the size of its annotation.

    Args:
        report: gets the problems.
        path: of the image.
        annotated: width and height in the annotation, None if it has none.
        source: file of the annotation.

    Returns:
        width and height: of the header, else of the annotation, else None.
    """
    try:
        size = read_image_size(path)
    except FileNotFoundError:
        report.add(path, "the image does not exist")
        return annotated
    except (OSError, ValueError) as error:
        report.add(path, str(error).removeprefix(f"{path} ").partition(": ")[0])
        return annotated
    if report.decode:
        try:
            require_readable(path)
        except UnreadableImageError as error:
            report.add(path, str(error).removeprefix(f"{path} "))
    if annotated is not None and size != annotated:
        where = os.path.basename(source)
        report.add(path, f"is {size[0]}x{size[1]}, but {where} says {annotated[0]}x{annotated[1]}")
    return size


def describe_box(box: Sequence[float], size: tuple[int, int] | None) -> str | None:
    """`box_problem`, with the size of the image where that is known and matters."""
    problem = box_problem(box, size or (math.inf, math.inf))
    return f"{problem} of {size[0]}x{size[1]}" if problem and size and "image" in problem else problem


def repeated(items: Sequence) -> Iterator:
    """The items that equal an earlier one, each time they recur."""
    seen = set()
    for item in items:
        if item in seen:
            yield item
        seen.add(item)
