"""The guard of the read-only pass: a forward that leaves no trace in the module."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


@contextmanager
def read_only(module: nn.Module, dropout: bool, device: torch.device) -> Iterator[None]:
    """Run `module` inside without gradient, graph or change of state.

    Every submodule is in eval mode inside: normalisation uses its running statistics, updates none and, where
    it is synchronised, does not communicate, so that the output for a RoI depends on that RoI alone. After it,
    also after an exception, the `training` flags and the state of the random generators are what they were.

    Args:
        module: what will be run, and all below it.
        dropout: True: the dropout layers below `module` that are in training mode stay active.
        device: the device that `module` runs on; its generator and the CPU's are restored.
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
