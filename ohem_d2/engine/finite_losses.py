"""Steps of a training that end where a loss is not finite, before the weights change."""

from collections.abc import Mapping
from typing import Any

from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import Tensor

__all__ = ["FiniteLossesMixin", "PlainTrainer", "PlainAMPTrainer"]


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
