"""Images and videos with boxes drawn on them, as files."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.files import atomic_file
from ..utils.video import frame_rate, open_video
from .pictures import class_colours, draw_boxes

__all__ = ["AnnotatedFiles", "annotated_files", "draw_detections"]


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    scores: Sequence[float],
    class_names: Sequence[str],
) -> np.ndarray:
    """Draw boxes (n, 4) XYXY_ABS with class and score on a copy of an image (H, W, 3) uint8 RGB."""
    texts = [f"{class_names[c]} {score:.2f}" for c, score in zip(classes, scores)]
    return draw_boxes(image, boxes, class_colours(classes, len(class_names)), texts)


class AnnotatedFiles:
    """Writes images under their names, and videos as MP4; made by `annotated_files`."""

    def __init__(self, folder: str | Path, stack: ExitStack):
        self._folder, self._stack = Path(folder), stack
        self._name, self._video = "", None

    def add_image(self, name: str, image: np.ndarray) -> None:
        """Write an image in the format that the suffix of `name` says."""
        path = self._folder / name
        kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
        with atomic_file(path) as file:
            Image.fromarray(image).save(file, format=kind)

    def add_frame(self, name: str, source: str | Path, image: np.ndarray) -> None:
        """Append a frame to the video `name`, with ".mp4" if it lacks that, at the frame rate of `source`."""
        if name != self._name:
            self._stack.close()
            target = self._folder / (name if name.endswith(".mp4") else f"{name}.mp4")
            self._video = self._stack.enter_context(open_video(target, frame_rate(source)))
            self._name = name
        self._video.write(image)


@contextmanager
def annotated_files(folder: str | Path) -> Iterator[AnnotatedFiles]:
    """A block that writes images and videos below `folder`; a video is there when the next one begins."""
    with ExitStack() as stack:
        yield AnnotatedFiles(folder, stack)
