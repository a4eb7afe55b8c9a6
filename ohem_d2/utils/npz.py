"""NumPy's npz, read within a budget of memory.

Not ``np.load``, which allocates whatever the header of an untrusted file claims.
"""

import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .budget import Budget
from .messages import brief, one_line

__all__ = ["NpzFile"]


class NpzFile:
    """The arrays of an npz file, read one at a time.

    Attributes:
        names: of the arrays, in the order of the file.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not an npz file.
        """
        self._path = Path(path)
        self._budget = Budget(self._path)
        try:
            self._archive = zipfile.ZipFile(self._path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{path}: not an npz file: {error}") from error
        self.names = [info.filename.removesuffix(".npy") for info in self._archive.infolist()]

    def __iter__(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and array of each.

        Raises:
            ValueError: a damaged array, one of other things than numbers and text, or one that unpacks to too
                much; names the file.
        """
        return ((name, self._read(info)) for name, info in zip(self.names, self._archive.infolist()))

    def _read(self, info: zipfile.ZipInfo) -> NDArray[Any]:
        self._budget.spend(info.file_size, f"array {brief(info.filename)}")
        try:
            with self._archive.open(info) as file:
                shape, fortran, dtype = _read_header(file)
                content = file.read()
            if dtype.kind == "U" and (np.frombuffer(content, _as_numbers(dtype)) > sys.maxunicode).any():
                raise ValueError("its text is no Unicode")
            array = np.frombuffer(content, dtype)
            return array.reshape(shape, order="F" if fortran else "C")
        except Exception as error:  # zlib, zipfile and numpy each have their own
            raise ValueError(
                f"{self._path}: array {brief(info.filename)} is damaged: {one_line(error)}"
            ) from error


def _as_numbers(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of the characters of a type of text."""
    return np.dtype(np.uint32).newbyteorder(dtype.byteorder)


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
