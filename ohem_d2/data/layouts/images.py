"""Finds the image that an annotation means, whatever path it gives."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from ...utils.images import find_images
from .base import split_of

__all__ = ["ImageIndex"]

# What Label Studio puts before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


class ImageIndex:
    """The images below a folder (hidden folders left out), sorted, by name and by stem."""

    def __init__(self, folder: Path):
        self.folder, self.paths = folder, find_images(folder)
        self._by_name: dict[str, list[Path]] = {}
        for path in self.paths:
            for key in (path.name, path.stem):
                self._by_name.setdefault(key, []).append(path)

    def find(self, name: str, near: Path, split: str | None = None, named: str | None = None) -> Path | None:
        """The image that the file `near` calls `name`: a path, URL, name, or name without extension.

        Of several with that name, the one that is called `named`, whose path ends most like `name`, that lies
        in a folder called `split`, and lies nearest to `near`. None if there is none. A prefix of an upload
        may be missing on disk.
        """
        parts = name.replace("\\", "/").split("/")
        decoded = unquote(parts[-1])
        names = parts[-1], decoded, _UPLOAD_PREFIX.sub("", decoded)
        found = next((self._by_name[n] for n in names if n in self._by_name), [])

        def likeness(path: Path) -> tuple[bool, int, bool, int, int]:
            relative = path.relative_to(self.folder).parts
            tail = len(os.path.commonprefix([parts[-2::-1], list(relative[-2::-1])]))
            shared = len(os.path.commonprefix([near.parts[:-1], path.parts]))
            in_split = split is not None and split_of(relative[:-1]) == split
            return path.name == named, tail, in_split, shared, -len(relative)

        return max(found, key=likeness, default=None)
