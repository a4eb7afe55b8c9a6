"""The trained detector of a config, for images that are in no data set."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from torch import nn

from ..data import build_test_mapper
from ..data.registered import category_ids, class_names, is_background
from ..evaluation import Detections, Detector, build_test_model
from ..utils.checkpoint import load_trained
from .lazy import LazyTrainer
from .lazy_config import load_lazy_config
from .trainer import OHEMTrainer
from .yaml_config import load_config

__all__ = ["load_detector"]


def load_detector(
    config_file: str,
    opts: Sequence[str],
    propose: Callable[[], Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]]],
) -> tuple[Detector, Detections]:
    """Build the model of a config as it is tested, with trained weights.

    Args:
        config_file: YAML, or a LazyConfig.
        opts: overrides, see `load_config` and `load_lazy_config`.
        propose: gives the function that computes proposals, see `Detector`; called for a model without RPN.

    Returns:
        the detector, and an empty `Detections` with the classes of the first test set.

    Raises:
        ValueError: there are no weights, or not all of the model; see also `load_config`. Its other errors,
            and those of `propose`, are passed on.
    """
    if config_file.endswith(".py"):
        cfg = load_lazy_config(config_file, opts)
        model = LazyTrainer.build_model(cfg).eval()
        load_trained(model, cfg.train.init_checkpoint, "train.init_checkpoint")
        tested, mapper = LazyTrainer.build_test_model(cfg, model), LazyTrainer.build_test_mapper(cfg)
        names = cfg.dataloader.test.dataset.names
        datasets = [names] if isinstance(names, str) else list(names)
    else:
        cfg = load_config(config_file, opts)
        model = OHEMTrainer.build_model(cfg).eval()
        load_trained(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
        tested, mapper = build_test_model(cfg, model), build_test_mapper(cfg)
        datasets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    detector = Detector(tested, mapper, None if mapper.proposal_topk is None else propose())
    return detector, _detections(model, datasets)


def _detections(model: nn.Module, datasets: Sequence[str]) -> Detections:
    """Without classes of their own, they are numbers."""
    num_classes = getattr(getattr(model, "roi_heads", model), "num_classes", 0)
    datasets = [name for name in datasets if not is_background(name)]
    names = class_names(datasets[0]) if datasets else None
    if names is None:
        return Detections([str(index) for index in range(num_classes)])
    if len(names) != num_classes:
        raise ValueError(f"data set {datasets[0]!r} has {len(names)} classes, the model {num_classes}")
    numeric_ids = MetadataCatalog.get(datasets[0]).get("json_file") is not None
    return Detections(names, category_ids(datasets[0]), numeric_ids)
