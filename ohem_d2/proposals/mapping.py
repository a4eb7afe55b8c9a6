"""`Proposals`: a mapping from image id to boxes and scores, in memory or over a memory-mapped file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entries import check_stored, image_id_text, sorted_entry
from .index import IdIndex

__all__ = ["Proposals"]


class Proposals(Mapping[str, tuple[NDArray[Any], NDArray[Any]]]):
    """Image id (str) -> ``(boxes, scores)``: (n, 4) float32 XYXY_ABS and (n,) float32, highest score first.

    Equal scores keep their order, so a file whose scores are all the same keeps its order. The arrays are
    read-only views. Those of a store are views of the memory-mapped file: nothing is read before it is
    accessed, processes share the pages, and a pickle holds the path instead of the arrays.
    """

    def __init__(
        self,
        entries: Iterable[tuple[Any, Any, Any]],
        source: str = "proposals",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Check and sort the proposals of each image.

        Args:
            entries: (image id, boxes (n, 4) XYXY_ABS, scores (n,)), in any order. An int id becomes its str.
            source: name of the proposals in errors, such as a file.
            metadata: how they were made, see `write_proposals`.

        Raises:
            ValueError: a repeated id, arrays of other shapes or of unequal lengths, a coordinate or score
                that is not finite, a box with x1 > x2 or y1 > y2. The message names source and image.
        """
        ids: dict[str, None] = {}
        boxes: list[NDArray[Any]] = [np.zeros((0, 4), np.float32)]
        scores: list[NDArray[Any]] = [np.zeros(0, np.float32)]
        for image_id, image_boxes, image_scores in entries:
            text = image_id_text(image_id, source)
            if text in ids:
                raise ValueError(f"{source}: image id {text!r} comes more than once")
            ids[text] = None
            entry = sorted_entry(image_boxes, image_scores, f"{source}, image {text}")
            boxes.append(entry[0])
            scores.append(entry[1])
        offsets = np.cumsum([len(s) for s in scores])
        index = IdIndex.build(list(ids))
        self._fill(np.concatenate(boxes), np.concatenate(scores), offsets, index, source, metadata)

    @classmethod
    def from_arrays(
        cls,
        boxes: NDArray[Any],
        scores: NDArray[Any],
        offsets: NDArray[Any],
        index: IdIndex,
        source: str,
        metadata: Mapping[str, str],
        reopen: tuple[Callable[..., "Proposals"], tuple[Any, ...]],
    ) -> "Proposals":
        """Wrap existing arrays, of which rows ``offsets[i]:offsets[i + 1]`` belong to row i of `index`.

        `reopen` is what a pickle holds instead of the arrays: a function and its arguments that give the same
        proposals in another process.
        """
        proposals = cls.__new__(cls)
        proposals._fill(boxes, scores, offsets, index, source, metadata, reopen)
        return proposals

    def _fill(
        self,
        boxes: NDArray[Any],
        scores: NDArray[Any],
        offsets: NDArray[Any],
        index: IdIndex,
        source: str,
        metadata: Mapping[str, str] | None,
        reopen: tuple[Callable[..., "Proposals"], tuple[Any, ...]] | None = None,
    ) -> None:
        self._boxes, self._scores, self._offsets, self._index = boxes, scores, offsets, index
        self._source, self._reopen = source, reopen
        self.metadata: dict[str, str] = dict(metadata or {})
        self._boxes.flags.writeable = self._scores.flags.writeable = False

    @property
    def num_boxes(self) -> int:
        """Number of boxes of all images."""
        return len(self._scores)

    @property
    def counts(self) -> NDArray[Any]:
        """(n,) int64, number of boxes of each image, in the order of the ids; reads no box."""
        return np.diff(self._offsets)

    def count(self, image_id: str) -> int:
        """Number of boxes of one image, 0 if it is absent; reads no box."""
        begin, end = self._span(image_id) or (0, 0)
        return end - begin

    def __getitem__(self, image_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
        span = self._span(image_id)
        if span is None:
            raise KeyError(image_id)
        begin, end = span
        boxes, scores = self._boxes[begin:end], self._scores[begin:end]
        if self._reopen is not None:
            check_stored(boxes, scores, f"{self._source}, image {image_id}")
        return boxes, scores

    def __contains__(self, image_id: object) -> bool:
        return self._span(image_id) is not None

    def _span(self, image_id: object) -> tuple[int, int] | None:
        """First row of an image and the one after its last, None if the image is absent."""
        if not isinstance(image_id, str):
            return None
        row = self._index.find(image_id)
        if row is not None:
            return int(self._offsets[row]), int(self._offsets[row + 1])
        if not self._index.is_whole():
            raise ValueError(f"{self._source}: the table of image ids is damaged")
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Proposals({self._source!r}, {len(self)} images, {self.num_boxes} boxes)"

    def __reduce__(self) -> tuple[Callable[..., "Proposals"], tuple[Any, ...]]:
        if self._reopen is not None:
            return self._reopen
        arrays = (self._boxes, self._scores, self._offsets, self._index, self._source, self.metadata)
        return _from_pickle, arrays


def _from_pickle(*arrays: Any) -> Proposals:
    proposals = Proposals.__new__(Proposals)
    proposals._fill(*arrays)
    return proposals
