"""Registers the data sets of the paper that Detectron2 lacks, under its root ``$DETECTRON2_DATASETS``.

Detectron2 has VOC 2007 and 2012 with annotations, COCO 2014 with minival and valminusminival, and COCO 2017;
those that its version lacks are added too. Unions are made by listing several names in ``DATASETS.TRAIN``.
Each has a proposal file, ``$DETECTRON2_DATASETS/proposals/NAME.safetensors``, which need not exist.
"""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from .voc import load_voc_images

__all__ = ["register_builtin"]

VOC = {f"voc_2007_{split}": ("VOC2007", split, 2007) for split in ("train", "val", "trainval", "test")}
VOC |= {f"voc_2012_{split}": ("VOC2012", split, 2012) for split in ("train", "val", "trainval")}
# Without annotations: their results are submitted to a server.
VOC_UNLABELLED = {"voc_2012_test": ("VOC2012", "test", 2012)}
COCO = {
    "coco_2014_train": ("train2014", "instances_train2014"),
    "coco_2014_val": ("val2014", "instances_val2014"),
    "coco_2014_minival": ("val2014", "instances_minival2014"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "coco_2015_test": ("test2015", "image_info_test2015"),
    "coco_2015_test-dev": ("test2015", "image_info_test-dev2015"),
    "coco_2017_train": ("train2017", "instances_train2017"),
    "coco_2017_val": ("val2017", "instances_val2017"),
    "coco_2017_test": ("test2017", "image_info_test2017"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017"),
}


def register_builtin() -> None:
    """Register the missing data sets, and set the proposal file of those without one."""
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for name, (folder, split, year) in _missing(VOC):
        register_pascal_voc(name, os.path.join(root, folder), split, year)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    for name, (folder, split, year) in _missing(VOC_UNLABELLED):
        dirname = os.path.join(root, folder)
        DatasetCatalog.register(name, lambda dirname=dirname, split=split: load_voc_images(dirname, split))
        metadata = {"thing_classes": list(CLASS_NAMES), "dirname": dirname, "split": split, "year": year}
        MetadataCatalog.get(name).set(has_annotations=False, **metadata)
    for name, (images, annotations) in _missing(COCO):
        json_file = os.path.join(root, "coco", "annotations", f"{annotations}.json")
        image_root = os.path.join(root, "coco", images)
        register_coco_instances(name, _get_builtin_metadata("coco"), json_file, image_root)
    for name in (*VOC, *VOC_UNLABELLED, *COCO):
        metadata = MetadataCatalog.get(name)
        if metadata.get("proposal_file") is None:
            metadata.proposal_file = os.path.join(root, "proposals", f"{name}.safetensors")


def _missing(datasets: dict) -> list:
    return [(name, place) for name, place in datasets.items() if name not in DatasetCatalog]
