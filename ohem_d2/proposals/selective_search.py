"""Selective Search proposals (Uijlings et al., IJCV 2013), computed by OpenCV's contrib module ``ximgproc``.

Shape letters: n = boxes of one image.
"""

import logging
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..utils.messages import one_line
from .generation import unique_images

__all__ = ["MAX_SIDE", "MODES", "SelectiveSearch", "generate_selective_search", "selective_search"]

T = TypeVar("T")

MODES = ("fast", "quality")
# The longer side of the images of COCO, in pixels; the time of a search grows with the square of it.
MAX_SIDE = 640

_ORDER_SEED = 0
# Images for each process that are searched, wait for it, or are finished and wait for the caller.
_IMAGES_AHEAD = 4
_MIN_SIZE = 2

logger = logging.getLogger(__name__)


def selective_search(
    image_bgr: NDArray[Any],
    mode: str = "fast",
    scale: float = 1.0,
    min_size: float = _MIN_SIZE,
    max_side: int = MAX_SIDE,
) -> NDArray[Any]:
    """Search one image for boxes that may contain an object.

    OpenCV shuffles the boxes by C's ``rand()``, so their order differs on every call. Here it is a fixed
    permutation of the sorted boxes, equally unrelated to quality: the result depends on the image alone, and
    its first k boxes are a random sample of all.

    Args:
        image_bgr: (H, W, 3) uint8.
        mode: "fast" (2 colour spaces, 3 segmentations, 2 similarities), or "quality" (5, 5 and 4), which is
            slower and gives more boxes.
        scale: factor by which the image is resized for the search; a small one is faster but misses small
            objects. Boxes are returned in pixels of the given image.
        min_size: boxes with a side shorter than this many pixels of the given image are dropped.
        max_side: an image whose longer side, after `scale`, has more pixels than this is shrunk to it for the
            search; 0: none is.

    Returns:
        (n, 4) float32 XYXY_ABS boxes with x2 = x + width, inside the image, no two equal. The whole image is
        always among them, so n is 0 only for an image smaller than `min_size`.

    Raises:
        ValueError: a wrong image, mode, scale, min_size or max_side.
        ImportError: no OpenCV, or one without ``ximgproc``.
    """
    _check_options(mode, scale, min_size, max_side)
    if not (isinstance(image_bgr, np.ndarray) and image_bgr.dtype == np.uint8 and image_bgr.ndim == 3):
        raise ValueError("Selective Search needs an (H, W, 3) uint8 array")
    if image_bgr.shape[2] != 3 or image_bgr.size == 0:
        raise ValueError(f"Selective Search needs a non-empty (H, W, 3) image, got shape {image_bgr.shape}")
    small = _resize(image_bgr, _factor(image_bgr, scale, max_side))
    boxes = _search(small, mode).astype(np.float64)
    (height, width), (small_height, small_width) = image_bgr.shape[:2], small.shape[:2]
    boxes *= [width / small_width, height / small_height] * 2
    boxes = np.minimum(boxes, [width, height] * 2).astype(np.float32)
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(axis=1)]


def generate_selective_search(
    dataset_dicts: Sequence[Mapping[str, Any]],
    workers: int | None = None,
    mode: str = "fast",
    scale: float = 1.0,
    progress: bool = True,
    max_side: int = MAX_SIDE,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Search every image of a data set, in parallel processes.

    Args:
        dataset_dicts: dicts in Detectron2's format, of which ``file_name`` and ``image_id`` are read. An
            image that is listed twice is searched once.
        workers: processes; None: one per available core; 1: this process searches. The result does not depend
            on it. With more than 1 the calling script needs an ``if __name__ == "__main__"`` guard.
        mode: see `selective_search`.
        scale: see `selective_search`.
        progress: show a progress bar on stderr.
        max_side: see `selective_search`.

    Returns:
        image id -> (boxes (n, 4) float32 XYXY_ABS, scores (n,) float32), in the order of `dataset_dicts`.
        Selective Search has no scores: they are 0, -1, -2, ..., so that a later sort keeps the order of
        `selective_search`, and say nothing about quality.

    Raises:
        FileNotFoundError: a missing image, by name.
        ValueError: an unreadable image, by name; one id for two files; a wrong option.
        ImportError: see `selective_search`.
    """
    records = unique_images(dataset_dicts)
    method = SelectiveSearch(mode, scale, workers, max_side)
    with closing(method(records)) as results:
        bar = tqdm(results, total=len(records), desc="Selective Search", unit="image", disable=not progress)
        return {str(record["image_id"]): entry for record, entry in zip(records, bar)}


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective Search as a `ProposalMethod`, with the options of `generate_selective_search`."""

    mode: str = "fast"
    scale: float = 1.0
    workers: int | None = None
    max_side: int = MAX_SIDE

    name: ClassVar[str] = "selective-search"

    def __post_init__(self) -> None:
        _check_options(self.mode, self.scale, _MIN_SIZE, self.max_side)
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        _segmentation_module()

    @property
    def parameters(self) -> dict[str, Any]:
        import cv2

        options = {**self._options, "scale": float(self.scale)}
        return {**options, "min_size": _MIN_SIZE, "opencv": cv2.__version__}

    def __call__(
        self, records: Sequence[Mapping[str, Any]]
    ) -> Generator[tuple[NDArray[Any], NDArray[Any]], None, None]:
        files = [record["file_name"] for record in records]
        workers = min(self.workers or _num_cores(), len(files))
        message = "Selective Search (%s, scale %g, max side %d): %d images, %d processes"
        logger.info(message, self.mode, self.scale, self.max_side, len(files), workers)
        with closing(_map(partial(_search_file, **self._options), files, workers)) as results:
            for boxes in results:
                yield boxes, _descending(len(boxes))

    def search(self, images: Iterable[NDArray[Any]]) -> Generator[NDArray[Any], None, None]:
        """Boxes of each image (H, W, 3) uint8 BGR, as of `selective_search`, in order.

        With several processes images are taken a few ahead of what is given.
        """
        search = partial(selective_search, **self._options)
        return _map(search, images, self.workers or _num_cores())

    @property
    def _options(self) -> dict[str, Any]:
        return {"mode": self.mode, "scale": self.scale, "max_side": self.max_side}


def _descending(num: int) -> NDArray[Any]:
    return -np.arange(num, dtype=np.float32)


def _map(
    search: Callable[[T], NDArray[Any]], items: Iterable[T], workers: int
) -> Generator[NDArray[Any], None, None]:
    """Results in the order of `items`. The processes end at once when the generator is closed."""
    if workers <= 1:
        yield from map(search, items)
        return
    # Spawned, since a fork of a process in which OpenCV has started its threads may hang.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with theirs, ProcessPoolExecutor(workers, context, _start_worker, (theirs,)) as pool, ours:
        waiting: deque[Future[NDArray[Any]]] = deque()
        for item in items:
            waiting.append(pool.submit(search, item))
            if len(waiting) == _IMAGES_AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _start_worker(parent: Connection) -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    cv2.setNumThreads(1)  # the processes use all cores already


def _end_with(parent: Connection) -> None:
    """End this process when the parent closes the other end of the pipe, or dies."""
    parent.poll(None)
    os._exit(1)


def _search_file(file_name: str, **options: Any) -> NDArray[Any]:
    return selective_search(_read_image(file_name), **options)


def _read_image(file_name: str) -> NDArray[Any]:
    """(H, W, 3) uint8 BGR, rotated by its EXIF orientation as in Detectron2."""
    import cv2

    if not os.path.isfile(file_name):
        raise FileNotFoundError(f"no image at {file_name}")
    image = cv2.imread(file_name, cv2.IMREAD_COLOR)
    if image is None:  # such as a rotated TIFF
        from detectron2.data.detection_utils import read_image

        try:
            image = np.ascontiguousarray(read_image(file_name, "BGR"))
        except Exception as error:  # decoders raise nearly anything
            raise ValueError(f"{file_name} cannot be read as an image: {one_line(error)}") from error
    return image


def _factor(image: NDArray[Any], scale: float, max_side: int) -> float:
    return min(scale, max_side / max(image.shape[:2])) if max_side else scale


def _resize(image: NDArray[Any], scale: float) -> NDArray[Any]:
    import cv2

    if scale == 1:
        return np.ascontiguousarray(image)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _search(image: NDArray[Any], mode: str) -> NDArray[Any]:
    """(n, 4) int XYXY boxes of `image`, distinct, in a fixed order."""
    searcher = _segmentation_module().createSelectiveSearchSegmentation()
    searcher.setBaseImage(image)
    if mode == "fast":
        searcher.switchToSelectiveSearchFast()
    else:
        searcher.switchToSelectiveSearchQuality()
    boxes: NDArray[Any] = np.asarray(searcher.process(), dtype=np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.unique(boxes, axis=0)  # also sorts them
    # RandomState: NumPy guarantees that its stream never changes.
    return boxes[np.random.RandomState(_ORDER_SEED).permutation(len(boxes))]


def _segmentation_module() -> Any:
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError):
        raise ImportError(
            "Selective Search needs OpenCV's contrib build: pip uninstall opencv-python "
            'opencv-python-headless, then pip install "ohem_d2[proposals]" (opencv-contrib-python); '
            "these builds overwrite each other, so only one of them can be installed"
        ) from None


def _num_cores() -> int:
    """Number of cores this process may use; taskset or a batch system may limit it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_options(mode: str, scale: float, min_size: float, max_side: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it must be a positive number")
    if not (math.isfinite(min_size) and min_size >= 0):
        raise ValueError(f"min_size is {min_size}; it must be 0 or more")
    if max_side < 0:
        raise ValueError(f"max_side is {max_side}; it must be 0 or more")
