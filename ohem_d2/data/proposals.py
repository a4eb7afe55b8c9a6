"""
Precomputed proposals: a mapping from image id to boxes and scores, and its file.

The file is Detectron2's: a pickled dict with ``ids``, ``boxes``, ``objectness_logits`` and ``bbox_mode``.
Detectron1's keys ``indexes`` and ``scores`` are read as well. A pickle can run any code when it is loaded,
so it is read by an unpickler that builds numpy arrays, numbers, ``BoxMode`` and plain containers only.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Union

import numpy as np

from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

__all__ = ["Proposals", "read_proposals", "write_proposals"]

_DETECTRON1_KEYS = {"indexes": "ids", "scores": "objectness_logits"}
_REQUIRED_KEYS = ("ids", "boxes", "objectness_logits")


class Proposals(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """
    Image id (str) -> ``(boxes, scores)``: (n, 4) float32 XYXY_ABS and (n,) float32, highest score first.

    Equal scores keep the order they came in, so a file whose scores are all the same keeps its order. The
    arrays are read-only views of two large ones, which makes the object cheap to pickle and to share.
    """

    def __init__(self, entries: Iterable[tuple[Any, Any, Any]], source: str = "proposals") -> None:
        """
        Args:
            entries: (image id, boxes (n, 4) XYXY_ABS, scores (n,)), in any order. An int id becomes its str.
            source: what errors call the proposals, a file name for instance.

        Raises:
            ValueError: an id that comes twice, arrays of other shapes or of unequal lengths, a coordinate or
                score that is not finite, a box with x1 > x2 or y1 > y2. It names the source and the image.
        """
        self._source = source
        self._rows: dict[str, int] = {}
        boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        for image_id, image_boxes, image_scores in entries:
            if str(image_id) in self._rows:
                raise ValueError(f"{source}: image id {str(image_id)!r} comes more than once")
            self._rows[str(image_id)] = len(self._rows)
            entry = _sorted_entry(image_boxes, image_scores, f"{source}, image {image_id}")
            boxes.append(entry[0])
            scores.append(entry[1])
        self._offsets = np.cumsum([len(s) for s in scores])
        self._boxes, self._scores = np.concatenate(boxes), np.concatenate(scores)
        self._freeze()

    def _freeze(self) -> None:
        self._boxes.flags.writeable = self._scores.flags.writeable = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._freeze()  # a pickle does not carry the flag

    def __getitem__(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        row = self._rows[image_id]
        span = slice(self._offsets[row], self._offsets[row + 1])
        return self._boxes[span], self._scores[span]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Proposals({self._source!r}, {len(self)} images, {len(self._scores)} boxes)"


def read_proposals(path: Union[str, Path]) -> Proposals:
    """
    Read a proposal file of Detectron2's or Detectron1's format; XYWH_ABS boxes are converted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a proposal file, or content that :class:`Proposals` refuses; one line with the file
            and the image id.
    """
    if not PathManager.isfile(str(path)):
        raise FileNotFoundError(f"proposal file {path} does not exist")
    content = _load_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a proposal file: holds a {type(content).__name__} instead of a dict")
    content = {_DETECTRON1_KEYS.get(key, key): value for key, value in content.items()}
    missing = [key for key in _REQUIRED_KEYS if key not in content]
    if missing:
        raise ValueError(f"{path}: not a proposal file: no {missing[0]!r} among its keys {list(content)}")
    columns = [content[key] for key in _REQUIRED_KEYS]
    lengths = {key: len(column) for key, column in zip(_REQUIRED_KEYS, columns)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: ids, boxes and objectness_logits differ in length: {lengths}")
    to_corners = _corner_conversion(content.get("bbox_mode", BoxMode.XYXY_ABS), path)
    return Proposals(((i, to_corners(b), s) for i, b, s in zip(*columns)), source=str(path))


def write_proposals(
    path: Union[str, Path], proposals: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """
    Write proposals in Detectron2's format, all or nothing: an older file stays until the new one is whole.

    Args:
        path: file to write; missing folders are made.
        proposals: any mapping from image id to (boxes (n, 4) XYXY_ABS, scores (n,)). It is checked and
            sorted as :class:`Proposals` is.

    Raises:
        ValueError: as :class:`Proposals`; nothing is written then.
    """
    path = Path(path)
    if not isinstance(proposals, Proposals):
        proposals = Proposals(((i, *entry) for i, entry in proposals.items()), source=str(path))
    content = {
        "ids": list(proposals),
        "boxes": [boxes for boxes, _ in proposals.values()],
        "objectness_logits": [scores for _, scores in proposals.values()],
        "bbox_mode": int(BoxMode.XYXY_ABS),  # a plain number loads wherever numpy does
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            pickle.dump(content, file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sorted_entry(boxes: Any, scores: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Check the boxes and scores of one image and sort them, ties in the order they came."""
    try:
        boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: boxes and scores must be numbers: {error}") from error
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: boxes must have shape (n, 4), not {boxes.shape}")
    if scores.shape != (len(boxes),):
        raise ValueError(f"{where}: {len(boxes)} boxes but scores of shape {scores.shape}")
    for values, what in ((boxes, "box"), (scores[:, None], "score")):
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise ValueError(f"{where}: {what} {bad.argmax()} is not finite: {values[bad][0].tolist()}")
    bad = (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
    if bad.any():
        raise ValueError(f"{where}: box {bad.argmax()} has x1 > x2 or y1 > y2: {boxes[bad][0].tolist()}")
    order = np.argsort(-scores, kind="stable")  # before rounding to float32, which could tie scores
    return boxes[order].astype(np.float32), scores[order].astype(np.float32)


def _corner_conversion(mode: Any, path: Union[str, Path]) -> Callable[[Any], Any]:
    """What turns the boxes of one image from ``mode`` into XYXY_ABS; bad ones pass as they are."""
    if mode == BoxMode.XYXY_ABS:
        return lambda boxes: boxes
    if mode == BoxMode.XYWH_ABS:
        return _from_xywh
    raise ValueError(f"{path}: bbox_mode must be XYXY_ABS (0) or XYWH_ABS (1), not {mode!r}")


def _from_xywh(boxes: Any) -> Any:
    try:
        x, y, width, height = np.asarray(boxes, np.float64).T
    except (TypeError, ValueError):
        return boxes  # empty, or to be refused with the id of the image
    return np.stack([x, y, x + width, y + height], axis=-1)


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, by which old pickle protocols store bytes."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for ``bytes``, by which old pickle protocols store empty bytes."""
    return b""


def _box_mode_by_name(owner: type, name: str) -> BoxMode:
    """Stands for ``getattr``, by which Python 3.11 may store an enum member."""
    if owner is not BoxMode or name not in BoxMode.__members__:
        raise pickle.UnpicklingError(f"attribute {name!r} of {owner!r} is not admitted")
    return BoxMode[name]


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float32(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
    ("detectron2.structures.boxes", "BoxMode"): BoxMode,
    ("builtins", "getattr"): _box_mode_by_name,
    ("builtins", "bytes"): _no_bytes,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
}


class _ProposalUnpickler(pickle.Unpickler):
    """Admits what a proposal file needs, under the module names of numpy 1 and 2 and of Python 2 and 3."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}; only numpy arrays, numbers, BoxMode and containers are admitted"
            ) from None


def _load_pickle(path: Union[str, Path]) -> Any:
    with PathManager.open(str(path), "rb") as file:
        try:
            return _ProposalUnpickler(file, encoding="latin1").load()
        except Exception as error:  # bytes that are no pickle raise nearly anything
            raise ValueError(f"{path}: not a proposal file: {error}") from error
