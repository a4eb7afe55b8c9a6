"""Folds of a data set: what is left of it to train on when each part in turn is held out."""

import json
import os
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..utils.files import atomic_file
from ..utils.text_files import read_json
from .catalog_entry import require_plain
from .registered import require_registered
from .voc import VOCFolders

__all__ = ["draw_folds", "rest_name", "write_folds"]


def draw_folds(image_ids: Sequence[str], num_folds: int, seed: int = 0) -> list[list[str]]:
    """The ids of each fold, drawn at random; sizes differ by one at most.

    Raises:
        ValueError: fewer than two folds, or more than there are images.
    """
    if not 2 <= num_folds <= len(image_ids):
        raise ValueError(f"{num_folds} folds of {len(image_ids)} images; valid: 2 to {len(image_ids)}")
    shuffled = random.Random(seed).sample(list(image_ids), len(image_ids))
    return [shuffled[fold::num_folds] for fold in range(num_folds)]


def rest_name(name: str, fold: int) -> str:
    """The registered name of what is left of a data set without a fold."""
    return f"{name}_without_{fold}"


def write_folds(name: str, folds: Sequence[Collection[str]], folder: str | Path) -> Path:
    """Write a catalogue of what is left of a data set without each of its folds.

    Args:
        name: registered, in VOC or COCO layout; nothing of it is changed or copied but its lists.
        folds: ids of the images of each.
        folder: of the catalogue and the lists.

    Returns:
        the catalogue, which registers `rest_name` of each fold.

    Raises:
        ValueError: the data set is not registered, or of another layout; `folder` cannot stand in a config.
        OSError: its files cannot be read, or `folder` cannot be written.
    """
    require_registered(name)
    folder, metadata = Path(folder).absolute(), MetadataCatalog.get(name)
    require_plain(folder)
    if metadata.get("dirname"):
        write, entry = _write_voc, _voc_entry(metadata, folder)
    elif metadata.get("json_file"):
        write, entry = _write_coco, _coco_entry(name, metadata, folder)
    else:
        raise ValueError(f"data set {name!r} cannot be split into folds; valid: VOC and COCO layout")
    ids = [str(record["image_id"]) for record in DatasetCatalog.get(name)]
    for fold, held_out in enumerate(map(set, folds)):
        write(metadata, [i for i in ids if i not in held_out], folder / f"without_{fold}")
    entry["splits"] = [f"without_{fold}" for fold in range(len(folds))]
    if files := metadata.get("proposal_file"):
        several = isinstance(files, (list, tuple))
        entry["proposals"] = [os.path.abspath(f) for f in files] if several else os.path.abspath(files)
    _write(folder / "catalog.yaml", yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True))
    return folder / "catalog.yaml"


def _voc_entry(metadata: Metadata, folder: Path) -> dict[str, Any]:
    return {
        "format": "voc",
        "root": str(Path(metadata.dirname).absolute()),
        "classes": list(metadata.thing_classes),
        "year": metadata.year,
        "ignore": list(metadata.get("ignore", ())),
        **asdict(metadata.get("folders", VOCFolders())),
        "imagesets": str(folder),
    }


def _coco_entry(name: str, metadata: Metadata, folder: Path) -> dict[str, Any]:
    return {
        "format": "coco",
        "root": str(Path(metadata.image_root).absolute()),
        "annotations": str(folder / "{split}.json"),
        "images_outside": metadata.get("images_outside", False),
        "ignore": list(getattr(DatasetCatalog[name], "ignore", ())),
    }


def _write_voc(metadata: Metadata, ids: Sequence[str], path: Path) -> None:
    _write(path.with_suffix(".txt"), "\n".join(ids) + "\n")


def _write_coco(metadata: Metadata, ids: Sequence[str], path: Path) -> None:
    content, kept = read_json(metadata.json_file), set(ids)
    content["images"] = [image for image in content["images"] if str(image["id"]) in kept]
    content["annotations"] = [a for a in content["annotations"] if str(a["image_id"]) in kept]
    _write(path.with_suffix(".json"), json.dumps(content))


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())
