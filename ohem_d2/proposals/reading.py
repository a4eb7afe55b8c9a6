"""Opens proposal files of any format."""

import logging
from pathlib import Path

from detectron2.utils.file_io import PathManager

from .conventions import get_convention
from .formats import FORMATS, Format
from .mapping import Proposals
from .store import is_store, read_store

__all__ = ["find_format", "read_proposals"]

logger = logging.getLogger(__name__)


def read_proposals(path: str | Path) -> Proposals:
    """Open a proposal file.

    A store is memory-mapped. A third-party file is read whole, its boxes under the convention that it
    declares or, if it declares none, under the default of its format.

    Args:
        path: file, or folder of per-image files; the format is recognised by content or suffix.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a proposal file, or content that `Proposals` refuses; one line with the file and the
            image id.
        ImportError: the format needs a library that is not installed.
    """
    if not PathManager.exists(str(path)):
        raise FileNotFoundError(f"proposal file {path} does not exist")
    local = Path(path) if Path(path).exists() else Path(PathManager.get_local_path(str(path)))
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
