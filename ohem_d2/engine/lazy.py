"""Training from Detectron2's Python configs (LazyConfig).

A config has the keys of Detectron2's ``tools/lazyconfig_train_net.py``: ``model``, ``optimizer``,
``lr_multiplier``, ``dataloader.train``, ``train`` (see ``common/train.py`` of the model zoo) and, to
evaluate, ``dataloader.test`` and ``dataloader.evaluator``. Two keys are added: ``train.seed`` (default -1:
none) and ``dataloader.catalogs`` (YAML catalogues of data sets to register).
"""

import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.utils.data import IterableDataset

from ..data import ResumableLoader, register_catalog
from ..utils.checkpoint import CheckedCheckpointer
from .base_trainer import BaseTrainer
from .batches import TrainingBatches
from .mining_log import MiningPrinter
from .preemption import ResumableEvalHook, StopOnSignal
from .yaml_config import check_writable

_REQUIRED = [
    *("model", "optimizer", "lr_multiplier", "dataloader.train"),
    *(
        "train." + key
        for key in ("output_dir", "init_checkpoint", "max_iter", "device", "eval_period", "log_period")
    ),
    *("train.checkpointer", "train.amp.enabled", "train.ddp"),
]


def load_lazy_config(config_file: str, opts: Sequence[str] = ()) -> DictConfig:
    """Read a Python config and overrides, register its catalogues and check its keys and values.

    Without CUDA the device becomes the CPU. The output folder is created.

    Args:
        config_file: path that ends in ``.py``.
        opts: ``KEY=VALUE``, as on the command line; ``+KEY=VALUE`` adds a key.

    Raises:
        FileNotFoundError: no such config.
        KeyError: a key is missing or unknown.
        ValueError: an override without a value or with a bad one, or a bad catalogue.
        OSError: the output folder cannot be written.
    """
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"config file {config_file} does not exist")
    cfg = LazyConfig.load(config_file)
    missing = [key for key in _REQUIRED if OmegaConf.select(cfg, key) is None]
    if missing:
        raise KeyError(f"{config_file}: there is no {missing[0]}; needed: {', '.join(_REQUIRED)}")
    cfg.train.setdefault("seed", -1)
    cfg.dataloader.setdefault("catalogs", [])
    _override(cfg, opts)
    if cfg.train.device.startswith("cuda") and not torch.cuda.is_available():
        cfg.train.device = "cpu"
    for catalog in cfg.dataloader.catalogs:
        register_catalog(catalog)
    check_writable("train.output_dir", cfg.train.output_dir)
    return cfg


def _override(cfg: DictConfig, opts: Sequence[str]) -> None:
    for opt in opts:
        key, equals, _ = opt.partition("=")
        if not equals:
            raise ValueError(f"command line: {opt!r} has no value; valid with a .py config: KEY=VALUE")
        if not key.startswith("+"):
            _check_key(cfg, key)
        try:
            LazyConfig.apply_overrides(cfg, [opt])
        except (ValueError, NotImplementedError, OmegaConfBaseException, HydraException) as error:
            raise ValueError(f"command line: {opt!r}: {str(error).splitlines()[0]}") from None


def _check_key(cfg: DictConfig, key: str) -> None:
    """Raise KeyError for a key that nothing reads; arguments of a call are checked when it is made."""
    section, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, section) if section else cfg
    if not OmegaConf.is_config(node):
        raise KeyError(f"command line: unknown key {key}: there is no section {section}")
    if OmegaConf.is_dict(node) and "_target_" not in node and name not in node:
        raise KeyError(
            f"command line: unknown key {key}; valid: {', '.join(map(str, node))}; +{key}=... adds it"
        )


def _build(cfg: DictConfig, key: str) -> Any:
    """Instantiate the object that the config describes under `key`.

    Raises:
        ValueError: an argument is missing or unknown.
    """
    try:
        return instantiate(OmegaConf.select(cfg, key))
    except TypeError as error:
        raise ValueError(f"{key} cannot be built: {error}") from error


def _resumable_loader(dataset: Any, **kwargs: Any) -> Iterable:
    """`ResumableLoader` where the data set has an index, else Detectron2's loader."""
    if isinstance(dataset, IterableDataset):
        return build_detection_train_loader(dataset, **kwargs)
    return ResumableLoader(dataset, **kwargs)


class LazyTrainer(BaseTrainer):
    """Trains from a LazyConfig, as `OHEMTrainer` does from a YAML config."""

    def __init__(self, cfg: DictConfig):
        """Build model, optimizer, loader and hooks from the config of `load_lazy_config`.

        Raises:
            ValueError: an argument of a call in the config is missing or unknown. Errors of the objects that
                are built are passed on.
        """
        super().__init__()
        self.cfg = cfg
        model = self.build_model(cfg)
        cfg.optimizer.params.model = model
        optimizer = _build(cfg, "optimizer")
        loader = TrainingBatches(self.build_train_loader(cfg), cfg.train.seed)
        # On the CPU, DDP refuses the device that Detectron2 would pass.
        on_cpu = {} if next(model.parameters()).is_cuda else {"device_ids": None}
        self.model = create_ddp_model(model, **cfg.train.ddp, **on_cpu)
        self._trainer = (AMPTrainer if cfg.train.amp.enabled else SimpleTrainer)(
            self.model, loader, optimizer
        )
        self.checkpointer = CheckedCheckpointer(self.model, cfg.train.output_dir, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.train.max_iter
        self.register_hooks(self.build_hooks(optimizer))

    @classmethod
    def build_model(cls, cfg: DictConfig) -> nn.Module:
        return _build(cfg, "model").to(cfg.train.device)

    @classmethod
    def build_train_loader(cls, cfg: DictConfig) -> Iterable:
        """``dataloader.train``; what it calls Detectron2's loader for is built as a `ResumableLoader`."""
        target = cfg.dataloader.train.get("_target_")
        if (locate(target) if isinstance(target, str) else target) is build_detection_train_loader:
            cfg.dataloader.train._target_ = _resumable_loader
        return _build(cfg, "dataloader.train")

    @classmethod
    def build_test_mapper(cls, cfg: DictConfig) -> DatasetMapper:
        """``dataloader.test.mapper``."""
        return _build(cfg, "dataloader.test.mapper")

    @classmethod
    def build_trained_model(cls, cfg: DictConfig, resume: bool) -> nn.Module:
        """The model with the last checkpoint, if `resume` and there is one; else with the initial one."""
        model = cls.build_model(cfg)
        checkpointer = CheckedCheckpointer(model, save_dir=cfg.train.output_dir)
        checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
        return model

    def build_hooks(self, optimizer: torch.optim.Optimizer) -> list:
        train = self.cfg.train
        result = [
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, _build(self.cfg, "lr_multiplier")),
        ]
        if comm.is_main_process():
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, **train.checkpointer))
        stop = StopOnSignal(self.checkpointer)
        evaluate = ResumableEvalHook(train.eval_period, lambda: self.test(self.cfg, self.model), stop)
        result += [evaluate, stop]
        if comm.is_main_process():
            writers = [*default_writers(train.output_dir, train.max_iter), MiningPrinter(self.model)]
            result.append(hooks.PeriodicWriter(writers, train.log_period))
        return result

    @property
    def _initial_weights(self) -> str:
        return self.cfg.train.init_checkpoint

    def train(self) -> None:
        super().train(self.start_iter, self.max_iter)

    @classmethod
    def test(cls, cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
        """Results of ``dataloader.evaluator`` on ``dataloader.test``; none without an evaluator."""
        if "evaluator" not in cfg.dataloader:
            return {}
        results = inference_on_dataset(
            model, _build(cfg, "dataloader.test"), _build(cfg, "dataloader.evaluator")
        )
        if comm.is_main_process():
            print_csv_format(results)
        return results
