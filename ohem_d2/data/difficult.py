"""Training without the objects that VOC marks as difficult, as the authors did."""

import logging
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import DatasetOptions
from .voc import load_voc

__all__ = ["training_config", "without_difficult"]

logger = logging.getLogger(__name__)

_SUFFIX = "_without_difficult"


@dataclass(frozen=True)
class _WithoutDifficult:
    """Loads a VOC split from its files, since Detectron2's own loader does not keep the mark."""

    name: str
    root: str
    split: str
    classes: tuple[str, ...]

    def __call__(self) -> list[dict[str, Any]]:
        dicts, dropped = load_voc(self.root, self.split, self.classes), 0
        for record in dicts:
            kept = [annotation for annotation in record["annotations"] if not annotation["difficult"]]
            dropped += len(record["annotations"]) - len(kept)
            record["annotations"] = kept
        logger.info("%s: %d difficult objects dropped", self.name, dropped)
        return dicts


def training_config(cfg: CfgNode) -> CfgNode:
    """The config that training sets are loaded by.

    With ``DATASETS.VOC_DIFFICULT`` "drop" it is a copy, whose ``DATASETS.TRAIN`` has the names that
    `without_difficult` registers.

    Raises:
        ValueError: an invalid value in the section ``DATASETS``.
    """
    if DatasetOptions.from_config(cfg).voc_difficult == "keep":
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = tuple(without_difficult(name) for name in cfg.DATASETS.TRAIN)
    return cfg


def without_difficult(name: str) -> str:
    """Register a copy of a data set without its difficult objects, and return the name of the copy.

    For any data set in VOC layout: its metadata have ``dirname``, ``split``, ``year`` and ``thing_classes``,
    which Detectron2's evaluator needs as well. For another layout the name is returned unchanged. An image
    with only difficult objects becomes one without objects.

    Raises:
        KeyError: no such data set.
    """
    if name not in DatasetCatalog:
        raise KeyError(f"data set {name!r} is not registered; choose from {', '.join(DatasetCatalog.list())}")
    metadata = MetadataCatalog.get(name).as_dict()
    if not {"dirname", "split", "year", "thing_classes"} <= set(metadata):
        return name
    derived = name + _SUFFIX
    if derived in DatasetCatalog:  # from an earlier call; the data set may have been registered anew since
        DatasetCatalog.remove(derived)
        MetadataCatalog.remove(derived)
    loader = _WithoutDifficult(name, metadata["dirname"], metadata["split"], tuple(metadata["thing_classes"]))
    DatasetCatalog.register(derived, loader)
    MetadataCatalog.get(derived).set(**{key: value for key, value in metadata.items() if key != "name"})
    return derived
