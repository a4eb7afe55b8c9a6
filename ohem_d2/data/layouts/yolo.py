"""Reads YOLO: ``data.yaml``, and a txt of relative boxes for each image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...utils.files import find_files
from ...utils.text_files import read_text
from ...utils.yaml_files import SafeLoader, read_yaml
from .base import LabelledFolder, LabelledImage, split_of
from .images import ImageIndex

__all__ = ["read_yolo"]

_SPLIT_KEYS = ("train", "val", "test")
_DEPTH = 4  # parts of a path that are compared
_NAME_FILES = ("classes.txt", "obj.names")


def read_yolo(folder: Path, index: ImageIndex) -> LabelledFolder | None:
    """Read the images below `folder` with the labels of YOLO; None without a file of class names.

    The class names are ``names`` of a YAML file, else the lines of ``classes.txt``. The labels of an image
    lie beside it or, for ``images/a.jpg``, in ``labels/a.txt``; an image without is one without objects.
    The split is that of a list that ``data.yaml`` names, else of the folders' names.

    Raises:
        ValueError: labels without a file of class names, or a malformed one.
    """
    labels = {image: _label_file(image, index.folder) for image in index.paths}
    if not any(labels.values()):
        return None
    described = _description(folder)
    if described is None:
        raise ValueError(
            f"{folder}: found labels of YOLO, but no class names; expected data.yaml or classes.txt"
        )
    found, (source, content) = LabelledFolder("YOLO txt"), described
    found.classes = _names(source, content.get("names"))
    lists = _lists(source, content)
    bare = [path for path, label in labels.items() if label is None]
    if bare:
        text = (
            f"{len(bare)} images have no labels: {bare[0].name} for one; they count as images without objects"
        )
        found.add_problem(folder, text)
    for path, label in labels.items():
        split = _listed_split(path, lists) or split_of(path.relative_to(folder).parts[:-1])
        image = found.add_image(path, label or path, split=split)
        if image is not None and label is not None:
            _read(found, image, label, len(found.classes))
    return found


def _label_file(image: Path, folder: Path) -> Path | None:
    parts = list(image.relative_to(folder).with_suffix(".txt").parts)
    candidates = [image.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        candidates.append(folder.joinpath(*parts[:last], "labels", *parts[last + 1 :]))
    candidates.append(image.parent.with_name("labels") / candidates[0].name)
    return next((path for path in candidates if path.is_file()), None)


def _description(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file with the class names and its content, that of ``classes.txt`` as ``names``."""
    for path in sorted(find_files(folder, [".yaml", ".yml"])):
        with open(path, encoding="utf-8") as file:
            content = read_yaml(file, str(path), SafeLoader)
        if isinstance(content, dict) and "names" in content:
            return path, content
    files = sorted(find_files(folder, [".txt", ".names"]))
    for path in (path for name in _NAME_FILES for path in files if path.name == name):
        lines = read_text(path).splitlines()
        return path, {"names": [line.strip() for line in lines if line.strip()]}
    return None


def _names(source: Path, names: Any) -> list[str]:
    if isinstance(names, dict):
        names = [names[key] for key in range(len(names))] if set(names) == set(range(len(names))) else None
    if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
        raise ValueError(f"{source}: names must be distinct class names, a list or a mapping from 0 on")
    return [str(name) for name in names]


def _lists(source: Path, content: dict[str, Any]) -> dict[tuple[str, ...], set[str]]:
    """The last parts of the path of an image -> its split, of the splits that are lists in a text file.

    More than one split where the parts do not tell images apart. Lists are often made on another machine,
    where the folder lies elsewhere.
    """
    splits: dict[tuple[str, ...], set[str]] = {}
    for key in _SPLIT_KEYS:
        base, value = source.parent / str(content.get("path") or ""), content.get(key)
        if isinstance(value, str) and value.endswith(".txt") and (base / value).is_file():
            lines = read_text(base / value).replace("\\", "/").splitlines()
            for parts in (Path(line.strip()).parts for line in lines if line.strip()):
                for depth in range(1, _DEPTH + 1):
                    splits.setdefault(parts[-depth:], set()).add(key)
    return splits


def _listed_split(path: Path, lists: dict[tuple[str, ...], set[str]]) -> str | None:
    found = (lists.get(path.parts[-depth:], ()) for depth in range(_DEPTH, 0, -1))
    return next((split for splits in found if len(splits) == 1 for split in splits), None)


def _read(found: LabelledFolder, image: LabelledImage, label: Path, num_classes: int) -> None:
    for number, line in enumerate(label.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        values = _numbers(line.split())
        if values is None:
            text = f"line {number}: {line!r:.60}, not class x y w h, nor class and a polygon"
            found.add_unusable(image, label, text)
        elif not (values[0].is_integer() and 0 <= values[0] < num_classes):
            text = f"line {number}: class {values[0]:g} is not among 0 to {num_classes - 1}"
            found.add_unusable(image, label, text)
        else:
            box = _corners(values[1:], image)
            found.add_box(image, found.classes[int(values[0])], box, label, f"line {number}")


def _numbers(words: Sequence[str]) -> list[float] | None:
    """The class, and a box of four numbers or a polygon of three points or more."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return None
    return values if len(values) == 5 or (len(values) > 6 and len(values) % 2) else None


def _corners(values: Sequence[float], image: LabelledImage) -> Sequence[float]:
    """XYXY_ABS of a box (centre and size) or around a polygon, relative to the image."""
    if len(values) == 4:
        x, y, w, h = values
        x1, y1, x2, y2 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        x1, y1, x2, y2 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    return x1 * image.width, y1 * image.height, x2 * image.width, y2 * image.height
