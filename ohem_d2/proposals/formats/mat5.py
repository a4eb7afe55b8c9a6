"""Reader of MATLAB level 5 files (``save -v6``, ``-v7``): numbers, text and cell arrays of them.

Not ``scipy.io.loadmat``, which inflates an untrusted file without a bound on memory; here every length is
checked against the bytes that are there before memory is allocated.
"""

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...utils.budget import Budget

__all__ = ["read_mat5"]

_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHAR = 1, 4
# Type codes of stored data (numbers, text), and array classes of numbers.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}

Value = NDArray[Any] | str | list[Any]
_Elements = list[tuple[int, memoryview]]


def read_mat5(path: Path, names: Collection[str]) -> dict[str, Value]:
    """Read the variables `names` as far as present: numbers as arrays, text as str, cells as flat lists.

    Raises:
        ValueError: a truncated or damaged file, or a variable of another class; without the path. Damaged
            compressed data raise ``zlib.error``.
    """
    content = memoryview(path.read_bytes())
    if len(content) < 128 or bytes(content[126:128]) not in (b"IM", b"MI"):
        raise ValueError("no MATLAB 5 header")
    reader = _Reader("<" if bytes(content[126:128]) == b"IM" else ">", Budget(path))
    variables = {}
    for kind, body in reader.elements(content[128:]):
        if kind == _COMPRESSED:
            kind, body = next(reader.elements(reader.inflate(body)), (0, memoryview(b"")))
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} where a variable should be")
        name, matrix_class, shape, rest = reader.matrix_header(body)
        if name in names:
            variables[name] = reader.value(matrix_class, shape, rest, name)
    return variables


class _Reader:
    """Parses elements in the byte order of the file."""

    def __init__(self, order: str, budget: Budget) -> None:
        self.order, self.budget = order, budget

    def elements(self, content: memoryview) -> Iterator[tuple[int, memoryview]]:
        """(type, data) of the consecutive elements of `content`."""
        position = 0
        while position < len(content):
            if len(content) - position < 8:
                raise ValueError("it ends within the tag of an element")
            kind, size = struct.unpack_from(self.order + "II", content, position)
            begin = position + 8
            if kind >> 16:  # a small element: its data share the tag
                kind, size, begin = kind & 0xFFFF, kind >> 16, position + 4
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
            if begin + size > len(content):
                raise ValueError(f"it ends within an element of {size} bytes")
            yield kind, content[begin : begin + size]
            end = begin + size
            position = end if kind == _COMPRESSED else end + -end % 8

    def inflate(self, body: memoryview) -> memoryview:
        inflater, parts = zlib.decompressobj(), []
        part = inflater.decompress(body, 2**20)
        while part:
            self.budget.spend(len(part), "a compressed variable")
            parts.append(part)
            part = inflater.decompress(inflater.unconsumed_tail, 2**20)
        if not inflater.eof:
            raise ValueError("it ends within a compressed variable")
        return memoryview(b"".join(parts))

    def matrix_header(self, body: memoryview) -> tuple[str, int, tuple[int, ...], _Elements]:
        """Name, class and shape of an array, and its remaining elements."""
        elements = list(self.elements(body))
        if len(elements) < 3 or len(elements[0][1]) < 4:
            raise ValueError("an array without flags, dimensions and name")
        (_, flags), (_, dimensions), (_, name), *rest = elements
        matrix_class = struct.unpack_from(self.order + "I", flags)[0] & 0xFF
        shape = tuple(np.frombuffer(dimensions, self.order + "i4").tolist())
        if not 2 <= len(shape) <= 8 or min(shape) < 0:
            raise ValueError(f"an array of shape {shape}")
        return bytes(name).decode("ascii", "replace"), matrix_class, shape, rest

    def value(self, matrix_class: int, shape: tuple[int, ...], rest: _Elements, name: str) -> Value:
        if matrix_class == _CELL:
            return [self.item(kind, body, name) for kind, body in self.counted(rest, shape, name)]
        return self.leaf(matrix_class, shape, rest, name)

    def counted(self, rest: _Elements, shape: tuple[int, ...], name: str) -> _Elements:
        if len(rest) != math.prod(shape):
            raise ValueError(f"{name}: {len(rest)} cells for shape {shape}")
        return rest

    def item(self, kind: int, body: memoryview, name: str) -> Value:
        """The content of a cell; a nested cell array is an error."""
        if kind != _MATRIX:
            raise ValueError(f"{name}: a cell with an element of type {kind}")
        if not len(body):
            return np.zeros((0, 0))
        _, matrix_class, shape, rest = self.matrix_header(body)
        return self.leaf(matrix_class, shape, rest, name)

    def leaf(self, matrix_class: int, shape: tuple[int, ...], rest: _Elements, name: str) -> Value:
        kind, data = rest[0] if rest else (0, b"")
        if matrix_class == _CHAR:
            return bytes(data).decode(self.encoding(kind, name)) if len(data) else ""
        if matrix_class not in _NUMERIC or (kind not in _STORED and len(data)):
            self.refuse(name, f"an array of class {matrix_class}")
        stored = np.frombuffer(data, self.order + _STORED.get(kind, "u1"))
        if len(stored) != math.prod(shape):
            raise ValueError(f"{name}: {len(stored)} numbers for shape {shape}")
        dtype = np.dtype(_NUMERIC[matrix_class])
        self.budget.spend(len(stored) * dtype.itemsize, name)
        return stored.astype(dtype).reshape(shape, order="F")

    def encoding(self, kind: int, name: str) -> str:
        suffix = ("-le" if self.order == "<" else "-be") if kind in (4, 17, 18) else ""
        return _TEXT[kind] + suffix if kind in _TEXT else self.refuse(name, f"text of type {kind}")

    def refuse(self, name: str, what: str) -> Any:
        raise ValueError(f"{name}: {what}; only real numbers, text and cells of these are read")
