"""Hooks of the trainer."""
from detectron2.engine.hooks import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from ..data import build_roi_loss_loader
from ..modeling import candidate_loss_sum


class AllRoILoss(HookBase):
    """Mean loss over all candidate RoIs of some training images, as ``ohem/all_roi_loss`` (the paper, figure 3).

    Measured in the same way for mined and plain heads, in eval mode, without augmentation, by the main
    process. Training is not affected.
    """

    def __init__(self, cfg):
        self._period = cfg.TEST.ROI_LOSS.PERIOD
        self._loader = build_roi_loss_loader(cfg) if comm.is_main_process() else None

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
            sums = [candidate_loss_sum(model, batch) for batch in self._loader]
        finally:
            model.train()
        total, count = (sum(values) for values in zip(*sums))
        return total / max(count, 1)
