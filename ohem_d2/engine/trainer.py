"""The trainer for YAML configs."""

import weakref
from functools import partial
from pathlib import Path

from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import EvalHook, HookBase
from detectron2.evaluation import DatasetEvaluator

from ..config import OHEMOptions, RoILossOptions, SolverOptions
from ..data import build_labelled_loader, build_test_loader, build_train_loader
from ..data.registered import first_class_names
from ..data.workers import worker_errors_explained
from ..evaluation import build_evaluator, build_test_model
from ..evaluation.build import check_evaluation
from ..utils.checkpoint import CheckedCheckpointer, load_trained
from .accumulation import build_inner_trainer
from .base_trainer import BaseTrainer
from .batches import TrainingBatches
from .hooks import AllRoILoss
from .mined_log import MinedLog, has_mined_log
from .mined_pictures import NUM_IMAGES, MinedPictures
from .mining_log import MiningPrinter
from .preemption import ResumableEvalHook, StopOnSignal
from .progress_bar import ProgressBar
from .writers import PatientWriter


class OHEMTrainer(BaseTrainer, DefaultTrainer):
    """`BaseTrainer` and `DefaultTrainer` with this project's loaders, evaluators, checkpoints and hooks."""

    def __init__(self, cfg):
        """Build the evaluators, as a check, then model, loader and hooks.

        Raises:
            FileNotFoundError: training data or annotations to evaluate with do not exist.
            ValueError: they cannot be read, or do not fit the config.
        """
        check_evaluation(cfg)
        super().__init__(cfg)
        num_batches = SolverOptions.from_config(cfg).accumulate
        self._trainer = build_inner_trainer(
            self.model, self.data_loader, self.optimizer, num_batches, cfg.SOLVER.AMP.ENABLED
        )

    @property
    def _initial_weights(self) -> str:
        return self.cfg.MODEL.WEIGHTS

    @classmethod
    def build_trained_model(cls, cfg, resume: bool):
        """The model with the last checkpoint, if `resume` and there is one; else with ``MODEL.WEIGHTS``."""
        model = cls.build_model(cfg)
        load_trained(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", cfg.OUTPUT_DIR, resume)
        return model

    @classmethod
    def build_train_loader(cls, cfg):
        return TrainingBatches(build_train_loader(cfg), cfg.SEED)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Test as `DefaultTrainer` does, with the scales, box voting and soft-NMS of the keys in ``TEST``."""
        with worker_errors_explained():
            return super().test(cfg, build_test_model(cfg, model), evaluators)

    def build_writers(self):
        return [*map(PatientWriter, super().build_writers()), MiningPrinter(self.model)]

    def build_hooks(self):
        # Before the hook that saves checkpoints takes the parent's.
        self.checkpointer = CheckedCheckpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        stop = StopOnSignal(self.checkpointer)
        hooks: list[HookBase] = [ProgressBar()]
        for hook in super().build_hooks():
            if isinstance(hook, EvalHook):
                evaluate = ResumableEvalHook(self.cfg.TEST.EVAL_PERIOD, hook._func, stop)
                hooks += [*self._build_observers(), evaluate, stop]  # the last two may end the run
            else:
                hooks.append(hook)
        if has_mined_log(self.model):
            hooks.insert(0, MinedLog(Path(self.cfg.OUTPUT_DIR, "mined")))
        return hooks

    def _build_observers(self) -> list[HookBase]:
        """Hooks that look at training images every so many iterations, if the config wants them."""
        options, mining = RoILossOptions.from_config(self.cfg), OHEMOptions.from_config(self.cfg)
        observers: list[HookBase] = []
        if options.period > 0:
            observers.append(AllRoILoss(options.period, self._build_roi_loss_loader))
        if mining.vis_period > 0:
            names = self.cfg.DATASETS.TRAIN
            build_loader = partial(build_labelled_loader, self.cfg, names, NUM_IMAGES, spread=True)
            observers.append(MinedPictures(mining, first_class_names(names), build_loader))
        return observers

    def _build_roi_loss_loader(self):
        num_images = RoILossOptions.from_config(self.cfg).num_images
        return build_labelled_loader(self.cfg, self.cfg.DATASETS.TRAIN, num_images, spread=True)
