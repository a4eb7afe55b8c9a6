"""Records of the RoIs that a training mined, in files of their own.

Shape letters: V = visits (an image in an iteration), T = mined RoIs of all visits.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .files import atomic_file
from .messages import one_line

__all__ = ["MinedRoIs", "read_mined"]

FORMAT = "ohem_d2.mined"


@dataclass(frozen=True)
class MinedRoIs:
    """What was mined: the RoIs of visit v are the rows ``offsets[v]`` to ``offsets[v + 1] - 1``."""

    images: list[str]  # image files, as the data set names them
    iterations: NDArray[Any]  # (V,) int64, from 0
    visited: NDArray[Any]  # (V,) int64, into `images`
    sizes: NDArray[Any]  # (V, 2) int64: width and height of the network's input
    offsets: NDArray[Any]  # (V + 1,) int64
    boxes: NDArray[Any]  # (T, 4) float32, XYXY_ABS in pixels of the network's input, flipped where it was
    labels: NDArray[Any]  # (T,) int64, the highest is the background
    objects: NDArray[Any]  # (T,) int64: index of the object among those of the image; -1: background
    ious: NDArray[Any]  # (T,) float32, with the object of highest IoU
    # (T,) float32, as the RoIs were ranked by them, of a cascade the sums over its stages; NaN of a rule that
    # reads no losses. Of one stage with softmax and losses of weight 1, exp(-cls_losses) is the probability
    # of the label. A predictor with its own `roi_losses` has all in `cls_losses`.
    cls_losses: NDArray[Any]
    box_losses: NDArray[Any]

    def __len__(self) -> int:
        return len(self.iterations)

    def take(self, visits: NDArray[Any]) -> "MinedRoIs":
        """Some visits (n,) int64, in the order given."""
        rows = [np.arange(self.offsets[v], self.offsets[v + 1]) for v in visits]
        taken = np.concatenate([np.zeros(0, np.int64), *rows])
        used, visited = np.unique(self.visited[visits], return_inverse=True)
        of_visits = {name: getattr(self, name)[visits] for name in ("iterations", "sizes")}
        of_rois = {name: getattr(self, name)[taken] for name in _OF_ROIS}
        offsets = np.cumsum([0, *map(len, rows)])
        images = [self.images[i] for i in used]
        return MinedRoIs(images=images, visited=visited, offsets=offsets, **of_visits, **of_rois)

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        arrays = {f.name: np.ascontiguousarray(getattr(self, f.name)) for f in fields(self)[1:]}
        with atomic_file(path) as file:
            file.write(save(arrays, {"format": FORMAT, "images": json.dumps(self.images)}))

    @classmethod
    def load(cls, path: Path) -> "MinedRoIs":
        """Read a file of `save`.

        Raises:
            ValueError: another file, or a damaged one.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") == FORMAT:
                    arrays = {f.name: file.get_tensor(f.name) for f in fields(cls)[1:]}
                    mined = cls(images=json.loads(metadata["images"]), **arrays)
        # ValueError: of NumPy, for an array of too many dimensions, and of JSON.
        except (SafetensorError, KeyError, RecursionError, ValueError) as error:
            raise ValueError(f"{path}: truncated or damaged: {one_line(error)}") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not a record of mined RoIs")
        if not mined._is_consistent():
            raise ValueError(f"{path}: damaged: its arrays do not belong together")
        return mined

    def _is_consistent(self) -> bool:
        """Whether the arrays have the types and shapes of the fields, and point to what is there."""
        is_list = isinstance(self.images, list) and all(isinstance(name, str) for name in self.images)
        if not is_list:
            return False
        num_visits, num_rois = self.iterations.size, self.labels.size
        arrays = {f.name: getattr(self, f.name) for f in fields(self)[1:]}
        lengths = {"sizes": (num_visits, 2), "offsets": (num_visits + 1,), "boxes": (num_rois, 4)}
        lengths |= dict.fromkeys(("iterations", "visited"), (num_visits,))
        for name, array in arrays.items():
            is_real = name in ("boxes", "ious", "cls_losses", "box_losses")
            if array.shape != lengths.get(name, (num_rois,)) or array.dtype.kind != ("f" if is_real else "i"):
                return False
        is_ordered = self.offsets[[0, -1]].tolist() == [0, num_rois] and (np.diff(self.offsets) >= 0).all()
        is_known = ((self.visited >= 0) & (self.visited < len(self.images))).all()
        return bool(is_ordered and is_known)


_OF_ROIS = ("boxes", "labels", "objects", "ious", "cls_losses", "box_losses")


def join(parts: Sequence[MinedRoIs]) -> MinedRoIs:
    """All visits of `parts`, of which there is at least one, in their order."""
    index: dict[str, int] = {}
    for part in parts:
        for image in part.images:
            index.setdefault(image, len(index))
    visited = [np.array([index[part.images[i]] for i in part.visited], np.int64) for part in parts]
    names = ("iterations", "sizes", *_OF_ROIS)
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return MinedRoIs(images=list(index), visited=np.concatenate(visited), offsets=offsets, **arrays)


def read_mined(folder: str | Path) -> MinedRoIs:
    """What a training of ``OUTPUT_DIR`` `folder` mined, by iteration; all processes together.

    Raises:
        FileNotFoundError: it recorded nothing.
        ValueError: a damaged file.
    """
    files = sorted(Path(folder, "mined").glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no records of what was mined (MODEL.OHEM.LOG_MIB)")
    joined = join([MinedRoIs.load(file) for file in files])
    return joined.take(np.argsort(joined.iterations, kind="stable"))
