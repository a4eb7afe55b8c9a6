"""The number of classes of the model, which is that of its data sets."""

import logging

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet

from ..data.registered import class_names, require_registered
from ..utils.messages import name_some

logger = logging.getLogger(__name__)

_SECTIONS = {GeneralizedRCNN: "ROI_HEADS", RetinaNet: "RETINANET"}
_UNSET = -1


def unset_num_classes(cfg: CfgNode) -> None:
    """Mark the numbers of classes in a config of defaults as not set by any file or option (in place)."""
    for section in _SECTIONS.values():
        cfg.MODEL[section].NUM_CLASSES = _UNSET


def fit_num_classes(cfg: CfgNode) -> None:
    """Take a number of classes that is not set from the data sets (in place), and check one that is.

    Data sets whose classes are not known before they are loaded are left out. Where all are, Detectron2's
    default stays.

    Raises:
        ValueError: a data set is not registered, or has another number of classes than the model.
    """
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    for name in names:
        require_registered(name)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    used = [key for base, key in _SECTIONS.items() if isinstance(model, type) and issubclass(model, base)]
    classes = {name: class_names(name) for name in names} if used else {}
    for section in used:
        _fit(cfg, section, {name: known for name, known in classes.items() if known})
    for section in _SECTIONS.values():
        if cfg.MODEL[section].NUM_CLASSES == _UNSET:
            cfg.MODEL[section].NUM_CLASSES = get_cfg().MODEL[section].NUM_CLASSES


def _fit(cfg: CfgNode, section: str, classes: dict[str, list[str]]) -> None:
    node, key = cfg.MODEL[section], f"MODEL.{section}.NUM_CLASSES"
    if node.NUM_CLASSES == _UNSET and classes:
        name, known = next(iter(classes.items()))
        node.NUM_CLASSES = len(known)
        logger.info("%s is not set: %d, as of data set %r: %s", key, len(known), name, name_some(known, 20))
    for name, known in classes.items():
        if len(known) != node.NUM_CLASSES:
            raise ValueError(
                f"{key} is {node.NUM_CLASSES}, but data set {name!r} has {len(known)} classes: "
                f"{name_some(known, 20)}"
            )
