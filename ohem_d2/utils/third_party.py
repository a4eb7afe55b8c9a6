"""What the packages that we build on print, and a user of ours can do nothing about."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_imports"]

_PACKAGES = "torch|torchvision|fvcore|iopath|detectron2"


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Show no FutureWarning that torch, fvcore or Detectron2 cause inside the block.

    Unlike `warnings.catch_warnings`, it keeps the filters that the imported packages set for themselves.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module=rf"({_PACKAGES})(\.|$)")
    ours = warnings.filters[0]
    try:
        yield
    finally:
        if ours in warnings.filters:
            warnings.filters.remove(ours)
