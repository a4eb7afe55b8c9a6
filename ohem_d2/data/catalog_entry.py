"""One entry of a catalogue: its keys, their checks, and the data sets that they describe."""

import logging
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..utils.messages import brief
from .background import load_background
from .coco import load_coco
from .voc import VOCFolders, load_voc

__all__ = ["Dataset", "Entry"]

logger = logging.getLogger(__name__)

# A file or pattern, or several.
ProposalFiles = str | tuple[str, ...] | None

YEARS = (2007, 2012)


@dataclass(frozen=True)
class VOCDataset:
    """A registered VOC split; calling it loads the dataset dicts."""

    name: str
    root: str
    split: str
    classes: tuple[str, ...]
    year: int
    proposal_file: "ProposalFiles"
    ignore: tuple[str, ...]
    folders: VOCFolders

    def __call__(self) -> list[dict[str, Any]]:
        _require_root(self.name, self.root)
        return load_voc(self.root, self.split, self.classes, self.ignore, self.folders)

    def metadata(self) -> dict[str, Any]:
        return {
            "thing_classes": list(self.classes),
            "dirname": self.root,
            "split": self.split,
            "year": self.year,
            "evaluator_type": "pascal_voc",
            "ignore": self.ignore,
            "folders": self.folders,
        }


@dataclass(frozen=True)
class COCODataset:
    """A registered COCO split; calling it loads the dataset dicts, and the metadata get ``thing_classes``."""

    name: str
    root: str
    json_file: str
    image_root: str
    classes: tuple[str, ...]
    proposal_file: "ProposalFiles"
    ignore: tuple[str, ...]
    images_outside: bool

    def __call__(self) -> list[dict[str, Any]]:
        _require_root(self.name, self.root)
        place = self.json_file, self.image_root, self.name
        return load_coco(*place, self.classes, self.ignore, self.images_outside)

    def metadata(self) -> dict[str, Any]:
        files = {"json_file": self.json_file, "image_root": self.image_root}
        return {**files, "evaluator_type": "coco", "images_outside": self.images_outside}


@dataclass(frozen=True)
class BackgroundDataset:
    """A registered folder of images without objects; calling it loads the dataset dicts."""

    name: str
    root: str
    proposal_file: "ProposalFiles"

    def __call__(self) -> list[dict[str, Any]]:
        _require_root(self.name, self.root)
        return load_background(self.root)

    def metadata(self) -> dict[str, Any]:
        return {"image_root": self.root, "is_background": True}


Dataset = VOCDataset | COCODataset | BackgroundDataset


class Entry:
    """Parses one entry of a catalogue; errors name file, entry and key."""

    REQUIRED = {
        "voc": ("format", "root", "splits", "classes"),
        "coco": ("format", "root", "splits", "annotations"),
        "images": ("format", "root"),
    }
    OPTIONAL = {
        "voc": ("year", *(field.name for field in fields(VOCFolders)), "proposals", "ignore"),
        "coco": ("classes", "images", "images_outside", "proposals", "ignore"),
        "images": ("proposals",),
    }

    def __init__(self, path: Path, name: Any, values: Any) -> None:
        self.path, self.name, self.values = path, name, values
        if not isinstance(name, str) or not isinstance(values, dict):
            raise self.error("an entry is a name with a mapping of keys")
        self.format = values.get("format")
        if "format" not in values:
            has = ", ".join(map(brief, values))
            raise self.error(f"it has no format ({', '.join(self.REQUIRED)}); its keys are {has}")
        if self.format not in list(self.REQUIRED):
            raise self.error(f"format must be one of {', '.join(self.REQUIRED)}, not {brief(self.format)}")
        required, valid = self.REQUIRED[self.format], self.REQUIRED[self.format] + self.OPTIONAL[self.format]
        unknown = [key for key in values if key not in valid]
        if unknown:
            raise self.error(
                f"unknown key {brief(unknown[0])}; keys of format {self.format}: {', '.join(valid)}"
            )
        missing = [key for key in required if key not in values]
        if missing:
            needed = ", ".join(required)
            raise self.error(f"key {missing[0]!r} is missing; format {self.format} needs {needed}")

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}, entry {brief(self.name)}: {message}")

    def datasets(self) -> list[Dataset]:
        """The data sets of the entry: one per split, or one of the entry's name where there are no splits."""
        root, base = self.root()
        make = {"voc": self.voc, "coco": self.coco, "images": self.background}[self.format]
        splits = {self.name: self.name}
        if "splits" in self.values:
            splits = {f"{self.name}_{suffix}": split for suffix, split in self.splits().items()}
        files = self.proposal_files(root, base, splits)
        return [make(name, str(root), split, files[name]) for name, split in splits.items()]

    def voc(self, name: str, root: str, split: str, proposals: ProposalFiles) -> VOCDataset:
        year = self.values.get("year", YEARS[-1])
        if year not in YEARS:
            raise self.error(f"year must be one of {YEARS} (which AP is computed), not {brief(year)}")
        both = [mark for mark in self.ignore() if mark in self.classes()]
        if both:
            raise self.error(f"{both[0]!r} is in classes and in ignore; an object is not both")
        given = [field.name for field in fields(VOCFolders) if field.name in self.values]
        folders = VOCFolders(**{key: self.template(key, split) for key in given})
        return VOCDataset(name, root, split, self.classes(), year, proposals, self.ignore(), folders)

    def coco(self, name: str, root: str, split: str, proposals: ProposalFiles) -> COCODataset:
        json_file = os.path.join(root, self.template("annotations", split))
        image_root = os.path.join(root, self.template("images", split)) if "images" in self.values else root
        outside = self.values.get("images_outside", False)
        if not isinstance(outside, bool):
            raise self.error(f"images_outside must be true or false, not {brief(outside)}")
        return COCODataset(
            name, root, json_file, image_root, self.classes(), proposals, self.ignore(), outside
        )

    def background(self, name: str, root: str, split: str, proposals: ProposalFiles) -> BackgroundDataset:
        return BackgroundDataset(name, root, proposals)

    def splits(self) -> dict[str, str]:
        """Suffix of the registered name -> name of the split."""
        splits = self.values["splits"]
        splits = dict(zip(splits, splits)) if _are_names(splits) else splits
        if not isinstance(splits, dict) or not _are_names([*splits, *splits.values()]):
            raise self.error(f"splits must be a list of names or a mapping suffix: name, not {brief(splits)}")
        return splits

    def classes(self) -> tuple[str, ...]:
        classes = self.values.get("classes")
        if classes is None and self.format == "coco":
            return ()
        if not _are_names(classes) or len(set(classes)) < len(classes):
            raise self.error(
                f"classes must be a list of distinct strings (quote yes and 1), not {brief(classes)}"
            )
        return tuple(classes)

    def ignore(self) -> tuple[str, ...]:
        marks = self.values.get("ignore", [])
        if marks and not _are_names(marks):
            raise self.error(f"ignore must be a list of names, not {brief(marks)}")
        return tuple(marks or ())

    def root(self) -> tuple[Path, Path]:
        """The folder of the data set, and the one that ``proposals`` was relative to in version 0.1."""
        root, common = Path(self.expanded("root", self.values["root"])), _datasets_folder()
        if root.is_absolute():
            return root, common
        local = self.path.absolute().parent
        base = common if not _is_local(self.values["root"]) and os.path.exists(common / root) else local
        return Path(os.path.normpath(base / root)), base

    def proposal_files(self, root: Path, base: Path, splits: dict[str, str]) -> dict[str, ProposalFiles]:
        """The proposals of each data set; a file that is only at its place of version 0.1, there."""
        files = {name: self.proposal_file(root, name, split) for name, split in splits.items()}
        if isinstance(self.values.get("proposals"), list):
            return files
        former = {name: self.proposal_file(base, name, split) for name, split in splits.items()}
        old = [
            n for n, file in former.items() if file and os.path.exists(file) and not os.path.exists(files[n])
        ]
        if old:
            logger.warning(
                "%s, entry %r: proposals is relative to root; there is no %s, so %s is read, as in 0.1",
                *(self.path, self.name, files[old[0]], former[old[0]]),
            )
        return files | {name: former[name] for name in old}

    def proposal_file(self, base: Path, name: str, split: str) -> ProposalFiles:
        given, local = self.values.get("proposals"), self.path.absolute().parent
        if "proposals" not in self.values:
            return None
        if isinstance(given, list) and not _are_names(given):
            raise self.error(f"proposals must be a path or a list of paths, not {brief(given)}")
        files = [
            os.path.normpath(
                (local if _is_local(one) else base) / self.fill("proposals", one, split, name=name)
            )
            for one in (given if isinstance(given, list) else [given])
        ]
        return tuple(files) if isinstance(given, list) else files[0]

    def template(self, key: str, split: str) -> str:
        return self.fill(key, self.values[key], split)

    def fill(self, key: str, given: Any, split: str, **others: str) -> str:
        """The path `given` under `key`, expanded, with its placeholders replaced."""
        text, places = self.expanded(key, given), {"split": split, **others}
        for place, value in places.items():
            text = text.replace(f"{{{place}}}", value)
        if re.search(r"[{}]", text):
            known = " and ".join(f"{{{place}}}" for place in places)
            raise self.error(f"{key} knows only the placeholder {known}, found {brief(given)}")
        return text

    def expanded(self, key: str, text: Any) -> str:
        """The path `text` under `key`, with environment variables and ~ expanded."""
        if not isinstance(text, str) or not text:
            raise self.error(f"{key} must be a path, not {brief(text)}")
        unset = [name for name in re.findall(r"\$\{?(\w+)\}?", text) if name not in os.environ]
        if unset:
            raise self.error(f"{key} uses the environment variable {unset[0]}, which is not set")
        return os.path.expanduser(os.path.expandvars(text))


def _require_root(name: str, root: str) -> None:
    if not os.path.isdir(root):
        raise FileNotFoundError(
            f"data set {name!r}: folder {root} does not exist (a relative root is looked up under "
            "$DETECTRON2_DATASETS, default 'datasets', then in the folder of its catalogue)"
        )


def _is_local(path: Any) -> bool:
    """Whether a path begins with "." or "..", so that it is relative to the folder of the catalogue."""
    return isinstance(path, str) and path.split("/")[0] in (".", "..")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item for item in value)


def _datasets_folder() -> Path:
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))).absolute()


def require_plain(path: Path) -> None:
    """Raise ValueError for a path that cannot stand in a catalogue, where ``$`` and ``{}`` have a meaning."""
    if re.search(r'["\\${}]', str(path)):
        raise ValueError(f'{path}: a path with one of " \\ $ {{ }} cannot stand in a config')
