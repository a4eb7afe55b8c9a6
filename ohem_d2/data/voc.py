"""Data sets in PASCAL VOC layout: ``Annotations/*.xml``, ``ImageSets/Main/*.txt``, ``JPEGImages/*``.

Folders of other names are given by `VOCFolders`; the metadata of such a data set have it as ``folders``.
"""

import logging
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from ..utils.images import read_image_size
from ..utils.messages import name_some
from ..utils.text_files import read_text

__all__ = ["VOCFolders", "load_voc", "load_voc_images", "read_split", "split_ids"]

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png")  # the first one present wins
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VOCFolders:
    """Folders of the XML files, the images and the split files, relative to the root of a data set."""

    annotations: str = "Annotations"
    images: str = "JPEGImages"
    imagesets: str = "ImageSets/Main"


def load_voc(
    root: str | Path,
    split: str,
    classes: Sequence[str],
    ignore: Sequence[str] = (),
    folders: VOCFolders = VOCFolders(),
) -> list[dict[str, Any]]:
    """Load one split of a VOC data set as Detectron2 dataset dicts, in the order of the split file.

    Boxes follow Detectron2's VOC convention: the 1-based inclusive pixels of the XML become XYXY_ABS
    ``[xmin - 1, ymin - 1, xmax, ymax]``. Each annotation also keeps ``difficult`` (0 or 1). A box with
    ``xmax <= xmin`` or ``ymax <= ymin`` is dropped; one warning names all of them. Where the XML gives a
    width or height of 0, both come from the header of the image; one warning says for how many.

    Args:
        root: folder with `folders`.
        split: name of a split file without ".txt", see `read_split`. Image ids stay strings ("000001").
        classes: class names in the order of their ids.
        ignore: what makes an object an ignore region, which gets ``iscrowd`` 1: names of classes that are not
            in `classes` (their ``category_id`` is -1), and tags of an object whose text is 1.
        folders: their names; images are jpg, jpeg or png.

    Raises:
        FileNotFoundError: no such split, or images or XML files of the split are missing.
        ValueError: a split without ids or with a repeated id; an XML file that is malformed, lacks a field
            or has a class that is neither in `classes` nor in `ignore`.
    """
    ids = read_split(root, split, folders)
    images = _index_images(Path(root, folders.images), ids)
    xmls = index_folder(Path(root, folders.annotations), (".xml",))
    _require(ids, xmls, "XML files", Path(root, folders.annotations))

    category_ids = {name: index for index, name in enumerate(classes)}
    dicts, dropped, unsized = [], [], []
    for image_id in ids:
        record = _read_xml(xmls[image_id], category_ids, ignore)
        dropped += [f"{image_id} {box}" for box in record.pop("zero_size")]
        if min(record["width"], record["height"]) <= 0:
            record["width"], record["height"] = read_image_size(images[image_id])
            unsized.append(image_id)
        dicts.append({"file_name": images[image_id], "image_id": image_id, **record})
    if dropped:
        message = "%s, split %s: dropped %d boxes of zero size: %s"
        logger.warning(message, root, split, len(dropped), name_some(dropped, 20))
    if unsized:
        message = "%s, split %s: the size of %d images is 0 in the XML, and read from the images: %s"
        logger.warning(message, root, split, len(unsized), name_some(unsized))
    return dicts


def load_voc_images(root: str | Path, split: str) -> list[dict[str, Any]]:
    """Load a split without annotations; the sizes of the images come from their headers.

    Raises:
        FileNotFoundError: no such split, or images of the split are missing.
        ValueError: a split without ids or with a repeated id; an image without a readable header.
    """
    ids = read_split(root, split)
    images = _index_images(Path(root, VOCFolders.images), ids)
    dicts = []
    for image_id in ids:
        width, height = read_image_size(images[image_id])
        dicts.append({"file_name": images[image_id], "image_id": image_id, "height": height, "width": width})
    return dicts


def read_split(root: str | Path, split: str, folders: VOCFolders = VOCFolders()) -> list[str]:
    """The image ids of a split, see `split_ids`.

    Raises:
        FileNotFoundError: no such split.
        ValueError: a split without ids or with a repeated id, or not in UTF-8.
    """
    path = Path(root, folders.imagesets, f"{split}.txt")
    if not path.is_file():
        choices = name_some(sorted(file.stem for file in path.parent.glob("*.txt")), 20)
        raise FileNotFoundError(f"split file {path} does not exist; splits there: {choices or 'none'}")
    ids = split_ids(read_text(path))
    if not ids:
        raise ValueError(f"{path}: the split names no image")
    seen: set[str] = set()
    repeated = [image_id for image_id in ids if image_id in seen or seen.add(image_id)]
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} ids come more than once: {name_some(repeated)}")
    return ids


def split_ids(text: str) -> list[str]:
    """The image ids in a split file: its non-blank lines, which may have spaces inside.

    Where all lines end in -1, 0 or 1, as those of VOC's splits of one class, that column is left out.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [re.fullmatch(r"(.*\S)\s+(-1|0|1)", line) for line in lines]
    return [match[1] for match in marked if match] if all(marked) else lines


def index_folder(folder: Path, extensions: Sequence[str]) -> dict[str, str]:
    """Stem -> path of the files with one of `extensions` (any case), listing the folder once."""
    rank = {extension: index for index, extension in enumerate(extensions)}
    found: dict[str, tuple[int, str]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        stem, extension = os.path.splitext(name)
        if extension.lower() in rank:
            candidate = (rank[extension.lower()], os.path.join(folder, name))
            found[stem] = min(candidate, found.get(stem, candidate))
    return {stem: path for stem, (_, path) in found.items()}


def _index_images(folder: Path, ids: Sequence[str]) -> dict[str, str]:
    """Stem -> path of the images in `folder`, which has those of `ids`."""
    images = index_folder(folder, IMAGE_EXTENSIONS)
    _require(ids, images, f"images ({', '.join(IMAGE_EXTENSIONS)})", folder)
    return images


def _require(ids: Sequence[str], present: dict[str, str], what: str, folder: Path) -> None:
    missing = [image_id for image_id in ids if image_id not in present]
    if missing:
        found = f"{len(missing)} of {len(ids)} {what} are missing"
        raise FileNotFoundError(f"{folder}: {found}: {name_some(missing)}")


def _read_xml(path: str, category_ids: dict[str, int], ignore: Sequence[str]) -> dict[str, Any]:
    """Height, width and annotations of one image, and the boxes that were dropped as ``zero_size``."""
    try:
        tree = ET.parse(path)
    except ET.ParseError as error:
        raise ValueError(f"{path}: malformed XML: {error}") from error
    width, height = (int(_number(tree.getroot(), f"size/{side}", path)) for side in ("width", "height"))
    annotations, zero_size = [], []
    for element in tree.findall("object"):
        xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{corner}", path) for corner in CORNERS)
        if xmax <= xmin or ymax <= ymin:
            zero_size.append(f"[{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}]")
            continue
        is_class = element.findtext("name") in ignore
        annotation = {
            "bbox": [xmin - 1.0, ymin - 1.0, xmax, ymax],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": -1 if is_class else _category(element, path, category_ids),
            "difficult": int(element.findtext("difficult", "0") == "1"),
        }
        if is_class or any(element.findtext(tag) == "1" for tag in ignore):
            annotation["iscrowd"] = 1
        annotations.append(annotation)
    return {"height": height, "width": width, "annotations": annotations, "zero_size": zero_size}


def _number(element: ET.Element, tag: str, path: str) -> float:
    text = element.findtext(tag)
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}: <{element.tag}> needs a number in <{tag}>, found {text!r}")
    return value


def _category(element: ET.Element, path: str, category_ids: dict[str, int]) -> int:
    name = element.findtext("name")
    if name not in category_ids:
        raise ValueError(f"{path}: class {name!r} is not among the listed classes: {', '.join(category_ids)}")
    return category_ids[name]
