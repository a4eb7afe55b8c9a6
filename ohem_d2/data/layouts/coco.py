"""Reads COCO JSON: COCO's own folders, Roboflow's, and the exports of CVAT and Label Studio."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...utils.messages import one_line
from ...utils.text_files import read_json
from .base import LabelledFolder, LabelledImage, split_of
from .images import ImageIndex

__all__ = ["explain_json", "read_coco"]

_LISTS = ("images", "categories", "annotations")
_KEPT = ("iscrowd", "segmentation")


def read_coco(folder: Path, index: ImageIndex) -> LabelledFolder | None:
    """Read all COCO files below `folder`, or those called ``instances*`` if there are any; None if none.

    Classes are matched by name, so that ids may begin anywhere and differ between files. The split is that of
    the file's name, else of its folder's.
    """
    contents, broken = _load(folder)
    if not contents:
        return None
    instances = {path: content for path, content in contents.items() if path.name.startswith("instances")}
    found = LabelledFolder("COCO JSON")
    for path, text in broken:
        found.add_problem(path, text)
    seen: dict[Path, Path] = {}
    for path, content in (instances or contents).items():
        _read(found, path, content, index, seen)
    return found


def explain_json(folder: Path) -> str:
    """Why the JSON files below `folder` are none of COCO; "" if there are none."""
    contents, broken = _load(folder)
    if broken:
        return f"{broken[0][0]}: {broken[0][1]}"
    file = next(iter(sorted(folder.rglob("*.json"))), None)
    return f"{file} lacks the lists {', '.join(_LISTS)} of COCO" if file and not contents else ""


def _load(folder: Path) -> tuple[dict[Path, Mapping[str, Any]], list[tuple[Path, str]]]:
    """The COCO files below `folder`, and the JSON files that are malformed."""
    contents, broken = {}, []
    for path in sorted(folder.rglob("*.json")):
        try:
            content = read_json(path)
        except ValueError as error:
            broken.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _LISTS):
            contents[path] = content
    return contents, broken


def _read(
    found: LabelledFolder, path: Path, content: Mapping[str, Any], index: ImageIndex, seen: dict[Path, Path]
) -> None:
    split = split_of([*path.relative_to(index.folder).parts[:-1], path.stem])
    images, categories, annotations = ([x for x in content[key] if isinstance(x, dict)] for key in _LISTS)
    names = _class_names(categories, annotations)
    found.classes += [name for name in dict.fromkeys(names.values()) if name not in found.classes]
    by_id: dict[Any, LabelledImage | None] = {}
    for entry in images:
        by_id[str(entry.get("id"))] = _add_image(found, path, entry, index, split, seen)
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
            keys = {key: annotation[key] for key in _KEPT if annotation.get(key)}
            keys |= {"iscrowd": 1} if annotation.get("ignore") else {}
            found.add_box(image, names[category_id], (x, y, x + width, y + height), path, what, **keys)


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
    seen: dict[Path, Path],
) -> LabelledImage | None:
    name, sides = entry.get("file_name"), (entry.get("width"), entry.get("height"))
    picture = index.find(name, path, split) if isinstance(name, str) else None
    if picture is None:
        found.add_problem(path, f"image {one_line(entry.get('id'))}: there is no file {name!r}")
        return None
    if picture in seen:
        found.add_problem(
            path, f"image {one_line(entry.get('id'))}: {picture} is also that of {seen[picture].name}"
        )
        return None
    seen[picture] = path
    annotated = sides if all(isinstance(side, int) and side > 0 for side in sides) else None
    split = split or split_of(picture.relative_to(index.folder).parts[:-1])
    return found.add_image(picture, path, annotated, split)
