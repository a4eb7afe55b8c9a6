"""The trainer."""
import logging
from typing import Any, Dict

from detectron2.engine import DefaultTrainer
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data import build_test_loader, build_train_loader
from .accumulation import AccumulatingTrainer
from .evaluators import build_evaluator, check_evaluation
from .hooks import AllRoILoss

logger = logging.getLogger(__name__)


class OHEMTrainer(DefaultTrainer):
    """`DefaultTrainer` with this project's loaders, the evaluator of each data set, and a resume that goes on
    with the optimizer's momentum on every version of Detectron2 (0.6 drops it)."""

    def __init__(self, cfg):
        """
        Raises:
            ValueError, FileNotFoundError: what is trained on or tested with cannot be read; before any training.
        """
        check_evaluation(cfg)
        super().__init__(cfg)
        if cfg.SOLVER.ACCUMULATE > 1:
            self._trainer = AccumulatingTrainer(
                self.model, self.data_loader, self.optimizer, cfg.SOLVER.ACCUMULATE, cfg.SOLVER.AMP.ENABLED
            )

    @classmethod
    def build_train_loader(cls, cfg):
        return _NamedBatches(build_train_loader(cfg))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self):
        hooks = super().build_hooks()
        if self.cfg.TEST.ROI_LOSS.PERIOD > 0:
            writer = 1 if comm.is_main_process() else 0  # the last hook writes what the others measured
            hooks.insert(len(hooks) - writer, AllRoILoss(self.cfg))
        return hooks

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:
            files = ", ".join(self.data_loader.file_names)
            raise FloatingPointError(f"iteration {self.iter}: {error}; images of the batch: {files}") from error

    def state_dict(self) -> Dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("the checkpoint has no optimizer state: momentum starts at zero")


class _NamedBatches:
    """A loader that remembers the file names of the batch it gave last."""

    def __init__(self, loader):
        self.loader = loader
        self.file_names = []

    def __iter__(self):
        for batch in self.loader:
            self.file_names = [x["file_name"] for x in batch]
            yield batch
