"""Bounds on the memory that an untrusted file may ask for."""

import os
from pathlib import Path
from typing import IO

__all__ = ["BoundedFile", "Budget"]

# A file may unpack to this many times its size, and to SMALL bytes in any case. Compression and the widening
# of integers (at most eightfold) stay below; files made to exhaust the memory do not.
MAX_EXPANSION = 32
SMALL = 2**24


class Budget:
    """Bounds what a file may unpack to, so that a small file cannot exhaust the memory."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._path, self._size = path, path.stat().st_size if size is None else size
        self._left = max(SMALL, MAX_EXPANSION * self._size)

    def spend(self, num_bytes: int, what: str) -> None:
        """Account for `num_bytes` before they are allocated for `what`.

        Raises:
            ValueError: the total exceeds both `MAX_EXPANSION` times the file and `SMALL`.
        """
        self._left -= num_bytes
        if num_bytes < 0 or self._left < 0:
            raise ValueError(
                f"{self._path}: {what} would unpack to {num_bytes} bytes or more, "
                f"from a file of {self._size}: refused"
            )


class BoundedFile:
    """A binary file for an unpickler: it asks for as many bytes as a pickle says, and Python allocates them.

    Attributes:
        size: of the file in bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        place = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(place)
        self._file, self.readline = file, file.readline

    def read(self, num_bytes: int) -> bytes:
        """As the file's, but a number beyond its size is cut to that."""
        return self._file.read(min(num_bytes, self.size))
