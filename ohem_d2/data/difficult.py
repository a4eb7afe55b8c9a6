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
    """Loads a VOC split from its files: Detectron2's own loader does not keep the mark."""

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
    """The config by whose ``DATASETS.TRAIN`` the training sets are loaded: for ``DATASETS.VOC_DIFFICULT`` "drop"
    a copy with the names of :func:`without_difficult`.

    Raises:
        ValueError: another value than "keep" and "drop".
    """
    if DatasetOptions.from_config(cfg).voc_difficult == "keep":
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = tuple(without_difficult(name) for name in cfg.DATASETS.TRAIN)
    return cfg


def without_difficult(name: str) -> str:
    """Register a data set beside another one, without its difficult objects, and return its name.

    For data sets in VOC layout, whoever registered them: those whose metadata have ``dirname``, ``split``,
    ``year`` and ``thing_classes``, which Detectron2's evaluator needs as well. The name of any other is
    returned as it is. An image that has difficult objects alone is then one without objects.

    Raises:
        KeyError: no such data set.
    """
    if name not in DatasetCatalog:
        raise KeyError(f"data set {name!r} is not registered; choose from {', '.join(DatasetCatalog.list())}")
    metadata = MetadataCatalog.get(name).as_dict()
    if not {"dirname", "split", "year", "thing_classes"} <= set(metadata):
        return name
    derived = name + _SUFFIX
    if derived in DatasetCatalog:  # of an earlier call: the data set may have been registered anew since
        DatasetCatalog.remove(derived)
        MetadataCatalog.remove(derived)
    loader = _WithoutDifficult(name, metadata["dirname"], metadata["split"], tuple(metadata["thing_classes"]))
    DatasetCatalog.register(derived, loader)
    MetadataCatalog.get(derived).set(**{key: value for key, value in metadata.items() if key != "name"})
    return derived
