"""Files of weights, read without executing code: torch's, safetensors, pickles of Detectron2 and Caffe2."""

import io
import logging
import pickle
import re
import zipfile
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

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
    return content if state is not content else {"model": content}


def _to_match(content: Any, key: str, left_out: str, author: str) -> dict[str, Any]:
    """A checkpoint whose names have to be matched, without those that end in `left_out`."""
    state = {name: value for name, value in _state(content, key).items() if not name.endswith(left_out)}
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
            _check_nesting(file)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no checkpoint raise nearly anything
        raise ValueError(_reason(error)) from error


def _check_nesting(file: IO[bytes]) -> None:
    """Check the pickles in a file of torch: deeply nested tuples overflow the stack of torch's own reader."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for _ in range(_LEGACY_PICKLES):
            _Skimmer(file).load()
        return
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed, as torch never does")
            if entry.filename.endswith("data.pkl"):
                _Skimmer(io.BytesIO(archive.read(entry))).load()


class _Thing:
    """Stands for an object of a pickle. `depth`: how deep tuples are nested in it."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def append(self, _: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Skimmer(pickle._Unpickler):
    """Reads a pickle to its end without making any of its objects."""

    def find_class(self, module: str, name: str) -> Any:
        return _Thing()

    def persistent_load(self, pid: Any) -> Any:
        return _Thing()

    def load_reduce(self) -> None:
        self.stack[-2:] = [_Thing()]

    def load_build(self) -> None:
        self.stack.pop()

    def load_tuple(self) -> None:
        self._nest(self.pop_mark())

    def load_tuple1(self) -> None:
        self._nest([self.stack.pop()])

    def load_tuple2(self) -> None:
        self._nest([self.stack.pop() for _ in range(2)])

    def load_tuple3(self) -> None:
        self._nest([self.stack.pop() for _ in range(3)])

    def _nest(self, items: list[Any]) -> None:
        depth = 1 + max((getattr(item, "depth", 0) for item in items), default=0)
        if depth > _MAX_DEPTH:
            raise ValueError(f"tuples are nested more than {_MAX_DEPTH} deep")
        self.stack.append(_Thing(depth))

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.TUPLE[0]: load_tuple,
        pickle.TUPLE1[0]: load_tuple1,
        pickle.TUPLE2[0]: load_tuple2,
        pickle.TUPLE3[0]: load_tuple3,
    }


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
