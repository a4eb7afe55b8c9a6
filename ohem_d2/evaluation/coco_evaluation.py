"""AP of COCO, on data sets in COCO layout and in VOC layout."""

import io
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import COCOEvaluator as _COCOEvaluator

from .run_detections import read_records

__all__ = ["COCOEvaluator"]

_IMAGE_KEYS = ("width", "height", "file_name")


class COCOEvaluator(_COCOEvaluator):
    """Detectron2's `COCOEvaluator`, which converts a data set in another layout to COCO's each time.

    Detectron2 caches the converted file, and reads it even after the data set has changed.

    Difficult objects of VOC are ignored, neither found nor missed, in every range of areas; Detectron2's own
    conversion counts them as any other object. COCO ignores an object whose area is out of range, so they get
    area -1. Unlike in VOC, such an object excuses one detection, matched at the usual IoU, not any number.
    (``iscrowd`` would excuse any number, but by intersection over the area of the detection; COCO overwrites
    an ``ignore`` in the file.)
    """

    def __init__(self, dataset_name: str, output_dir: str):
        """Convert the data set if it is not in COCO layout.

        Args:
            dataset_name: a data set in COCO or VOC layout, or one in Detectron2's standard format.
            output_dir: folder for the detections.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if hasattr(metadata, "json_file"):
            super().__init__(dataset_name, output_dir=output_dir)
            self._complete_annotations()
            return
        with tempfile.TemporaryDirectory(prefix="coco_") as folder:
            metadata.json_file = os.path.join(folder, "converted.json")
            try:
                with open(metadata.json_file, "w") as file:
                    json.dump(_as_coco(dataset_name), file)
                super().__init__(dataset_name, output_dir=output_dir)
            finally:
                del metadata.json_file  # or the next evaluator would look for it

    def _complete_annotations(self) -> None:
        """Give the annotations ids from 1 on, and ``iscrowd`` and ``area`` (of the box) where they lack it.

        COCO's evaluation takes a match with id 0 for none, and fails where one of the two keys is missing.
        """
        for number, annotation in enumerate(self._coco_api.dataset.get("annotations", ()), 1):
            annotation["id"] = number
            annotation.setdefault("iscrowd", 0)
            if "bbox" in annotation:
                annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        with redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Detectron2's results, and of each class the AP at IoU 0.5 and 0.75 as well."""
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None or iou_type == "keypoints" or not class_names or len(class_names) < 2:
            return results
        precision = coco_eval.eval["precision"][..., 0, -1]  # (IoU, recall, class)
        for threshold in (50, 75):
            (at_iou,) = precision[np.isclose(coco_eval.params.iouThrs, threshold / 100)]
            for name, of_class in zip(class_names, at_iou.T):
                ap = 100 * of_class.mean() if of_class.min() >= 0 else float("nan")
                results[f"AP{threshold}-{name}"] = float(ap)
        return results

    @property
    def labelled(self) -> bool:
        """Whether the data set has annotations."""
        return self._do_evaluation


def _as_coco(dataset_name: str) -> dict[str, Any]:
    """Convert a data set to COCO's JSON."""
    metadata = MetadataCatalog.get(dataset_name)
    if not hasattr(metadata, "dirname"):
        return convert_to_coco_dict(dataset_name)
    records = read_records(dataset_name)
    images = [{"id": record["image_id"], **{key: record[key] for key in _IMAGE_KEYS}} for record in records]
    found = [(r["image_id"], a) for r in records for a in r["annotations"] if a["category_id"] >= 0]
    return {
        "images": images,
        "annotations": [{"id": number, **_annotation(*pair)} for number, pair in enumerate(found, start=1)],
        "categories": [{"id": index, "name": name} for index, name in enumerate(metadata.thing_classes)],
    }


def _annotation(image_id: str, found: dict[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = found["bbox"]
    return {
        "image_id": image_id,
        "category_id": found["category_id"],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": -1 if found["difficult"] else (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }
