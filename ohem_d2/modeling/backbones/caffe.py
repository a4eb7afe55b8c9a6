"""Reads the weights of Caffe models: ``.caffemodel``, or ``.npz`` of their blobs.

Only the fields of ``caffe.proto`` with names and weights are described here; protobuf skips all others.
"""

import math
from collections.abc import Iterator

import numpy as np

from ...utils.messages import brief
from ...utils.npz import NpzFile

# Layer -> its blobs: the weight, and the bias if it has one.
Blobs = dict[str, list[np.ndarray]]

# Message -> its fields: name, number, and type (another message, or "int64", "string", "bytes"). All are
# declared repeated, as which a field of any kind can be read; of a singular one the last value counts. The
# values of a blob are packed floats or doubles, whose encoding is the bytes of the array.
_MESSAGES = {
    "BlobShape": [("dim", 1, "int64")],
    "Blob": [
        ("num", 1, "int64"), ("channels", 2, "int64"), ("height", 3, "int64"), ("width", 4, "int64"),
        ("data", 5, "bytes"), ("shape", 7, "BlobShape"), ("double_data", 8, "bytes"),
    ],
    "V0Layer": [("name", 1, "string"), ("blobs", 50, "Blob")],
    "V1Layer": [("layer", 1, "V0Layer"), ("name", 4, "string"), ("blobs", 6, "Blob")],
    "Layer": [("name", 1, "string"), ("blobs", 7, "Blob")],
    "Net": [("layers", 2, "V1Layer"), ("layer", 100, "Layer")],
}  # fmt: skip


def read_caffemodel(path: str) -> Blobs:
    """Read the layers that have weights, from a file of any version of Caffe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a ``.caffemodel``, truncated, or without weights.
        ModuleNotFoundError: protobuf is not installed.
    """
    net = _net_class()()
    with open(path, "rb") as file:
        content = file.read()
    try:
        net.ParseFromString(content)
        blobs = {name: [_array(name, blob) for blob in found] for name, found in _layers(net) if len(found)}
    except Exception as error:  # DecodeError, whose module differs between versions of the library
        raise ValueError(f"{path} is no .caffemodel, or is truncated: {error}") from None
    if not blobs:
        raise ValueError(f"{path} is no .caffemodel, or has no weights: it has no layer with blobs")
    return blobs


def read_npz(path: str) -> Blobs:
    """Read blobs that NumPy saved as ``LAYER.0`` (weight) and ``LAYER.1`` (bias).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an ``.npz``, it has other names, or it unpacks to too much.
    """
    blobs: Blobs = {}
    for key, array in sorted(NpzFile(path), key=lambda item: item[0]):
        layer, _, index = key.rpartition(".")
        if not layer or index != str(len(blobs.setdefault(layer, []))) or array.dtype.kind not in "biuf":
            valid = "LAYER.0 (weight) and LAYER.1 (bias), numbers"
            raise ValueError(f"{path} is no .npz of blobs: it has {brief(key)}; valid: {valid}")
        blobs[layer].append(array)
    return blobs


def _net_class() -> type:
    """The message class of Caffe's ``NetParameter``, made from `_MESSAGES`."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'reading a .caffemodel needs protobuf: pip install "ohem_d2[caffe]"'
        ) from None
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="ohem_d2_caffe.proto", package="ohem_d2_caffe", syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = described.field.add(name=name, number=number, label=field_type.LABEL_REPEATED)
            if kind in _MESSAGES:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".ohem_d2_caffe.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ohem_d2_caffe.Net"))


def _layers(net) -> Iterator[tuple[str, list]]:
    """Name and blobs of each layer, in the current message or in one of its two predecessors."""
    for layer in [*net.layer, *net.layers]:
        inner = next(iter(getattr(layer, "layer", [])), layer)
        yield "".join(inner.name[-1:]), [*layer.blobs, *(inner.blobs if inner is not layer else [])]


def _array(layer: str, blob) -> np.ndarray:
    values = np.frombuffer(b"".join(blob.data), "<f4")
    if not values.size:
        values = np.frombuffer(b"".join(blob.double_data), "<f8").astype(np.float32)
    if blob.shape:
        shape = tuple(blob.shape[-1].dim)
    else:
        shape = tuple(n[-1] if n else 0 for n in (blob.num, blob.channels, blob.height, blob.width))
    if values.size != math.prod(shape) or min(shape, default=1) < 1:
        raise ValueError(f"layer {brief(layer)} has a blob of shape {brief(shape)} with {values.size} values")
    return values.reshape(shape)
