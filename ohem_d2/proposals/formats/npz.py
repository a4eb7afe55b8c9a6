"""NumPy's npz in one of two layouts: tables as in the store, or one array per image.

The tables are ``ids`` (n,), ``boxes`` (T, 4), ``scores`` (T,) and ``offsets`` (n + 1,). The array of an image
has its id as name and shape (n, 4) or (n, 5), the fifth column being the score.
"""

from collections.abc import Iterator
from pathlib import Path

from ...utils.npz import NpzFile
from ..index import offsets_fit
from .base import Entry, Format, RawProposals
from .pickles import split_scores

__all__ = ["NPZ"]

_TABLES = {"ids", "boxes", "scores", "offsets"}


def read_npz(path: Path) -> RawProposals:
    file = NpzFile(path)
    with_tables = set(file.names) == _TABLES
    entries = _table_entries(path, file) if with_tables else _image_entries(path, file)
    return RawProposals(entries, "xyxy0", "npz, tables" if with_tables else "npz, per image")


def _table_entries(path: Path, file: NpzFile) -> Iterator[Entry]:
    tables = dict(file)
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


def _image_entries(path: Path, file: NpzFile) -> Iterator[Entry]:
    for image_id, array in file:
        yield image_id, *split_scores(array, f"{path}, image {image_id}")


def _is_npz(path: Path, start: bytes) -> bool:
    return path.suffix == ".npz" or start[:4] == b"PK\x03\x04"


NPZ = Format("npz", "numpy's npz", _is_npz, read_npz)
