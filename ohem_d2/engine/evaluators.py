"""The evaluator of a data set."""
import os
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec


def build_evaluator(cfg, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of the data set's ``evaluator_type``: "pascal_voc" or "coco".

    Raises:
        ValueError: another type.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind == "coco":
        return COCOEvaluator(dataset_name, output_dir=os.path.join(cfg.OUTPUT_DIR, "inference"))
    raise ValueError(f"data set {dataset_name!r} has evaluator_type {kind!r}; valid: pascal_voc, coco")


def check_evaluation(cfg) -> None:
    """Find out before the training whether its result can be evaluated.

    Detectron2's VOC evaluator reads the annotations itself, and asks for more than training does. What it reads
    here it keeps, so that the check costs nothing in the end.

    Raises:
        ValueError, FileNotFoundError: names the data set or the file.
    """
    for name in cfg.DATASETS.TEST:
        evaluator = build_evaluator(cfg, name)
        if isinstance(evaluator, PascalVOCDetectionEvaluator):
            with open(evaluator._image_set_path) as lines:
                for image_id in lines:
                    _read(evaluator._anno_file_template.format(image_id.strip()), evaluator._image_set_path)


def _read(file: str, split: str) -> Any:
    try:
        return parse_rec(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file}, which {split} lists, does not exist") from None
    except (AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{file}: Detectron2's VOC evaluator cannot read it ({error}); each object needs name, pose, truncated, "
            "difficult and a bndbox of integers"
        ) from None
