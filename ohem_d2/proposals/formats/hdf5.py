"""Reader of MATLAB 7.3 files, which are HDF5: numbers, text and cell arrays of them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...utils.budget import Budget
from .base import require_extra

__all__ = ["read_mat73"]

Value = NDArray[Any] | str | list[Any]


def read_mat73(path: Path, names: Collection[str]) -> dict[str, Value]:
    """Read the variables `names` as far as present: numbers as arrays, text as str, cells as flat lists.

    Raises:
        ValueError: a variable of another class, or a file that unpacks to too much; without the path. Of a
            damaged file h5py raises other errors as well.
        ImportError: h5py is not installed.
    """
    h5py = _h5py()
    budget = Budget(path)
    with h5py.File(path, "r") as file:
        present = [name for name in names if file.get(name, getlink=True) is not None]
        return {name: _value(file, _dataset(file, name), budget, name) for name in present}


def _h5py() -> Any:
    try:
        import h5py

        return h5py
    except ImportError:
        raise require_extra("h5py", "a MATLAB 7.3 file") from None


def _dataset(file: Any, name: str) -> Any:
    """The HDF5 data set of a variable; it must lie in this file and not be a link to another one."""
    hard = isinstance(file.get(name, getlink=True), _h5py().HardLink)
    return _own(file[name] if hard else None, name)


def _own(dataset: Any, name: str) -> Any:
    if not isinstance(dataset, _h5py().Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{name}: not an array in this file; only numbers, text and cells of these are read")
    return dataset


def _value(file: Any, dataset: Any, budget: Budget, name: str) -> Value:
    if _h5py().check_ref_dtype(dataset.dtype) is None:
        return _leaf(dataset, budget, name)
    budget.spend(8 * dataset.size, name)
    references = np.ravel(dataset[()])  # dimensions are stored in reverse, so C order here is MATLAB's
    return [_leaf(_own(file[reference], name), budget, name) for reference in references]


def _leaf(dataset: Any, budget: Budget, name: str) -> Value:
    if dataset.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: an array of {dataset.dtype}; only numbers, text and cells of these are read"
        )
    if "MATLAB_empty" in dataset.attrs:  # it stores the shape instead of values
        return np.zeros((0, 0))
    budget.spend(dataset.size * dataset.dtype.itemsize, name)
    values: NDArray[Any] = np.asarray(dataset[()])
    if dataset.attrs.get("MATLAB_class") == b"char":
        return values.astype("<u2").tobytes().decode("utf-16-le")
    matrix: NDArray[Any] = values.T
    return matrix
