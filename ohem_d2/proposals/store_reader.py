"""Reading of stores: memory-mapped, without a lock and without writing anything."""

import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..utils.messages import one_line
from .entries import check_stored
from .index import IdIndex, offsets_fit
from .mapping import Entry, Proposals
from .store import DTYPES, FORMAT, TENSORS, VERSION

__all__ = ["State", "StoreFile", "is_store", "read_store"]

# What differs once a file has changed: its size and its time of modification in nanoseconds. Not its inode,
# which some network file systems number anew while the file stays the same.
State = tuple[int, int]


def is_store(start: bytes) -> bool:
    """Whether `start`, the first bytes of a file, is that of a safetensors file; false if fewer than 9."""
    return len(start) >= 9 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 10**8


def read_store(path: str | Path, state: State | None = None) -> Proposals:
    """Open a store; time and memory do not depend on the number of boxes.

    Args:
        path: of the file.
        state: of the file when it was opened before, from which it must not differ; None: it was not.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format or version, or a file that is truncated, damaged or has changed.
    """
    file = StoreFile(path, state)
    index, reopen = file.index(), (read_store, (file.path, file.state))
    return Proposals.from_rows(file, file.arrays["offsets"], index, file.path, file.metadata, reopen)


class StoreFile:
    """A memory-mapped store, which is checked to be the same file still.

    Reading a page of a mapped file that was truncated ends the process without a word (SIGBUS), and a file
    that was written anew would be read as if it were the old one.

    Attributes:
        path: absolute.
        state: of the file when it was opened.
        metadata: of the file.
        arrays: views, by name.
    """

    def __init__(self, path: str | Path, state: State | None = None) -> None:
        """Open a file; arguments and errors are those of `read_store`."""
        self.path = os.path.abspath(path)
        self.state = state or _state(os.stat(path))
        self.check()
        shapes, self.metadata = _read_header(self.path)
        with open(self.path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.check()
        self.arrays = _views(content, shapes)

    def check(self) -> None:
        """Raise ValueError if the file is no longer the one that was opened."""
        try:
            same = _state(os.stat(self.path)) == self.state
        except FileNotFoundError:
            same = False
        if not same:
            raise ValueError(f"{self.path} has changed since it was opened")

    def read(self, begin: int, end: int, image_id: str) -> Entry:
        """Boxes and scores from row `begin` on, checked as in `check_stored`; call `check` first."""
        boxes, scores = self.arrays["boxes"][begin:end], self.arrays["scores"][begin:end]
        check_stored(boxes, scores, f"{self.path}, image {image_id}")
        return boxes, scores

    def index(self) -> IdIndex:
        """The ids of the images.

        Raises:
            ValueError: tables that do not fit.
        """
        index = IdIndex(*(self.arrays[name] for name in ("ids", "id_offsets", "id_hashes", "id_rows")))
        problem = index.check()
        if not offsets_fit(self.arrays["offsets"], len(self.arrays["boxes"])):
            problem = f"the offsets of the images do not fit the {len(self.arrays['boxes'])} boxes"
        if problem:
            raise ValueError(f"{self.path}: {problem}")
        return index


def _read_header(path: str) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by name, in the order of the file, and metadata; the library checks that they cover the file."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, file.offset_keys()
            found = {
                name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in names
            }
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged: {one_line(error)}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not of proposals: its tensors are {names!s:.80}")
    if metadata.get("version") != VERSION or metadata.get("box_convention") != "XYXY_ABS":
        version, convention = metadata.get("version"), metadata.get("box_convention")
        raise ValueError(f"{path}: version {version} with {convention} boxes; this reads 1 with XYXY_ABS")
    expected = {name: (dtype, len(tail) + 1, tail) for name, (dtype, tail) in TENSORS.items()}
    given = {name: (dtype, len(shape), tuple(shape[1:])) for name, (dtype, shape) in found.items()}
    if given != expected:
        raise ValueError(f"{path}: its tensors are {found!s:.200}; expected {', '.join(TENSORS)}")
    shapes = {name: tuple(shape) for name, (_, shape) in found.items()}
    _check_lengths(path, {name: shape[0] for name, shape in shapes.items()})
    return shapes, metadata


def _check_lengths(path: str, lengths: Mapping[str, int]) -> None:
    if lengths["boxes"] != lengths["scores"]:
        raise ValueError(f"{path}: {lengths['boxes']} boxes but {lengths['scores']} scores")
    n = lengths["id_rows"]
    if (lengths["id_hashes"], lengths["id_offsets"], lengths["offsets"]) != (n, n + 1, n + 1):
        raise ValueError(f"{path}: the tables of images and ids differ in length: {dict(lengths)}")


def _views(content: mmap.mmap, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    arrays, begin = {}, 8 + struct.unpack("<Q", content[:8])[0]
    for name, shape in shapes.items():
        dtype = DTYPES[TENSORS[name][0]]
        arrays[name] = np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape)
        begin += arrays[name].nbytes
    return arrays


def _state(status: os.stat_result) -> State:
    return status.st_size, status.st_mtime_ns
