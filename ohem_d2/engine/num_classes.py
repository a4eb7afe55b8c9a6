"""The number of classes of the model, which is that of its data sets."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet
from omegaconf import DictConfig, OmegaConf

from ..data.registered import class_names, is_background, require_registered
from ..utils.messages import brief, name_some

logger = logging.getLogger(__name__)

_SECTIONS = {GeneralizedRCNN: "ROI_HEADS", RetinaNet: "RETINANET"}
_UNSET = -1
# Of a LazyConfig: an R-CNN's RoI heads have the number; of a RetinaNet, the model itself.
_LAZY_SECTIONS = ("model.roi_heads", "model")


def unset_num_classes(cfg: CfgNode) -> None:
    """Mark the numbers of classes in a config of defaults as not set by any file or option (in place)."""
    for section in _SECTIONS.values():
        cfg.MODEL[section].NUM_CLASSES = _UNSET


def fit_num_classes(cfg: CfgNode) -> None:
    """Take a number of classes that is not set from the data sets (in place), and check one that is.

    Data sets whose classes are not known before they are loaded are left out. Where all are, Detectron2's
    default stays.

    Raises:
        ValueError: a data set is not registered, or has another number of classes than the model; or there is
            nothing to train on but background.
    """
    for key in ("TRAIN", "TEST"):
        names = cfg.DATASETS[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"DATASETS.{key} is {brief(names)}; valid: a list of names")
    classes = _classes_of([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    _require_labelled("DATASETS.TRAIN", cfg.DATASETS.TRAIN)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    for base, section in _SECTIONS.items():
        node, default = cfg.MODEL[section], get_cfg().MODEL[section].NUM_CLASSES
        num = None if node.NUM_CLASSES == _UNSET else node.NUM_CLASSES
        if isinstance(model, type) and issubclass(model, base):
            num = _fitted(f"MODEL.{section}.NUM_CLASSES", num, classes)
        node.NUM_CLASSES = default if num is None else num


def fit_lazy_num_classes(cfg: DictConfig) -> None:
    """As `fit_num_classes`, of a LazyConfig, in which a number is not set if it is ``"???"``.

    The data sets are ``dataset.names`` of ``dataloader.train`` and ``dataloader.test``; where there are none,
    nothing is checked.

    Raises:
        ValueError: see `fit_num_classes`; or a number is not set, and no data set tells it.
    """
    classes = _classes_of([name for part in ("train", "test") for name in _lazy_names(cfg, part)])
    _require_labelled("dataloader.train.dataset.names", _lazy_names(cfg, "train"))
    for section in _LAZY_SECTIONS:
        node, key = OmegaConf.select(cfg, section), f"{section}.num_classes"
        if not OmegaConf.is_dict(node) or "num_classes" not in node.keys():  # noqa: SIM118 (or "???" is left out)
            continue
        num = None if OmegaConf.is_missing(node, "num_classes") else node.num_classes
        node.num_classes = _fitted(key, num, classes)
        if node.num_classes is None:
            raise ValueError(f"{key} is '???', and no data set of the config tells it")


def _classes_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Data set -> its classes, of those that tell them before they are loaded."""
    for name in names:
        require_registered(name)
    return {name: known for name in dict.fromkeys(names) if (known := class_names(name))}


def _require_labelled(key: str, names: Sequence[str]) -> None:
    if names and all(map(is_background, names)):
        raise ValueError(f"{key} is background alone, {name_some(names)}; name the labelled data sets too")


def _lazy_names(cfg: DictConfig, part: str) -> list[str]:
    names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names", default=[])
    return [names] if isinstance(names, str) else list(names)


def _fitted(key: str, num: int | None, classes: dict[str, list[str]]) -> int | None:
    """`num`, or if it is None that of the data sets, which is None if none tells its classes."""
    if num is None and classes:
        name, known = next(iter(classes.items()))
        num = len(known)
        logger.info("%s is not set: %d, as of data set %r: %s", key, num, name, name_some(known, 20))
    for name, known in classes.items():
        if len(known) != num:
            raise ValueError(
                f"{key} is {num}, but data set {name!r} has {len(known)} classes: {name_some(known, 20)}"
            )
    return num
