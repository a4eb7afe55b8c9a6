"""Writes Caffe's weight files, with messages described apart from those that the package reads with."""

import numpy as np
import pytest

descriptor_pb2, descriptor_pool, message_factory = (
    pytest.importorskip(f"google.protobuf.{name}", reason="needs protobuf")
    for name in ("descriptor_pb2", "descriptor_pool", "message_factory")
)

F = descriptor_pb2.FieldDescriptorProto
ONE, MANY = F.LABEL_OPTIONAL, F.LABEL_REPEATED
# caffe.proto: message, then (label, type, name, number), as far as a file of weights needs it.
PROTO = {
    "BlobShape": [(MANY, F.TYPE_INT64, "dim", 1)],
    "BlobProto": [
        (ONE, F.TYPE_INT32, "num", 1), (ONE, F.TYPE_INT32, "channels", 2), (ONE, F.TYPE_INT32, "height", 3),
        (ONE, F.TYPE_INT32, "width", 4), (MANY, F.TYPE_FLOAT, "data", 5), (MANY, F.TYPE_FLOAT, "diff", 6),
        (ONE, "BlobShape", "shape", 7), (MANY, F.TYPE_DOUBLE, "double_data", 8),
    ],
    "V0LayerParameter": [
        (ONE, F.TYPE_STRING, "name", 1), (ONE, F.TYPE_STRING, "type", 2), (MANY, "BlobProto", "blobs", 50),
    ],
    "V1LayerParameter": [
        (ONE, "V0LayerParameter", "layer", 1), (MANY, F.TYPE_STRING, "bottom", 2),
        (ONE, F.TYPE_STRING, "name", 4), (ONE, F.TYPE_INT32, "type", 5), (MANY, "BlobProto", "blobs", 6),
    ],
    "LayerParameter": [
        (ONE, F.TYPE_STRING, "name", 1), (ONE, F.TYPE_STRING, "type", 2), (MANY, "BlobProto", "blobs", 7),
    ],
    "NetParameter": [
        (ONE, F.TYPE_STRING, "name", 1), (MANY, "V1LayerParameter", "layers", 2),
        (MANY, "LayerParameter", "layer", 100),
    ],
}  # fmt: skip


def net_parameter():
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in PROTO.items():
        described = file.message_type.add(name=message)
        for label, kind, name, number in fields:
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = F.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = kind
            field.options.packed = label == MANY and kind in (F.TYPE_FLOAT, F.TYPE_DOUBLE, F.TYPE_INT64)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))()


def write_caffemodel(path, blobs, kind="new", double=False):
    """Write ``{layer: [array, ...]}`` as Caffe's versions did: "v0", "v1" (of four dimensions) or "new"."""
    net = net_parameter()
    net.name = "net"
    for name, arrays in [("data", []), *blobs.items()]:
        if kind == "new":
            layer = net.layer.add(name=name, type="Layer")
        elif kind == "v1":
            layer = net.layers.add(name=name, type=4, bottom=["below"])
        else:
            layer = net.layers.add(bottom=["below"]).layer
            layer.name, layer.type = name, "conv"
        for array in arrays:
            blob = layer.blobs.add()
            (blob.double_data if double else blob.data).extend(array.ravel().tolist())
            if kind == "new":
                blob.shape.dim.extend(array.shape)
            else:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
                blob.diff.extend(np.zeros(array.size))  # as a snapshot of the solver has
    path.write_bytes(net.SerializeToString())
    return path
