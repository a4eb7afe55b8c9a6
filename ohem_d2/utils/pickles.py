"""Pickles read without executing code: arrays, numbers, text and plain containers, and nothing else.

Loading an untrusted pickle with the standard library can run any code, and NumPy's own functions, which every
pickled array calls, allocate what they are told to or corrupt memory. Here a pickle calls only the functions
below, and what it copies is bounded by the size of its file.
"""

import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .budget import BoundedFile, Budget
from .messages import brief, one_line

__all__ = ["Admitted", "load_pickle"]

# (module, name) that a pickle may refer to -> what stands in for it.
Admitted = Mapping[tuple[str, str], Any]

# Opcodes that call classes in other ways than arrays need, or that hash what they read.
_REFUSED = (
    pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip
# Bytes of an element of an array; only those of text are longer than 16.
_MAX_ITEMSIZE = 2**16


def load_pickle(path: str | Path, admitted: Admitted | None = None) -> Any:
    """Load a pickle of any protocol, of Python 2 and of NumPy 1 as well.

    Args:
        path: file to read.
        admitted: names beyond those of arrays. A class must not be among them, but functions that check
            what they are given.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no pickle, is truncated, or holds something else; the message is one line, without
            the path.
    """
    with open(path, "rb") as file:
        try:
            return _SafeUnpickler(file, Budget(Path(path)), admitted or {}).load()
        except OSError:
            raise
        except Exception as error:  # bytes that are no pickle raise nearly anything
            raise ValueError(one_line(error)) from error


class _SafeUnpickler(pickle._Unpickler):  # the one in Python, whose memo takes no more than it holds
    def __init__(self, file: IO[bytes], budget: Budget, admitted: Admitted) -> None:
        super().__init__(BoundedFile(file), encoding="latin1")
        self._budget, self._admitted = budget, admitted

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        key = (module, name)
        if key in self._admitted:
            return self._admitted[key]
        if key not in _ARRAYS:
            raise pickle.UnpicklingError(
                f"it holds {module}.{name}; only arrays, numbers, text and containers cannot run code"
            )
        return _ARRAYS[key]

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self._budget.spend(sum(map(_size, arguments)), "a pickle")
        self.stack[-1] = self.stack[-1](*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif isinstance(target, np.ndarray) and not target.size:
            shape, content = state[-4], state[-1]
            self._budget.spend(_size(content), "an array")
            size = 1 if isinstance(content, list) else state[-3].itemsize  # objects, or bytes
            if min(shape, default=0) < 0 or math.prod(shape) * size != len(content):
                raise pickle.UnpicklingError(f"an array of shape {brief(shape)} with {len(content)} values")
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict):  # the attributes of a state dict are left out
            raise pickle.UnpicklingError(f"a state of {brief(target)} is not admitted")

    def load_bytearray8(self) -> None:
        """Replace Python's, which allocates the length that is claimed."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def load_setitem(self) -> None:
        _require_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _require_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _require_keys(self.stack[::2])
        super().load_dict()

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it holds an object that could run code, or a set")

    dispatch = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys([opcode[0] for opcode in _REFUSED], refuse),
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }


def _size(value: Any) -> int:
    """Bytes that a copy of `value` takes at most, without what its items refer to."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, np.dtype):
        return value.itemsize
    return (
        8 * len(value) if isinstance(value, (list, tuple)) else len(value) if hasattr(value, "__len__") else 8
    )


def _require_keys(keys: Iterable[Any]) -> None:
    """Refuse tuples of tuples: Python's own hash of them overflows the stack, or never ends."""
    for key in keys:
        if isinstance(key, tuple) and any(isinstance(item, tuple) for item in key):
            raise pickle.UnpicklingError("a key of nested tuples is not admitted")


def _reconstruct(kind: Any, shape: Any, code: Any) -> NDArray[Any]:
    """Replace NumPy's, which allocates any shape; in a genuine pickle it is (0,) and filled later."""
    if kind is not _NDARRAY or shape != (0,):
        raise pickle.UnpicklingError(f"an array of shape {brief(shape)} is not admitted")
    return np.empty(0, "b")


def _frombuffer(content: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """Replace NumPy's, whose arrays may share the memory of another."""
    if not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array of an unknown form is not admitted")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    """Replace NumPy's, which makes up what `content` lacks."""
    if isinstance(content, str):  # of Python 2
        content = content.encode("latin1")
    if not isinstance(dtype, np.dtype) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError("a number of an unknown form is not admitted")
    return np.frombuffer(content, dtype)[0]


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    """Replace NumPy's, which admits elements of any size and structure."""
    dtype = np.dtype(code, copy=True) if isinstance(code, str) else None  # type: ignore[call-overload]
    if dtype is None or dtype.fields or dtype.subdtype or dtype.itemsize > _MAX_ITEMSIZE:
        raise pickle.UnpicklingError(f"an array of dtype {brief(code)} is not admitted")
    return dtype


def _set_byte_order(dtype: np.dtype[Any], state: Any) -> None:
    """Take no more than the byte order from a state: its flags would be believed."""
    own = dtype.__reduce__()[2]
    if state[2:5] != (None, None, None) or state[1] not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError(f"an array of dtype {brief(state)} is not admitted")
    dtype.__setstate__((own[0], state[1], *own[2:]))


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    """Replace the class, which hashes any key."""
    pairs = [(key, value) for key, value in items]
    _require_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _latin1(text: str, encoding: str) -> bytes:
    """Replace ``_codecs.encode``, with which old pickle protocols store bytes."""
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Replace ``bytes``, with which old pickle protocols store empty bytes."""
    return b""


_NDARRAY = "numpy.ndarray"  # a name, since the class itself could be called

_ARRAYS: Admitted = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("builtins", "bytes"): _no_bytes,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): _ordered_dict,
}
