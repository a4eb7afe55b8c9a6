"""Training from Detectron2's Python configs (LazyConfig)."""

import weakref
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from ..config import DataLoaderOptions
from ..data import ResumableLoader
from ..data.dataset_dicts import load_dataset_dicts
from ..data.loaders import one_by_one, spread_evenly
from ..data.registered import first_class_names
from ..data.workers import WatchedLoader, worker_errors_explained
from ..evaluation import RCNNWithTTA
from ..evaluation.predictions import thresholds
from ..modeling import OHEMMixin
from ..utils.checkpoint import CheckedCheckpointer, load_trained
from .accumulation import build_inner_trainer
from .base_trainer import BaseTrainer
from .batches import TrainingBatches
from .hooks import AllRoILoss
from .lazy_config import build, build_node, read_options
from .mined_log import MinedLog, has_mined_log
from .mined_pictures import NUM_IMAGES, MinedPictures
from .mining_log import MiningPrinter
from .preemption import ResumableEvalHook, StopOnSignal
from .progress_bar import ProgressBar
from .writers import PatientWriter


def _resumable_loader(dataset: Any, **kwargs: Any) -> Iterable:
    """`ResumableLoader` where the data set has an index, else Detectron2's loader."""
    if isinstance(dataset, IterableDataset):
        return build_detection_train_loader(dataset, **kwargs)
    return ResumableLoader(dataset, **kwargs)


def _replace_target(node: Any, target: Callable, replacement: Callable) -> None:
    """Let a node that calls `target` call `replacement` (in place)."""
    found = node.get("_target_") if isinstance(node, DictConfig) else None
    if (locate(found) if isinstance(found, str) else found) is target:
        node._target_ = replacement


def _test_loader_node(cfg: DictConfig) -> DictConfig:
    """``dataloader.test``, without resizing where each scale of the test resizes the images."""
    if not read_options(cfg, "test.aug").enabled:
        return cfg.dataloader.test
    node = deepcopy(cfg.dataloader.test)
    node.mapper.augmentations = []
    return node


def _build_test_loader(cfg: DictConfig) -> Iterable[list[dict]]:
    """``dataloader.test``, with the timeout of ``dataloader.train``."""
    loader = build_node(_test_loader_node(cfg), "dataloader.test")
    if type(loader) is not DataLoader or loader.batch_sampler is None:
        return loader
    return WatchedLoader.of(loader, cfg.dataloader.train.get("timeout", DataLoaderOptions.timeout))


def _build_labelled_loader(cfg: DictConfig, num_images: int) -> Iterable[list[dict]]:
    """Training images with their annotations, evenly spread, resized as in testing."""
    mapper = deepcopy(cfg.dataloader.train.mapper)
    mapper.augmentations = deepcopy(cfg.dataloader.test.mapper.augmentations)
    chosen = spread_evenly(build(cfg, "dataloader.train.dataset"), num_images)
    mapper = build_node(mapper, "dataloader.train.mapper")
    return one_by_one(chosen, mapper)


class LazyTrainer(BaseTrainer):
    """Trains from a LazyConfig, as `OHEMTrainer` does from a YAML config."""

    def __init__(self, cfg: DictConfig):
        """Build the evaluator, as a check, then model, optimizer, loader and hooks.

        `cfg` is a config of `load_lazy_config`.

        Raises:
            ValueError: an argument of a call in the config is missing or unknown, or settings of testing that
                do not apply to the model. Errors of the objects that are built are passed on.
        """
        super().__init__()
        self.cfg = cfg
        if "evaluator" in cfg.dataloader:
            build(cfg, "dataloader.evaluator")
        model = self.build_model(cfg)
        self.build_test_model(cfg, model)
        cfg.optimizer.params.model = model
        optimizer = build(cfg, "optimizer")
        loader = TrainingBatches(self.build_train_loader(cfg), cfg.train.seed)
        # On the CPU, DDP refuses the device that Detectron2 would pass.
        on_cpu = {} if next(model.parameters()).is_cuda else {"device_ids": None}
        self.model = create_ddp_model(model, **cfg.train.ddp, **on_cpu)
        steps = cfg.train.accumulate, cfg.train.amp.enabled
        self._trainer = build_inner_trainer(self.model, loader, optimizer, *steps)
        self.checkpointer = CheckedCheckpointer(self.model, cfg.train.output_dir, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.train.max_iter
        self.register_hooks(self.build_hooks(optimizer))

    @classmethod
    def build_model(cls, cfg: DictConfig) -> nn.Module:
        model = build(cfg, "model")
        heads = getattr(model, "roi_heads", None)
        if isinstance(heads, OHEMMixin) and heads.max_iter is None:
            heads.max_iter = cfg.train.max_iter
        return model.to(cfg.train.device)

    @classmethod
    def build_train_loader(cls, cfg: DictConfig) -> Iterable:
        """``dataloader.train``, as YAML configs have it.

        What it calls Detectron2's functions for is built as a `ResumableLoader`, of `load_dataset_dicts`.
        """
        node = cfg.dataloader.train
        _replace_target(node, build_detection_train_loader, _resumable_loader)
        _replace_target(node.get("dataset"), get_detection_dataset_dicts, load_dataset_dicts)
        return build(cfg, "dataloader.train")

    @classmethod
    def build_test_mapper(cls, cfg: DictConfig) -> DatasetMapper:
        """``dataloader.test.mapper``; at several scales it leaves images at their size."""
        return build_node(_test_loader_node(cfg).mapper, "dataloader.test.mapper")

    @classmethod
    def build_test_model(cls, cfg: DictConfig, model: nn.Module) -> nn.Module:
        """`model`, or an `RCNNWithTTA` of it if ``test`` enables ``aug``, ``box_voting`` or ``soft_nms``."""
        options = {key: read_options(cfg, f"test.{key}") for key in cfg.test}
        if not any(o.enabled for o in options.values()):
            return model
        return RCNNWithTTA(model, **options, **thresholds(model))

    @classmethod
    def build_trained_model(cls, cfg: DictConfig, resume: bool) -> nn.Module:
        """The model with the last checkpoint, if `resume` and there is one; else with the initial one."""
        model = cls.build_model(cfg)
        train = cfg.train
        load_trained(model, train.init_checkpoint, "train.init_checkpoint", train.output_dir, resume)
        return model

    def build_hooks(self, optimizer: torch.optim.Optimizer) -> list:
        train = self.cfg.train
        result = [
            ProgressBar(),
            hooks.IterationTimer(),
            hooks.LRScheduler(optimizer, build(self.cfg, "lr_multiplier")),
        ]
        if comm.is_main_process():
            result.append(hooks.PeriodicCheckpointer(self.checkpointer, **train.checkpointer))
        stop = StopOnSignal(self.checkpointer)
        evaluate = ResumableEvalHook(train.eval_period, lambda: self.test(self.cfg, self.model), stop)
        result += [*self._build_observers(), evaluate, stop]  # the last two may end the run
        if has_mined_log(self.model):
            result.insert(0, MinedLog(Path(train.output_dir, "mined")))
        if comm.is_main_process():
            writers = [*map(PatientWriter, default_writers(train.output_dir, train.max_iter))]
            writers.append(MiningPrinter(self.model))
            result.append(hooks.PeriodicWriter(writers, train.log_period))
        return result

    def _build_observers(self) -> list[hooks.HookBase]:
        """Hooks that look at training images every so many iterations, if the config wants them."""
        roi_loss, observers = read_options(self.cfg, "train.roi_loss"), []
        if roi_loss.period > 0:
            observers.append(AllRoILoss(roi_loss.period, self._build_roi_loss_loader))
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        options = getattr(getattr(model, "roi_heads", None), "ohem", None)
        if options is not None and options.vis_period > 0:
            names = self.cfg.dataloader.train.dataset.get("names", ())
            known = first_class_names([names] if isinstance(names, str) else names)
            build_loader = partial(_build_labelled_loader, self.cfg, NUM_IMAGES)
            observers.append(MinedPictures(options, known, build_loader))
        return observers

    def _build_roi_loss_loader(self) -> Iterable[list[dict]]:
        return _build_labelled_loader(self.cfg, read_options(self.cfg, "train.roi_loss").num_images)

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
        model, evaluator = cls.build_test_model(cfg, model), build(cfg, "dataloader.evaluator")
        with worker_errors_explained():
            results = inference_on_dataset(model, _build_test_loader(cfg), evaluator)
        if comm.is_main_process():
            print_csv_format(results)
        return results
