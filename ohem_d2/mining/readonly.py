"""The read-only pass: a forward that does not change the module."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def read_only(module: nn.Module, dropout: bool, device: torch.device) -> Iterator[None]:
    """A block in which `module` runs without gradient, graph or change of state.

    Inside, every submodule is in eval mode: normalisation uses its running statistics, does not update them
    and, where it is synchronised, does not communicate. So the output for a RoI depends on that RoI only.
    Afterwards, also after an exception, the ``training`` flags and the states of the random number generators
    are what they were before.

    Args:
        module: the module that runs; all its submodules are guarded.
        dropout: True: dropout layers in `module` that are in training mode stay active.
        device: the device that `module` runs on; its random number generator and the CPU's are restored.
    """
    flags = [(m, m.training) for m in module.modules()]
    cuda = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=cuda):
        try:
            for m, training in flags:
                m.training = training and dropout and isinstance(m, _DropoutNd)
            yield
        finally:
            for m, training in flags:
                m.training = training
