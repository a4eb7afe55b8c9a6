"""Files of weights, read without executing code: torch's, safetensors, pickles of Detectron2 and Caffe2."""

import io
import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .budget import BoundedFile
from .messages import brief
from .pickles import load_pickle

__all__ = ["load_torch", "read_weights"]

logger = logging.getLogger(__name__)

# Number of pickles at the start of a file of torch before 1.6.
_LEGACY_PICKLES = 5
_MAX_DEPTH = 100


def read_weights(path: str) -> dict[str, Any]:
    """Read a checkpoint as Detectron2 does.

    Args:
        path: local file. ``.pkl``: a dict of Detectron2's model zoo, or the blobs of Caffe2; ``.pyth``: of
            pycls; ``.safetensors``: a state dict; any other: what ``torch.save`` wrote, a checkpoint or a
            bare state dict.

    Returns:
        ``model``, a state dict of tensors or arrays, and what else the file has. ``matching_heuristics`` is
        True for weights whose names have to be matched.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is truncated, no checkpoint, or holds what could run code; one line, without the path.
    """
    if path.endswith(".pkl"):
        content = load_pickle(path, _TENSORS)
        if "model" not in _state(content) or "__author__" not in content:
            return _to_match(content, "blobs", "_momentum", "Caffe2")
        logger.info("Reading a file of %s", content["__author__"])
    else:
        content = load_torch(path)
        if path.endswith(".pyth"):
            return _to_match(content, "model_state", "num_batches_tracked", "pycls")
    state = _state(content, "model")
    _require_arrays(state)
    return content if state is not content else {"model": content}


def _require_arrays(state: dict[str, Any]) -> None:
    for name, value in state.items():
        if not isinstance(value, (Tensor, np.ndarray)):
            raise ValueError(f"its {brief(name)} is no tensor but {brief(value)}")


def _to_match(content: Any, key: str, left_out: str, author: str) -> dict[str, Any]:
    """A checkpoint whose names have to be matched, without those that end in `left_out`."""
    state = {name: value for name, value in _state(content, key).items() if not name.endswith(left_out)}
    _require_arrays(state)
    return {"model": state, "__author__": author, "matching_heuristics": True}


def _state(content: Any, key: str = "") -> dict[str, Any]:
    """``content[key]``, or `content` where it has no such key; it must be a dict with names as keys."""
    state = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"it holds no state dict but {brief(state)}")
    return state


def load_torch(path: str) -> Any:
    """Load a ``.safetensors``, or what ``torch.save`` wrote, to the CPU: tensors, numbers, text, containers.

    Raises:
        OSError: the file cannot be read.
        ValueError: as `read_weights`.
    """
    try:
        if path.endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        with open(path, "rb") as file:
            _check_pickles(file)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(_reason(error)) from error  # a damaged zip sends its reader to an impossible place
    except Exception as error:  # bytes that are no checkpoint raise nearly anything
        raise ValueError(_reason(error)) from error


def _check_pickles(file: IO[bytes]) -> None:
    """Check the pickles in a file of torch, before its own reader makes what they say.

    Deeply nested tuples overflow its stack; storages, and tensors larger than their storage, have any size.
    """
    size = BoundedFile(file).size
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            _Skimmer(file, size).load()
        return
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed, as torch never does")
            if entry.filename.endswith(".pkl"):
                _Skimmer(io.BytesIO(archive.read(entry)), size).load()


class _Thing:
    """Stands for an object of a pickle.

    Attributes:
        items: of a tuple.
        depth: how deep tuples are nested in it.
        name: of a class or a function.
        num_elements: of a storage.
    """

    def __init__(
        self, items: Sequence[Any] = (), depth: int = 0, name: str = "", num_elements: int = 0
    ) -> None:
        self.items, self.depth, self.name, self.num_elements = items, depth, name, num_elements

    def append(self, _: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Skimmer(pickle._Unpickler):
    """Reads a pickle to its end without making any of its objects, in a file of `size` bytes."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(BoundedFile(file))
        self._size = size

    def find_class(self, module: str, name: str) -> Any:
        return _Thing(name=f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ("storage", type, key, device, number of elements, ...)."""
        numbers = [item for item in getattr(pid, "items", ()) if isinstance(item, int)]
        if any(number > self._size for number in numbers):
            raise ValueError(f"a storage of {max(numbers)} elements, in a file of {self._size} bytes")
        return _Thing(num_elements=max(numbers, default=0))

    def load_reduce(self) -> None:
        function, arguments = self.stack[-2:]
        arguments = getattr(arguments, "items", ())
        if getattr(function, "name", "").startswith("torch._utils._rebuild_tensor"):
            _check_view(*arguments[:4])
        elif any(isinstance(number, int) and number > self._size for number in arguments):
            raise ValueError(f"{function.name} of {max(arguments)} elements, in a file of {self._size} bytes")
        self.stack[-2:] = [_Thing()]

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.read(length)
        self.append(_Thing())

    def load_build(self) -> None:
        self.stack.pop()

    def load_empty_tuple(self) -> None:
        self._nest([])

    def load_tuple(self) -> None:
        self._nest(self.pop_mark())

    def load_tuple1(self) -> None:
        self._nest([self.stack.pop()])

    def load_tuple2(self) -> None:
        self._nest([self.stack.pop() for _ in range(2)][::-1])

    def load_tuple3(self) -> None:
        self._nest([self.stack.pop() for _ in range(3)][::-1])

    def _nest(self, items: list[Any]) -> None:
        depth = 1 + max((getattr(item, "depth", 0) for item in items), default=0)
        if depth > _MAX_DEPTH:
            raise ValueError(f"tuples are nested more than {_MAX_DEPTH} deep")
        self.stack.append(_Thing(items, depth))

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.EMPTY_TUPLE[0]: load_empty_tuple,
        pickle.TUPLE[0]: load_tuple,
        pickle.TUPLE1[0]: load_tuple1,
        pickle.TUPLE2[0]: load_tuple2,
        pickle.TUPLE3[0]: load_tuple3,
    }


def _check_view(storage: Any, offset: int, size: _Thing, stride: _Thing) -> None:
    """Refuse a tensor that reaches beyond its storage, which torch would enlarge."""
    end = offset + sum((n - 1) * step for n, step in zip(size.items, stride.items, strict=True)) + 1
    if all(size.items) and not 0 <= offset < end <= storage.num_elements:
        raise ValueError(f"a tensor of {end} elements, in a storage of {storage.num_elements}")


def _reason(error: Exception) -> str:
    """What is wrong, on one line, without torch's advice to load the file all the same."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return f"it holds {found[1]}; only tensors, numbers, text and containers cannot run code"
    if "weights_only" in str(error):
        return "it holds more than tensors, numbers, text and containers, which could run code"
    return f"no checkpoint, or truncated: {str(error).partition(chr(10))[0] or type(error).__name__:.200}"


def _storage(content: bytes) -> Tensor:
    """Replace torch's function, which unpickles without restriction; the elements as a tensor (n,)."""
    _check_pickles(io.BytesIO(content))
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return torch.empty(0, dtype=storage.dtype).set_(storage)


def _tensor(elements: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Replace torch's function, which enlarges a storage that is too small."""
    return elements.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_TENSORS = {
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
