"""Steps of a training that end where a loss is not finite, before the weights change."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor

__all__ = ["FiniteLossesMixin", "PlainTrainer", "PlainAMPTrainer", "has_loss_scale"]

logger = logging.getLogger(__name__)


class FiniteLossesMixin:
    """Makes a step of Detectron2's trainers an error that names the losses of this process.

    Detectron2 looks at their mean over all processes, in the first one alone, which may not have the images.
    """

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        losses = {name: loss.detach().cpu() for name, loss in loss_dict.items()}  # the parent's only copy
        wrong = [f"{name} is {loss.item()}" for name, loss in losses.items() if not loss.isfinite()]
        if wrong:
            raise FloatingPointError(f"the loss is not finite, {', '.join(wrong)}")
        super()._write_metrics(losses, *args, **kwargs)


class PlainTrainer(FiniteLossesMixin, SimpleTrainer):
    """`SimpleTrainer` whose losses must be finite."""


class PlainAMPTrainer(FiniteLossesMixin, AMPTrainer):
    """`AMPTrainer` whose losses must be finite."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not has_loss_scale(state_dict):
            state_dict = {**state_dict, "grad_scaler": self.grad_scaler.state_dict()}
        super().load_state_dict(state_dict)


def has_loss_scale(state_dict: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a training in mixed precision; a warning says so if not."""
    if not state_dict.get("grad_scaler"):
        logger.warning("Not restored, since the checkpoint lacks it: the loss scale, which starts over")
    return bool(state_dict.get("grad_scaler"))
