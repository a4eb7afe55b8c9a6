"""Reads XML of PASCAL VOC: that of LabelImg beside the images, and ``Annotations`` with ``ImageSets``."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from ...utils.files import find_files
from ..voc import CORNERS, split_ids
from .base import LabelledFolder, split_of
from .images import ImageIndex

__all__ = ["read_voc"]

# Names of lists of images; a later one is the more particular.
_LISTS = ("trainval", "train", "valid", "val", "test")


def read_voc(folder: Path, index: ImageIndex) -> LabelledFolder | None:
    """Read all XML files below `folder` whose root is ``annotation``; None if there are none.

    The image of a file has its stem, and both may lie in any folder; of several such images, it is the one
    whose name the file has. An image that an earlier file labels is not taken again. Splits are those of
    ``ImageSets/Main``, else of other lists such as ``train.txt``, else of the folders' names. Difficult
    objects get ``iscrowd``.
    """
    trees, broken = _parse(folder)
    if not trees:
        return None
    layout = "VOC" if any(path.parent.name == "Annotations" for path in trees) else "LabelImg"
    found = LabelledFolder(f"{layout} (XML of PASCAL VOC)")
    for path, text in broken:
        found.add_problem(path, text)
    splits = _splits(folder)
    names = {o.findtext("name", "").strip() for tree in trees.values() for o in tree.iter("object")}
    found.classes = sorted(names - {""})
    seen: dict[Path, Path] = {}
    for path, tree in trees.items():
        _read(found, path, tree, index, splits, seen)
    labelled = {image.path for image in found.images}
    bare = [path for path in index.paths if path not in labelled]
    if bare:
        found.add_problem(
            folder, f"{len(bare)} images have no XML: {bare[0].name} for one; they are left out"
        )
    return found


def _parse(folder: Path) -> tuple[dict[Path, ET.Element], list[tuple[Path, str]]]:
    """The annotations below `folder`, and the files that are no XML."""
    trees, broken = {}, []
    for path in sorted(find_files(folder, [".xml"])):
        try:
            root = ET.parse(path).getroot()
        except (ET.ParseError, ValueError, LookupError) as error:
            broken.append((path, f"malformed XML: {error}"))
            continue
        if root.tag == "annotation":
            trees[path] = root
    return trees, broken


def _splits(folder: Path) -> dict[str, str]:
    """Image id -> split, from lists of images; ``trainval`` counts where there is no ``train``.

    Where a folder is called Main, from those in it alone: beside it VOC has splits for other tasks.
    """
    splits: dict[str, str] = {}
    lists = [path for path in sorted(find_files(folder, [".txt"])) if path.stem in _LISTS]
    lists = [path for path in lists if path.parent.name == "Main"] or lists
    for path in sorted(lists, key=lambda path: _LISTS.index(path.stem)):
        ids = split_ids(path.read_text("utf-8-sig", errors="replace"))
        splits.update(dict.fromkeys(ids, split_of([path.stem]) or path.stem))
    return splits


def _read(
    found: LabelledFolder,
    path: Path,
    tree: ET.Element,
    index: ImageIndex,
    splits: dict[str, str],
    seen: dict[Path, Path],
) -> None:
    split = splits.get(path.stem) or split_of(path.relative_to(index.folder).parts[:-1])
    named = tree.findtext("filename")
    picture = index.find(path.stem, path, split, named)
    if picture is None:
        return found.add_problem(path, f"there is no image {path.stem} (named {named!r})")
    if picture in seen:
        return found.add_problem(path, f"{picture} is also that of {seen[picture]}; this one is left out")
    seen[picture] = path
    width, height = (_number(tree, f"size/{side}") for side in ("width", "height"))
    image = found.add_image(picture, path, (int(width), int(height)) if width and height else None, split)
    for number, element in enumerate(tree.iter("object"), 1):
        name, what = element.findtext("name", "").strip(), f"object {number}"
        corners = [_number(element, f"bndbox/{corner}") for corner in CORNERS]
        if image is None or not name or None in corners:
            missing = "a name" if not name else "four numbers in bndbox"
            if image is not None:
                found.add_unusable(image, path, f"{what}: it lacks {missing}")
            continue
        # Pixels are 1-based and inclusive; yet with xmin = xmax a box has no area, as for the VOC loader.
        xmin, ymin, xmax, ymax = corners
        box = xmin - 1, ymin - 1, xmax - (xmin == xmax), ymax - (ymin == ymax)
        difficult = {"iscrowd": 1} if element.findtext("difficult", "").strip() == "1" else {}
        found.add_box(image, name, box, path, what, **difficult)
    return None


def _number(element: ET.Element, tag: str) -> float | None:
    try:
        value = float(element.findtext(tag, ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
