"""The base class of the trainers of both config systems."""

import logging
from typing import Any

from detectron2.engine.train_loop import TrainerBase

logger = logging.getLogger(__name__)


class BaseTrainer(TrainerBase):
    """A trainer that delegates each step to its ``_trainer``, whose loader is `NamedBatches`.

    The error of a step with non-finite numbers names the images of the batch. Checkpoints contain the state
    of the optimizer on every version of Detectron2 (the `DefaultTrainer` of 0.6 drops it).
    """

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        try:
            self._trainer.run_step()
        except FloatingPointError as error:
            files = ", ".join(self._trainer.data_loader.file_names)
            raise FloatingPointError(
                f"iteration {self.iter}: {error}; images of the batch: {files}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            logger.warning("the checkpoint has no optimizer state: momentum starts at zero")


class NamedBatches:
    """A loader that remembers the file names of its last batch."""

    def __init__(self, loader):
        self.loader = loader
        self.file_names = []

    def __iter__(self):
        for batch in self.loader:
            self.file_names = [x["file_name"] for x in batch]
            yield batch
