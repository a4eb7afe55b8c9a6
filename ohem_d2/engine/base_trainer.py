"""The base class of the trainers of both config systems."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from fvcore.common.history_buffer import HistoryBuffer
from torch.optim import Optimizer

from ..data.workers import worker_errors_explained
from ..utils.checkpoint import name_not_finite
from ..utils.messages import name_some
from ..utils.metrics import drop_rows
from .batches import TrainingBatches

__all__ = ["BaseTrainer", "set_aside"]

logger = logging.getLogger(__name__)

# Values of a figure that are kept in memory, for each batch of an iteration: Detectron2 looks at the last
# 1,000 of the time at most.
_HISTORY = 1000


class BaseTrainer(TrainerBase):
    """A trainer that delegates each step to its ``_trainer``, and that can be stopped and resumed anywhere.

    Its checkpoints have the state of the optimizer on every version of Detectron2 (the `DefaultTrainer` of
    0.6 drops it) and, where the loader is a `TrainingBatches`, the place in the data: a resumed run trains
    as one that was never stopped. The error of an iteration with non-finite numbers names the images of the
    batch and the weights that are not finite. The memory that it takes does not grow with the iterations.
    """

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last good checkpoint, if `resume` and there is one; else the initial weights.

        The rows of ``metrics.json`` that are written again are dropped. Where the training begins anew in the
        folder of another run, the files that say how to go on with that are kept under other names.

        Raises:
            ValueError: the checkpoint is that of another model, or no checkpoint can be read.
        """
        self._has_state = False
        self.checkpointer.resume_or_load(self._initial_weights, resume=resume)
        if self._has_state:
            self.start_iter = self.iter + 1
        elif resume and self.checkpointer.has_checkpoint():
            lacks = "the state of the training; all but the weights starts over"
            logger.warning("Not restored, since the checkpoint lacks it: %s", lacks)
        if comm.is_main_process() and resume:
            drop_rows(Path(self.checkpointer.save_dir, "metrics.json"), self.start_iter)
        elif comm.is_main_process():
            set_aside(self.checkpointer.save_dir)

    @property
    def _initial_weights(self) -> str:
        raise NotImplementedError

    def before_train(self) -> None:
        length = _HISTORY * getattr(self._trainer, "num_batches", 1)
        self.storage.histories().default_factory = partial(HistoryBuffer, max_length=length)
        super().before_train()
        final = Path(self.checkpointer.save_dir) / "model_final.pth"
        if self.start_iter == self.max_iter and not final.exists():
            # The process before was stopped between the checkpoint of the last iteration and the final one.
            self.iter = self.max_iter - 1
            self.checkpointer.save("model_final", iteration=self.iter)
            self.iter = self.max_iter

    def after_train(self) -> None:
        # Of a training that was done when it went on, Detectron2 counts one iteration more.
        self.iter = min(self.iter, self.max_iter)
        super().after_train()

    @property
    def batch_files(self) -> list[str]:
        """Files of the images of the last batch; "" or none where the loader does not say."""
        return getattr(self._trainer.data_loader, "file_names", [])

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        with worker_errors_explained(), self._named_batch():
            self._trainer.run_step()

    def after_step(self) -> None:
        with self._named_batch():
            super().after_step()

    @contextmanager
    def _named_batch(self) -> Iterator[None]:
        """A block of an iteration whose error of non-finite numbers says where they are."""
        try:
            yield
        except (FloatingPointError, AssertionError) as error:
            if isinstance(error, AssertionError) and "infinite or NaN" not in str(error):  # of `Boxes`
                raise
            process = f", process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
            wrong = name_not_finite(self._trainer.model)
            weights = f"of the weights {name_some(wrong)}" if wrong else "none of the weights"
            files = getattr(self._trainer, "batch_files", self.batch_files)
            raise FloatingPointError(
                f"iteration {self.iter}{process}: {error}; not finite: {weights}; images of the batch: "
                f"{', '.join(filter(None, files)) or 'not known'}"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "_trainer": self._trainer.state_dict(), "max_iter": self.max_iter}
        if isinstance(self._trainer.data_loader, TrainingBatches):
            state["batches"] = self._trainer.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._has_state = True
        was, now = state_dict.get("max_iter", self.max_iter), self.max_iter
        if was != now:
            logger.warning("Taken from the config, not the checkpoint: %d iterations (was: %d)", now, was)
        if "_trainer" in state_dict:
            configured = _solver(self._trainer.optimizer)
            self._trainer.load_state_dict(state_dict["_trainer"])
            _compare(configured, _solver(self._trainer.optimizer))
        else:
            logger.warning("Not restored, since the checkpoint lacks it: the optimizer; momentum starts at 0")
        if not isinstance(self._trainer.data_loader, TrainingBatches):
            logger.warning("Not restored: position in the data and random numbers; the loader is not ours")
        elif "batches" in state_dict:
            self._trainer.data_loader.load_state_dict(state_dict["batches"])
        else:
            lacks = "position in the data and random numbers; both start over"
            logger.warning("Not restored, since the checkpoint lacks it: %s", lacks)


def set_aside(output_dir: str | Path) -> None:
    """Keep under other names what a run left that would be taken for that of the run which begins."""
    folder = Path(output_dir)
    tag, metrics, left = folder / "last_checkpoint", folder / "metrics.json", []
    if tag.exists():
        os.replace(tag, f"{tag}.old")
        left.append(tag.name)
    if metrics.exists() and metrics.stat().st_size:
        shutil.copyfile(metrics, f"{metrics}.old")
        os.truncate(metrics, 0)  # not renamed, since a writer has opened it
        left.append(metrics.name)
    if left:
        text = "%s has another run, with which --resume would have gone on; renamed to .old: %s"
        logger.warning(text, folder, " and ".join(left))


def _solver(optimizer: Optimizer) -> dict[str, set]:
    """The values that the parameter groups have of each option; of the rate, those before any schedule."""
    values: dict[str, set] = {}
    for group in optimizer.param_groups:
        options = {**group, "lr": group.get("initial_lr", group["lr"])}
        for name, value in options.items():
            if name != "initial_lr" and isinstance(value, (int, float)):
                values.setdefault(name, set()).add(value)
    return values


def _compare(configured: dict[str, set], loaded: dict[str, set]) -> None:
    """Log the options of the optimizer that the checkpoint overrides."""
    differ = {name: values for name, values in loaded.items() if values != configured.get(name, values)}
    if differ:
        told = [f"{n} {_join(values)} (config: {_join(configured[n])})" for n, values in differ.items()]
        logger.warning("Taken from the checkpoint, not from the config: %s", ", ".join(told))


def _join(values: set) -> str:
    return " and ".join(f"{value:g}" for value in sorted(values))
