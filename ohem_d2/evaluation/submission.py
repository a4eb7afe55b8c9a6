"""Submission files for the evaluation servers of PASCAL VOC and COCO, written and checked."""

import io
import json
import logging
import math
import os
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..utils.files import atomic_file
from ..utils.messages import brief

__all__ = ["COCOSubmission", "VOCSubmission", "check_coco_submission", "check_voc_submission"]

logger = logging.getLogger(__name__)

# The name of the VOC competition in which external training data (ImageNet) is allowed.
COMPETITION = "comp4"
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_VOC_LINE = re.compile(rf"(\S+) {' '.join([_NUMBER] * 5)}")
_COCO_KEYS = {"image_id", "category_id", "bbox", "score"}

# (image id, class index, score, (x1, y1, x2, y2) in Detectron2's XYXY_ABS)
Detection = tuple[Any, int, float, Sequence[float]]
Sizes = Mapping[Any, tuple[int, int]]  # image id -> (width, height)


class Submission(DatasetEvaluator):
    """Gathers the detections of all processes; the main one writes them to a file and checks it."""

    def __init__(self, dataset_name: str, path: str):
        """Load the data set.

        Args:
            dataset_name: a registered data set.
            path: file to write.
        """
        records = DatasetCatalog.get(dataset_name)
        self._sizes: Sizes = {record["image_id"]: (record["width"], record["height"]) for record in records}
        self._classes = MetadataCatalog.get(dataset_name).thing_classes
        self.path = path

    def reset(self) -> None:
        self._detections: list[Detection] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        for record, output in zip(inputs, outputs):
            found = output["instances"].to("cpu")
            columns = (found.pred_classes.tolist(), found.scores.tolist(), found.pred_boxes.tensor.tolist())
            self._detections += [(record["image_id"], *detection) for detection in zip(*columns)]

    def evaluate(self) -> "OrderedDict[str, dict]":
        """Write the file, whose path is logged; the results are empty.

        Raises:
            ValueError: the server would refuse the file; it is not written then.
        """
        gathered = comm.gather(self._detections)
        if comm.is_main_process():
            detections = [detection for of_process in gathered for detection in of_process]
            try:
                self._require_classes(detections)
                with atomic_file(self.path) as file:
                    self.write(file, detections)
                    file.seek(0)
                    self.check(file)
            except ValueError as error:
                raise ValueError(f"{self.path} is not written: {error}") from None
            logger.info("%d detections to submit, in %s", len(detections), self.path)
        return OrderedDict()

    def _require_classes(self, detections: Sequence[Detection]) -> None:
        highest, number = max((index for _, index, *_ in detections), default=0), len(self._classes)
        if highest >= number:
            raise ValueError(f"the model predicts class {highest}; the data set has {number} classes")

    def write(self, file: BinaryIO, detections: Sequence[Detection]) -> None:
        raise NotImplementedError

    def check(self, file: BinaryIO) -> None:
        raise NotImplementedError


class VOCSubmission(Submission):
    """A tar of ``results/VOC2012/Main/comp4_det_test_CLASS.txt``, one line per detection: id, score, box.

    Boxes are in VOC's 1-based inclusive pixels, x1 + 1, y1 + 1, x2, y2, as in Detectron2's evaluator. A side
    shorter than a pixel becomes one pixel.
    """

    def __init__(self, dataset_name: str, folder: str):
        """Name the files.

        Args:
            dataset_name: a data set in VOC layout.
            folder: of the file, ``comp4_det_test.tar``.
        """
        metadata = MetadataCatalog.get(dataset_name)
        stem = f"{COMPETITION}_det_{metadata.split}"
        super().__init__(dataset_name, os.path.join(folder, f"{stem}.tar"))
        self._members = [f"results/VOC{metadata.year}/Main/{stem}_{name}.txt" for name in self._classes]

    def write(self, file: BinaryIO, detections: Sequence[Detection]) -> None:
        lines: list[list[str]] = [[] for _ in self._members]
        for image_id, index, score, (x1, y1, x2, y2) in detections:
            x2, y2 = max(x2, 1), max(y2, 1)
            x1, y1 = min(x1 + 1, x2), min(y1 + 1, y2)
            lines[index].append(f"{image_id} {score:.6f} {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}\n")
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, of_class in zip(self._members, lines):
                content = "".join(of_class).encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def check(self, file: BinaryIO) -> None:
        check_voc_submission(file, self._members, self._sizes)


def check_voc_submission(file: BinaryIO, members: Sequence[str], sizes: Sizes) -> None:
    """Check a tar for VOC's server.

    Args:
        file: the tar.
        members: names of the files that it must contain, one per class.
        sizes: of the images of the split.

    Raises:
        ValueError: a missing or unexpected file, or a line that is not a valid detection; the message has
            file, line and fault.
    """
    with tarfile.open(fileobj=file) as archive:
        names = archive.getnames()
        _require_same(names, members)
        for name in names:
            for number, line in enumerate(archive.extractfile(name).read().decode().splitlines(), start=1):
                try:
                    _check_voc_line(line, sizes)
                except ValueError as error:
                    raise ValueError(f"{name}, line {number}: {error}") from None


def _require_same(names: Sequence[str], wanted: Sequence[str]) -> None:
    if sorted(names) != sorted(wanted):
        missing, others = [n for n in wanted if n not in names], [n for n in names if n not in wanted]
        unwanted = f"{(others or names)[0]} is not asked for or comes twice"
        problem = f"{missing[0]} is missing" if missing else unwanted
        raise ValueError(f"{problem}; {len(wanted)} files are asked for, found {len(names)}")


def _check_voc_line(line: str, sizes: Sizes) -> None:
    match = _VOC_LINE.fullmatch(line)
    if not match:
        raise ValueError(f"{line!r} is not an image id, a score and four coordinates, with decimals at most")
    width, height = _size(match.group(1), sizes)
    x1, y1, x2, y2 = map(float, match.groups()[2:])
    if not (1 <= x1 <= x2 <= width and 1 <= y1 <= y2 <= height):
        raise ValueError(f"{line!r} is no box within the pixels 1 to {width} and 1 to {height} of its image")


class COCOSubmission(Submission):
    """A zip of ``detections_TESTSET_ALG_results.json``: a list of detections with the ids of COCO.

    TESTSET is the name of the image list without ``image_info_``, such as test-dev2015. Coordinates are
    rounded to the tenth of a pixel, as COCO advises.
    """

    def __init__(self, dataset_name: str, folder: str, algorithm: str):
        """Name the files and look up the category ids.

        Args:
            dataset_name: a data set in COCO layout.
            folder: of the file, ``detections_TESTSET_ALG_results.zip``.
            algorithm: ALG; each run of other characters than letters, digits and dots becomes "-".
        """
        test_set = Path(MetadataCatalog.get(dataset_name).json_file).stem.removeprefix("image_info_")
        stem = f"detections_{test_set}_{re.sub(r'[^A-Za-z0-9.]+', '-', algorithm)}_results"
        super().__init__(dataset_name, os.path.join(folder, f"{stem}.zip"))
        ids = MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id
        self._category_ids = {index: category_id for category_id, index in ids.items()}
        self._member = f"{stem}.json"

    def write(self, file: BinaryIO, detections: Sequence[Detection]) -> None:
        content = json.dumps(list(self._results(detections)), separators=(",", ":"))
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(self._member, content)

    def _results(self, detections: Sequence[Detection]) -> Iterator[dict[str, Any]]:
        for image_id, index, score, box in detections:
            x1, y1, x2, y2 = (round(corner, 1) for corner in box)
            yield {
                "image_id": image_id,
                "category_id": self._category_ids[index],
                "bbox": [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)],
                "score": round(score, 6),
            }

    def check(self, file: BinaryIO) -> None:
        check_coco_submission(file, self._member, self._category_ids.values(), self._sizes)


def check_coco_submission(file: BinaryIO, member: str, category_ids: Sequence[int], sizes: Sizes) -> None:
    """Check a zip for COCO's server.

    Args:
        file: the zip.
        member: name of the only file that it must contain.
        category_ids: those of COCO.
        sizes: of the images of the test set.

    Raises:
        ValueError: another file, not a list of detections, an empty list (which COCO cannot read), or an
            invalid detection; the message has its index in the list and the fault.
    """
    with zipfile.ZipFile(file) as archive:
        _require_same(archive.namelist(), [member])
        results = json.loads(archive.read(member))
    if not isinstance(results, list) or not results:
        raise ValueError(f"{member} must hold a list of detections, at least one; found {brief(results)}")
    categories = set(category_ids)
    for number, result in enumerate(results):
        try:
            _check_coco_result(result, categories, sizes)
        except ValueError as error:
            raise ValueError(f"{member}, entry {number}: {error}") from None


def _check_coco_result(result: Any, categories: set, sizes: Sizes) -> None:
    if not isinstance(result, dict) or set(result) != _COCO_KEYS:
        raise ValueError(f"{brief(result)} does not have the keys {', '.join(sorted(_COCO_KEYS))} alone")
    width, height = _size(result["image_id"], sizes)
    if type(result["category_id"]) is not int or result["category_id"] not in categories:
        raise ValueError(f"category_id {brief(result['category_id'])} is none of the data set's")
    box = result["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, [*box, result["score"]]))):
        raise ValueError(f"{brief(result)} needs a bbox of four finite numbers and a finite score")
    x, y, w, h = box
    if min(box) < 0 or x + w > width + 1e-6 or y + h > height + 1e-6:
        raise ValueError(f"bbox {box} is not within the {width} x {height} pixels of its image")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _size(image_id: Any, sizes: Sizes) -> tuple[int, int]:
    if type(image_id) not in (int, str) or image_id not in sizes:
        raise ValueError(f"image id {brief(image_id)} is none of the test set's")
    return sizes[image_id]
