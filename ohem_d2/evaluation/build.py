"""Building the evaluator of a data set."""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from ..config import TestOptions
from ..data.registered import is_background, require_images
from .coco_evaluation import COCOEvaluator
from .report import ReportedEvaluators
from .submission import COCOSubmission, VOCSubmission
from .voc_evaluation import VOCEvaluator

_VOC_YEARS = {"voc07": 2007, "voc12": 2012}


def _from_config(cfg: CfgNode, dataset_name: str) -> dict:
    names = TestOptions.from_config(cfg).evaluators
    return {"dataset_name": dataset_name, "output_dir": cfg.OUTPUT_DIR, "evaluators": names}


@configurable(from_config=_from_config)
def build_evaluator(dataset_name: str, output_dir: str, evaluators: Sequence[str] = ()) -> DatasetEvaluator:
    """Build the evaluators of a data set; ``build_evaluator(cfg, dataset_name)`` with a config.

    For a data set without annotations, the evaluator writes the submission file for its server.

    Args:
        dataset_name: a registered data set.
        output_dir: of the run; all files go to ``inference/DATASET`` in it.
        evaluators: as ``TEST.EVALUATORS``; empty: that of the data set's type.

    Raises:
        ValueError: an unknown ``evaluator_type`` or evaluator, an evaluator that cannot read the data set,
            invalid annotations, or a data set of background.
        FileNotFoundError: annotations do not exist.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if is_background(dataset_name):
        raise ValueError(f"data set {dataset_name!r} is background without annotations: only to train on")
    folder = os.path.join(output_dir, "inference", dataset_name)
    if not metadata.get("has_annotations", True):
        return VOCSubmission(dataset_name, folder)
    names = _evaluator_names(TestOptions(evaluators=tuple(evaluators)), dataset_name)
    built: list[DatasetEvaluator] = []
    if "coco" in names:
        coco = COCOEvaluator(dataset_name, folder)
        if not coco.labelled:
            return COCOSubmission(dataset_name, folder, Path(output_dir).resolve().name)
        built.append(coco)
    years = {name: _VOC_YEARS[name] for name in names if name in _VOC_YEARS}
    if years:
        years = years if len(names) > 1 else {"bbox": years[names[0]]}
        built.insert(0, VOCEvaluator(dataset_name, years, folder))
    return ReportedEvaluators(built, folder)


def _evaluator_names(options: TestOptions, dataset_name: str) -> list[str]:
    if options.evaluators:
        return list(dict.fromkeys(options.evaluators))
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in ("pascal_voc", "coco"):
        raise ValueError(f"data set {dataset_name!r} has evaluator_type {kind!r}; valid: pascal_voc, coco")
    return ["coco" if kind == "coco" else "voc07" if metadata.year == 2007 else "voc12"]


def check_evaluation(cfg) -> None:
    """Check before training that the test sets can be evaluated; building an evaluator reads the annotations.

    Raises:
        ValueError: see `build_evaluator`, or a data set without images; names the data set or the file.
        FileNotFoundError: see `build_evaluator`; names the file.
    """
    for name in cfg.DATASETS.TEST:
        require_images(name)
        build_evaluator(cfg, name)
