"""Hooks of the trainer."""

from collections.abc import Callable, Iterable

import torch
from detectron2.engine.hooks import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ..modeling import inspect_candidates


class AllRoILoss(HookBase):
    """Logs the mean loss over all candidate RoIs of some training images as ``ohem/all_roi_loss``.

    As figure 3 of the paper. Measured alike for mined and plain heads, in eval mode, without augmentation, by
    the main process. Training is not affected.
    """

    def __init__(self, period: int, build_loader: Callable[[], Iterable[list[dict]]]):
        """Measure every `period` iterations on a loader, which the main process alone builds."""
        self._period = period
        self._loader = build_loader() if comm.is_main_process() else None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._loader is not None and (done % self._period == 0 or done == self.trainer.max_iter):
            self.trainer.storage.put_scalar("ohem/all_roi_loss", self._measure(), smoothing_hint=False)

    def _measure(self) -> float:
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, GeneralizedRCNN):
            raise TypeError(f"TEST.ROI_LOSS measures a GeneralizedRCNN, not {type(model).__name__}")
        model.eval()
        try:
            losses = [c.losses for batch in self._loader for c in inspect_candidates(model, batch)]
        finally:
            model.train()
        return torch.cat(losses).double().mean().item()
