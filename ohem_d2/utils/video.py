"""Videos, read and written by OpenCV, which nothing else here needs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SUFFIXES", "check_video_support", "frame_rate", "open_video", "read_video"]

SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"))


class _Writer:
    """Encodes frames of the size of the first one."""

    def __init__(self, path: str, rate: float):
        self._path, self._rate, self._writer = path, rate, None

    def write(self, image: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB; OSError if this OpenCV cannot encode MP4."""
        cv2 = check_video_support()
        if self._writer is None:
            size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(self._path, cv2.VideoWriter_fourcc(*"mp4v"), self._rate, size)
            if not self._writer.isOpened():
                raise OSError("this build of OpenCV cannot write MP4 videos")
        self._writer.write(np.ascontiguousarray(image[:, :, ::-1]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def check_video_support() -> Any:
    """The module ``cv2``; ImportError if there is none."""
    try:
        import cv2
    except ImportError:
        raise ImportError('video needs OpenCV: pip install "ohem_d2[opencv]"') from None
    return cv2


def frame_rate(path: str | Path) -> float:
    """Frames per second as the file says; 25 if it does not."""
    with _opened(path) as capture:
        return capture.get(check_video_support().CAP_PROP_FPS) or 25.0


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video, each (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the file cannot be read as a video.
        ImportError: there is no OpenCV.
    """
    with _opened(path) as capture:
        ok, frame = capture.read()
        if not ok:
            raise ValueError(f"{path} cannot be read as a video")
        while ok:
            yield np.ascontiguousarray(frame[:, :, ::-1])
            ok, frame = capture.read()


@contextmanager
def open_video(path: str | Path, rate: float) -> Iterator[_Writer]:
    """A block that writes an MP4 video of `rate` frames a second; it is there when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".video_", dir=path.parent) as folder:
        unfinished = os.path.join(folder, "video.mp4")
        writer = _Writer(unfinished, rate)
        try:
            yield writer
        finally:
            writer.close()
        if os.path.exists(unfinished):
            os.replace(unfinished, path)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    capture = check_video_support().VideoCapture(str(path))
    try:
        yield capture
    finally:
        capture.release()
