"""NumPy's npz in one of two layouts: tables as in the store, or one array per image.

The tables are ``ids`` (n,), ``boxes`` (T, 4), ``scores`` (T,) and ``offsets`` (n + 1,). The array of an image
has its id as name and shape (n, 4) or (n, 5), the fifth column being the score.

Not ``np.load``, which allocates whatever the header of an untrusted file claims.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ...utils.budget import Budget
from ...utils.messages import brief
from ..index import offsets_fit
from .base import Entry, Format, RawProposals
from .pickles import split_scores

__all__ = ["NPZ"]

_TABLES = {"ids", "boxes", "scores", "offsets"}


def read_npz(path: Path) -> RawProposals:
    try:
        archive = zipfile.ZipFile(path)
        names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path}: not an npz file: {error}") from error
    with_tables = set(names) == _TABLES
    reader = _Archive(path, archive)
    entries = _table_entries(path, reader) if with_tables else _image_entries(path, reader)
    return RawProposals(entries, "xyxy0", "npz, tables" if with_tables else "npz, per image")


class _Archive:
    """Reads the arrays of a zip file one at a time, within the budget of the file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive, self.budget = path, archive, Budget(path)

    def __iter__(self) -> Iterator[tuple[str, NDArray[Any]]]:
        return ((info.filename.removesuffix(".npy"), self.read(info)) for info in self.archive.infolist())

    def read(self, info: zipfile.ZipInfo) -> NDArray[Any]:
        self.budget.spend(info.file_size, f"array {brief(info.filename)}")
        try:
            with self.archive.open(info) as file:
                shape, fortran, dtype = _read_header(file)
                content = file.read()
            array = np.frombuffer(content, dtype)
            return array.reshape(shape, order="F" if fortran else "C")
        except Exception as error:  # zlib, zipfile and numpy each have their own
            raise ValueError(
                f"{self.path}: array {brief(info.filename)} is damaged: {error!s:.120}"
            ) from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version} is not known")
    read: Callable[[IO[bytes]], Any] = (
        npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    if dtype.kind not in "biufU":
        raise ValueError(f"it holds {dtype}, not numbers or text")
    return shape, fortran, dtype


def _table_entries(path: Path, reader: _Archive) -> Iterator[Entry]:
    tables = dict(reader)
    ids, boxes, scores, offsets = (tables[name] for name in ("ids", "boxes", "scores", "offsets"))
    shapes = {name: table.shape for name, table in tables.items()}
    if not (boxes.ndim == 2 and ids.ndim == scores.ndim == offsets.ndim == 1 and len(boxes) == len(scores)):
        raise ValueError(
            f"{path}: ids (n,), boxes (T, 4), scores (T,) and offsets (n + 1,) do not fit: {shapes}"
        )
    if len(offsets) != len(ids) + 1 or offsets.dtype.kind not in "iu" or not offsets_fit(offsets, len(boxes)):
        raise ValueError(f"{path}: offsets do not divide {len(boxes)} boxes among {len(ids)} ids")
    for image_id, begin, end in zip(ids.tolist(), offsets[:-1], offsets[1:]):
        yield image_id, boxes[begin:end], scores[begin:end]


def _image_entries(path: Path, reader: _Archive) -> Iterator[Entry]:
    for image_id, array in reader:
        yield image_id, *split_scores(array, f"{path}, image {image_id}")


def _is_npz(path: Path, start: bytes) -> bool:
    return path.suffix == ".npz" or start[:4] == b"PK\x03\x04"


NPZ = Format("npz", "numpy's npz", _is_npz, read_npz)
