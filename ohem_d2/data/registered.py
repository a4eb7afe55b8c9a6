"""What is known of a data set by its registered name, before it is loaded."""

import difflib
import json

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["class_names", "require_registered"]


def require_registered(name: str) -> None:
    """Raise ValueError, with the nearest names, unless there is a data set of that name."""
    if name in DatasetCatalog:
        return
    near = ", ".join(difflib.get_close_matches(name, DatasetCatalog.list()))
    hint = f"did you mean {near}?" if near else "data sets of your own are registered by a catalogue"
    raise ValueError(f"data set {name!r} is not registered; {hint}")


def class_names(name: str) -> list[str] | None:
    """Names of the classes of a registered data set, in the order of their labels.

    They are those of its metadata or catalogue entry, else those of its COCO file.

    Returns:
        None: not known without loading the data set, or its file cannot be read.
    """
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes") or getattr(DatasetCatalog[name], "classes", ())
    return list(names) or _coco_classes(metadata.get("json_file"))


def _coco_classes(json_file: str | None) -> list[str] | None:
    """As Detectron2 orders them, by category id."""
    try:
        with open(json_file or "", encoding="utf-8") as file:
            categories = json.load(file)["categories"]
        return [category["name"] for category in sorted(categories, key=lambda c: c["id"])] or None
    except (OSError, ValueError, LookupError, TypeError):  # the loader says what is wrong
        return None
