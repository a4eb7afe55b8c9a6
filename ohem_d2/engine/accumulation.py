"""Gradient accumulation: one step of the optimizer for several batches."""

import time
from collections import Counter
from contextlib import nullcontext

import torch
from detectron2.engine import SimpleTrainer
from torch.nn.parallel import DistributedDataParallel

from .finite_losses import FiniteLossesMixin, PlainAMPTrainer, PlainTrainer, has_loss_scale


def build_inner_trainer(model, data_loader, optimizer, num_batches: int, amp: bool) -> SimpleTrainer:
    """What makes the steps of a training; the arguments are those of `AccumulatingTrainer`."""
    if num_batches > 1:
        return AccumulatingTrainer(model, data_loader, optimizer, num_batches, amp)
    return (PlainAMPTrainer if amp else PlainTrainer)(model, data_loader, optimizer)


class AccumulatingTrainer(FiniteLossesMixin, SimpleTrainer):
    """`SimpleTrainer` and `AMPTrainer` in one, with the mean gradient of several batches per iteration.

    If all batches train on equally many RoIs, that is the gradient of all their images in one batch. Under
    DDP gradients are exchanged once per iteration.

    Attributes:
        batch_files: images of the iteration so far.
    """

    def __init__(self, model, data_loader, optimizer, num_batches: int, amp: bool):
        """Extend `SimpleTrainer`, whose arguments come first.

        `num_batches` is the number of batches per iteration (``SOLVER.ACCUMULATE``); `amp` trains under
        CUDA's autocast, with loss scaling.
        """
        super().__init__(model, data_loader, optimizer)
        self.num_batches = num_batches
        self.amp = amp
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=amp)
        self._batches = iter(data_loader)
        self.batch_files: list[str] = []

    def run_step(self) -> None:
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        mean_losses, data_time, self.batch_files = Counter(), 0.0, []
        for i in range(self.num_batches):
            start = time.perf_counter()
            batch = next(self._batches)
            data_time += time.perf_counter() - start
            self.batch_files += [x.get("file_name", "") for x in batch]
            with self._exchange_of_gradients(last=i == self.num_batches - 1):
                with torch.autocast("cuda", enabled=self.amp):
                    losses = {name: loss / self.num_batches for name, loss in self.model(batch).items()}
                self.grad_scaler.scale(sum(losses.values())).backward()
            mean_losses.update({name: loss.detach() for name, loss in losses.items()})
        self._write_metrics(mean_losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _exchange_of_gradients(self, last: bool):
        exchanges = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if exchanges and not last else nullcontext()

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        if self.amp and has_loss_scale(state_dict):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
