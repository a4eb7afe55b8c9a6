"""Seeds of random number generators, made from numbers that say what they are for."""

import random

import numpy as np
import torch

__all__ = ["seed_generators"]


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (CPU and every GPU) from `key`.

    Equal keys give equal numbers; keys that differ anywhere give independent ones.

    Args:
        key: integers >= 0, such as the seed of a run, the process and the number of the batch.
    """
    sequence = np.random.SeedSequence((len(key), *key))  # which takes (1, 2) and (1, 2, 0) for the same
    for_python, for_numpy, for_torch = sequence.generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
    if torch.cuda.is_initialized():  # `torch.manual_seed` takes long to note the seed for a GPU that is not
        torch.cuda.manual_seed_all(for_torch)
