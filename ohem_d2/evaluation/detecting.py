"""Detection in images and videos that are in no data set, as the model is tested."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy, read_image, transform_proposals
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import BoxMode, Instances
from PIL import Image
from torch import nn

from ..utils import video
from ..utils.files import atomic_file

__all__ = ["Detections", "Detector", "Frame", "detect", "find_media", "is_video", "read_frames"]

# Of images that a folder is searched for.
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
COLUMNS = ("file_name", "frame", "class", "score", "x1", "y1", "x2", "y2")


class Frame(NamedTuple):
    """An image, or one of a video."""

    name: str  # of the file, as of `find_media`
    number: int | None  # in the video, from 0; None: an image
    image: np.ndarray  # (H, W, 3) uint8 RGB


class Detector:
    """Detects objects in arrays: resized, and with as many proposals, as the images of a test set."""

    def __init__(
        self,
        model: nn.Module,
        mapper: DatasetMapper,
        propose: Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]] | None = None,
    ):
        """Combine a model with what makes its inputs.

        Args:
            model: in eval mode, such as `build_test_model` gives.
            mapper: of the test loader, of which augmentations, image format and number of proposals are used.
            propose: from images (H, W, 3) uint8 BGR to the boxes (n, 4) float32 XYXY_ABS of each, the best
                first; it may take images ahead.

        Raises:
            ValueError: `mapper` takes proposals, and there is no `propose`.
        """
        if mapper.proposal_topk is not None and propose is None:
            raise ValueError("the model needs proposals, and nothing computes them")
        self.model, self.mapper = model, mapper
        self.propose = propose if mapper.proposal_topk is not None else None

    def proposals(self, images: Iterable[np.ndarray]) -> Iterable[np.ndarray | None]:
        """Those of each image (H, W, 3) uint8 RGB; None where the model takes none."""
        if self.propose is None:
            return (None for _ in images)
        return self.propose(np.ascontiguousarray(image[:, :, ::-1]) for image in images)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray | None] | None = None
    ) -> list[Instances]:
        """Detect in images (H, W, 3) uint8 RGB, all in one batch; boxes are XYXY_ABS in pixels of the image.

        Args:
            images: any number.
            proposals: of each image, as `proposals` gives; None: computed.

        Raises:
            ValueError: the model does not detect objects.
        """
        proposals = self.proposals(images) if proposals is None else proposals
        outputs = self.model([self._inputs(*pair) for pair in zip(images, proposals)])
        if not all("instances" in output for output in outputs):
            raise ValueError(
                f"{type(self.model).__name__} does not detect objects: no instances in its output"
            )
        return [output["instances"].to("cpu") for output in outputs]

    def _inputs(self, image: np.ndarray, boxes: np.ndarray | None) -> dict[str, Any]:
        inputs: dict[str, Any] = dict(zip(("height", "width"), image.shape))
        if boxes is not None:
            logits = -np.arange(len(boxes), dtype=np.float32)
            inputs.update(proposal_boxes=boxes, proposal_objectness_logits=logits)
            inputs["proposal_bbox_mode"] = BoxMode.XYXY_ABS
        resized = T.AugInput(convert_PIL_to_numpy(Image.fromarray(image), self.mapper.image_format))
        transforms = self.mapper.augmentations(resized)
        inputs["image"] = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        size, topk = resized.image.shape[:2], self.mapper.proposal_topk
        transform_proposals(inputs, size, transforms, proposal_topk=topk)
        return inputs


def find_media(paths: Iterable[str | Path]) -> dict[str, Path]:
    """The images and videos that `paths` name or, below folders, hold.

    Returns:
        name -> file, sorted by name in each folder; the name is relative to the folder that was given.

    Raises:
        FileNotFoundError: no such file or folder, or nothing in a folder.
        ValueError: one name for two files.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        known = IMAGE_SUFFIXES | video.SUFFIXES
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in known) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} holds no image or video: {', '.join(sorted(known))}")
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            if found.setdefault(name, file).resolve() != file.resolve():
                raise ValueError(f"{found[name]} and {file} have one name; give the folder that both are in")
    return found


def is_video(file: str | Path) -> bool:
    """Whether the suffix is that of a video."""
    return Path(file).suffix.lower() in video.SUFFIXES


def read_frames(files: Mapping[str, Path], unreadable: list[str]) -> Iterator[Frame]:
    """All images and the frames of all videos of `find_media`; what cannot be read is added to `unreadable`.

    Raises:
        ImportError: there is a video, but no OpenCV.
    """
    for name, file in files.items():
        try:
            if is_video(file):
                yield from (Frame(name, *numbered) for numbered in enumerate(video.read_video(file)))
            else:
                yield Frame(name, None, read_image(str(file), "RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            unreadable.append(str(file))


def detect(detector: Detector, frames: Iterable[Frame], batch_size: int) -> Iterator[tuple[Frame, Instances]]:
    """Detect in all frames, `batch_size` >= 1 at a time."""
    ahead, frames = tee(frames)
    proposed = zip(frames, detector.proposals(frame.image for frame in ahead))
    while batch := list(islice(proposed, batch_size)):
        of_batch, proposals = zip(*batch)
        yield from zip(of_batch, detector([frame.image for frame in of_batch], proposals))


class Detections:
    """Writes detections as results of COCO and as CSV, image by image; the memory does not grow with them."""

    def __init__(
        self,
        class_names: Sequence[str],
        category_ids: Mapping[int, int] | None = None,
        numeric_ids: bool = False,
    ):
        """Prepare; `writing` opens the files.

        Args:
            class_names: by the index of the class.
            category_ids: index of a class -> its id in the JSON; None: the index.
            numeric_ids: whether a file name of digits is a number as ``image_id``, as in COCO.
        """
        self.class_names, self._category_ids, self._numeric = class_names, category_ids, numeric_ids

    @contextmanager
    def writing(self, folder: str | Path) -> Iterator[None]:
        """A block that writes ``detections.json`` and ``detections.csv``; no file is changed if it fails."""
        paths = (Path(folder, f"detections.{suffix}") for suffix in ("json", "csv"))
        with ExitStack() as stack:
            self._json, table = (stack.enter_context(atomic_file(path)) for path in paths)
            text = io.TextIOWrapper(table, encoding="utf-8", newline="", write_through=True)
            stack.callback(text.detach)
            self._rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            self._rows.writeheader()
            self._before = b"["
            yield
            self._json.write(b"[]" if self._before == b"[" else b"]")

    def add(self, frame: Frame, found: Instances) -> None:
        """Write those of one image, in the block of `writing`."""
        where = {"file_name": frame.name, "frame": frame.number}
        for result in instances_to_coco_json(found, self._image_id(frame)):
            index = result["category_id"]
            x, y, width, height = result["bbox"]
            box = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
            self._rows.writerow(
                {**where, "class": self.class_names[index], "score": result["score"]}
                | {key: round(value, 2) for key, value in box.items()}
            )
            result["category_id"] = index if self._category_ids is None else self._category_ids[index]
            result |= {key: value for key, value in where.items() if value is not None}
            self._json.write(self._before + json.dumps(result).encode())
            self._before = b", "

    def _image_id(self, frame: Frame) -> str | int:
        stem = os.path.splitext(frame.name)[0]
        if frame.number is not None:
            return f"{stem}/{frame.number:06}"
        return int(stem) if self._numeric and stem.isdecimal() else stem
