"""Reads COCO JSON: COCO's own folders, Roboflow's, and the exports of CVAT and Label Studio."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...utils.files import find_files
from ...utils.messages import name_some, one_line
from ...utils.text_files import read_json
from ..coco import has_outline
from .base import LabelledFolder, LabelledImage, split_of
from .images import ImageIndex

__all__ = ["explain_json", "read_coco"]

_LISTS = ("images", "categories", "annotations")
# Image -> the file that was the first to name it, and what it made of it.
_Seen = dict[Path, tuple[Path, LabelledImage]]


def read_coco(folder: Path, index: ImageIndex) -> LabelledFolder | None:
    """Read all COCO files below `folder`, or those called ``instances*`` if there are any; None if none.

    Classes are matched by name, so that ids may begin anywhere and differ between files. The split is that of
    the file's name, else of its folder's. An image that two files name counts once; where the second has
    other objects, it is unknown which are right, and the image is left out.
    """
    contents, broken = _load(folder)
    if not contents:
        return None
    instances = {path: content for path, content in contents.items() if path.name.startswith("instances")}
    found = LabelledFolder("COCO JSON")
    for path, text in broken:
        found.add_problem(path, text)
    seen: dict[Path, tuple[Path, LabelledImage]] = {}
    for path, content in (instances or contents).items():
        _read(found, path, content, index, seen)
    return found


def explain_json(folder: Path) -> str:
    """Why the JSON files below `folder` are none of COCO; "" if there are none."""
    contents, broken = _load(folder)
    if broken:
        return f"{broken[0][0]}: {broken[0][1]}"
    file = next(iter(sorted(find_files(folder, [".json"]))), None)
    return f"{file} lacks the lists {', '.join(_LISTS)} of COCO" if file and not contents else ""


def _load(folder: Path) -> tuple[dict[Path, Mapping[str, Any]], list[tuple[Path, str]]]:
    """The COCO files below `folder`, and the JSON files that are malformed."""
    contents, broken = {}, []
    for path in sorted(find_files(folder, [".json"])):
        try:
            content = read_json(path)
        except ValueError as error:
            broken.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _LISTS):
            contents[path] = content
    return contents, broken


def _read(
    found: LabelledFolder, path: Path, content: Mapping[str, Any], index: ImageIndex, seen: _Seen
) -> None:
    split = split_of([*path.relative_to(index.folder).parts[:-1], path.stem])
    images, categories, annotations = ([x for x in content[key] if isinstance(x, dict)] for key in _LISTS)
    names = _class_names(categories, annotations)
    found.classes += [name for name in dict.fromkeys(names.values()) if name not in found.classes]
    times = Counter(str(entry.get("id")) for entry in images)
    by_id: dict[Any, LabelledImage | None] = dict.fromkeys(times)
    again = [image_id for image_id in times if times[image_id] > 1]
    if again:
        found.add_problem(
            path, f"{len(again)} ids belong to several images: {name_some(again)}; these are left out"
        )
    earlier: list[tuple[LabelledImage, LabelledImage]] = []
    for entry in (entry for entry in images if times[str(entry.get("id"))] == 1):
        by_id[str(entry.get("id"))] = _add_image(found, path, entry, index, split, seen, earlier)
    for annotation in annotations:
        what = f"annotation {one_line(annotation.get('id'))}"
        image_id, category_id = (str(annotation.get(key)) for key in ("image_id", "category_id"))
        if image_id not in by_id or category_id not in names:
            wrong = f"category {category_id}" if image_id in by_id else f"image {image_id}"
            found.add_unusable(by_id.get(image_id), path, f"{what}: {one_line(wrong)} is not in the file")
            continue
        box, image = annotation.get("bbox"), by_id[image_id]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            found.add_unusable(image, path, f"{what}: its bbox is {box!r:.80}, not four numbers")
        elif image is not None:
            x, y, width, height = box
            keys = {"segmentation": annotation.get("segmentation")} if has_outline(annotation) else {}
            keys |= {"iscrowd": 1} if annotation.get("iscrowd") else {}
            keys |= {"iscrowd": 1} if annotation.get("ignore") else {}
            found.add_box(image, names[category_id], (x, y, x + width, y + height), path, what, **keys)
    for image, other in earlier:
        if any(annotation not in image.annotations for annotation in other.annotations):
            image.is_incomplete = True


def _class_names(categories: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, str]:
    """Id, as text -> name, in the order of the ids; without one that only groups the others (Roboflow's)."""
    used = {str(annotation.get("category_id")) for annotation in annotations}
    groups = {str(entry.get("supercategory")) for entry in categories}
    kept = [
        c
        for c in categories
        if str(c.get("id")) in used or str(c.get("name")) not in groups - {str(c.get("supercategory"))}
    ]
    kept.sort(key=lambda entry: str(entry.get("id")).zfill(20))
    return {str(entry.get("id")): str(entry.get("name")) for entry in kept}


def _add_image(
    found: LabelledFolder,
    path: Path,
    entry: Mapping[str, Any],
    index: ImageIndex,
    split: str | None,
    seen: _Seen,
    earlier: list[tuple[LabelledImage, LabelledImage]],
) -> LabelledImage | None:
    name, sides = entry.get("file_name"), (entry.get("width"), entry.get("height"))
    picture = index.find(name, path, split) if isinstance(name, str) else None
    if picture is None:
        found.add_problem(path, f"image {one_line(entry.get('id'))}: there is no file {name!r}")
        return None
    if picture in seen:
        file, image = seen[picture]
        found.add_problem(path, f"image {one_line(entry.get('id'))}: {picture} is also that of {file.name}")
        other = LabelledImage(picture, image.width, image.height)  # not trained on
        earlier.append((image, other))
        return other
    annotated = sides if all(isinstance(side, int) and side > 0 for side in sides) else None
    split = split or split_of(picture.relative_to(index.folder).parts[:-1])
    added = found.add_image(picture, path, annotated, split)
    if added is not None:
        seen[picture] = path, added
    return added
