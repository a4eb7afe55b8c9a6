"""Opens proposal files of any format, and several stores as one."""

import logging
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from detectron2.utils.file_io import PathManager

from ..utils.messages import name_some
from .conventions import get_convention
from .formats import FORMATS, Format
from .joined_stores import read_stores
from .mapping import Proposals
from .store_reader import is_store, read_store

__all__ = ["Paths", "find_files", "find_format", "is_single", "name_paths", "read_proposals"]

logger = logging.getLogger(__name__)

# A file, a pattern with * or ? for several, or a list of these.
Paths = str | Path | Sequence[str | Path]


def read_proposals(path: Paths) -> Proposals:
    """Open proposals: a file of any format, or several stores as one.

    A store is memory-mapped. A third-party file is read whole, its boxes under the convention that it
    declares or, if it declares none, under the default of its format.

    Args:
        path: file, or folder of per-image files; the format is recognised by content or suffix. Several
            stores: a pattern with * or ?, whose files are sorted by name, or a list of files and patterns.

    Raises:
        FileNotFoundError: no such file, or none that the pattern matches.
        ValueError: not a proposal file, or content that `Proposals` refuses; one line with the file and the
            image id. Of several files, one that is no store, or an image that two of them have.
        ImportError: the format needs a library that is not installed.
    """
    names = [path] if isinstance(path, (str, Path)) else list(path)
    files = [file for name in names for file in _require_files(name)]
    if not files:
        raise ValueError("an empty list of proposal files")
    if len(files) == 1:
        return _read_file(files[0])
    for file in files:
        if find_format(Path(file)) is not None:
            raise ValueError(f"{file}: of several proposal files each must be a store: convert it to one")
    return read_stores([(file, None) for file in files], name_paths(path))


def name_paths(path: Paths) -> str:
    """Text for errors and logs."""
    return str(path) if isinstance(path, (str, Path)) else name_some(path)


def find_files(path: Paths) -> list[str]:
    """The files that `path` stands for, as in `read_proposals`; none if there is none."""
    if not isinstance(path, (str, Path)):
        return [file for name in path for file in find_files(name)]
    text = str(path)
    return [text] if PathManager.exists(text) else sorted(glob(text.replace("[", "[[]")))


def is_single(path: Paths) -> bool:
    """Whether `path` names one file and is no pattern or list."""
    return isinstance(path, (str, Path)) and not re.search("[*?]", str(path))


def _require_files(path: str | Path) -> list[str]:
    files = find_files(path)
    if not files and is_single(path):
        raise FileNotFoundError(
            f"proposal file {path} does not exist; datasets/prepare_proposals.py makes it (docs/proposals.md)"
        )
    if not files:
        raise FileNotFoundError(f"no proposal file matches {path}")
    return files


def _read_file(path: str) -> Proposals:
    local = Path(path) if Path(path).exists() else Path(PathManager.get_local_path(path))
    form = find_format(local)
    if form is None:
        return read_store(local)
    if form.needs_ids:
        raise ValueError(f"{path}: {form.title} has no image ids: convert it with --dataset")
    raw = form.read(local)
    convention = get_convention(raw.convention)
    logger.info(
        "%s: read as %s, boxes as %s; a store opens at once (prepare_proposals.py convert)",
        path,
        form.name,
        convention,
    )
    return Proposals(((i, convention.to_corners(b), s) for i, b, s in raw.entries), source=str(path))


def find_format(path: Path) -> Format | None:
    """Recognise the format of a file or folder by its content or suffix; None for a store.

    Raises:
        ValueError: no format is recognised.
    """
    start = b""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(512)
        if is_store(start):
            return None
    for form in FORMATS.values():
        if form.matches(path, start):
            return form
    raise ValueError(
        f"{path}: not a proposal file: neither a store nor one of {', '.join(FORMATS)} by its content"
    )
