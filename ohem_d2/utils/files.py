"""Atomic writing of files."""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_file", "find_files", "remove_unfinished"]


def find_files(folder: str | Path, suffixes: Collection[str]) -> list[Path]:
    """The files below a folder with one of the suffixes (lower case, with the dot), in a fixed order.

    What is hidden is left out. Links are followed, but into no folder twice.
    """
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                found.append(Path(parent, name))
    return found


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that becomes `path` when the block ends, and is removed if the block fails.

    At any moment, also after a crash, `path` is the old file or the complete new one: the bytes go to a
    temporary file beside it, are synced to disk, and the file is then renamed. Missing folders are created.

    Raises:
        OSError: the folder cannot be written, or the disk is full; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # as of a full disk
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what `atomic_file` left in `folder` when its process was killed; no process may write there."""
    for file in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", file.name):
            file.unlink()


def _sync_folder(folder: Path) -> None:
    """Sync the rename to disk; does nothing where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
