"""Converts the weights of torchvision and Caffe to checkpoints of this project's models."""

import logging
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torchvision.models import get_model_weights

from ...utils.checkpoint import ImageInput
from ...utils.weights_files import load_torch
from .caffe import Blobs
from .torchvision_models import SCALED, build_network, check_network
from .vgg import VGG16, VGG_CNN_M_1024, VGG16BoxHead, VGG_CNN_M_1024BoxHead

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

# Networks of the paper: backbone, box head and resolution of a pooled RoI.
NETS = {"vgg16": (VGG16, VGG16BoxHead, 7), "vgg_cnn_m_1024": (VGG_CNN_M_1024, VGG_CNN_M_1024BoxHead, 6)}

# The MODEL.BACKBONE.NAME that torchvision's weights can be converted for -> prefix of their keys.
BACKBONE_PREFIXES = {
    "VGG16": "",
    "TorchvisionBackbone": "backbone.body.",
    "build_torchvision_fpn_backbone": "backbone.bottom_up.body.",
}

# Modules of torchvision's networks that only classification needs.
_CLASSIFIERS = {"fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2"}

# The input with which the authors train all their networks.
CAFFE_INPUT = ImageInput("BGR", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))


def convert_blobs(blobs: Blobs, net: str | None = None) -> StateDict:
    """Convert the weights of Caffe to the state dict of a Fast R-CNN of the paper; channels stay BGR.

    Args:
        blobs: from `read_caffemodel` or `read_npz`.
        net: a key of `NETS`; None: the first whose layers are all there.

    Raises:
        ValueError: layers are missing, or of another shape.
    """
    net = net or _net_of(blobs)
    shapes, state = _shapes(net), {}
    for key, shape in shapes.items():
        layer, kind = key.split(".")[-2:]
        found = blobs.get(layer, [])
        if len(found) != 2:
            raise ValueError(f"{net} needs weight and bias of {layer!r}; there are: {', '.join(blobs)}")
        blob = torch.tensor(found[kind == "bias"], dtype=torch.float32)
        while blob.dim() > len(shape) and blob.shape[0] == 1:  # old versions of Caffe have four dimensions
            blob = blob[0]
        if blob.shape != shape:
            raise ValueError(f"{kind} of {layer!r} has shape {tuple(blob.shape)}; {net} needs {tuple(shape)}")
        state[key] = blob
    unused = sorted(set(blobs) - {key.split(".")[-2] for key in shapes})
    logger.info("Left out, since the detector has no such layers: %s", ", ".join(unused) or "none")
    return state


def convert_torchvision(name: str, weights: StateDict, backbone: str) -> StateDict:
    """Convert the weights of a torchvision network to the state dict of a detector; channels stay RGB.

    Args:
        name: one of ``torchvision.models.list_models()``.
        weights: the whole state dict of the network.
        backbone: ``MODEL.BACKBONE.NAME``, a key of `BACKBONE_PREFIXES`; "VGG16" also takes fc6 and fc7 of
            ``vgg16``.

    Raises:
        ValueError: a name is unknown, or keys of `weights` are not those of the network.
    """
    with torch.device("meta"):
        network = build_network(name)
    if backbone not in BACKBONE_PREFIXES or (backbone == "VGG16" and name != "vgg16"):
        valid = [b for b in BACKBONE_PREFIXES if b != "VGG16" or name == "vgg16"]
        raise ValueError(f"backbone {backbone!r} of {name}; valid: {', '.join(valid)}")
    _check_keys(name, weights, network)
    weights = {key: weights[key] for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    if backbone == "VGG16":
        return dict(zip(_shapes("vgg16"), weights.values()))  # in the same order; the classifier comes last
    unused = sorted({key.split(".")[0] for key in weights} & _CLASSIFIERS)
    logger.info("Left out, since only classification needs it: %s", ", ".join(unused) or "none")
    return {
        BACKBONE_PREFIXES[backbone] + key: v for key, v in weights.items() if key.split(".")[0] not in unused
    }


def torchvision_weights(name: str, file: str | None = None) -> StateDict:
    """The state dict in `file`; without one, torchvision's default weights of the network `name`, downloaded.

    Raises:
        ValueError: unknown name, or `file` is not a state dict.
        OSError: no such file, or no connection.
    """
    check_network("network", name)
    if file is None:
        return get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    try:
        weights = load_torch(file)
    except ValueError as error:
        raise ValueError(f"{file} is no state dict: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file} is no state dict of tensors")
    return weights


def torchvision_input(name: str) -> ImageInput:
    """The image input of torchvision's default weights for the network `name`."""
    check_network("network", name)
    transforms = get_model_weights(name).DEFAULT.transforms()
    mean, std = ([0.5] * 3, [0.5] * 3) if name in SCALED else (transforms.mean, transforms.std)
    return ImageInput("RGB", tuple(255 * x for x in mean), tuple(255 * x for x in std))


def reverse_channels(state: StateDict) -> StateDict:
    """The state dict for images with the channels in reverse order (RGB for BGR)."""
    first = next(key for key, value in state.items() if value.dim() == 4 and value.shape[1] == 3)
    return {**state, first: state[first].flip(1)}


def save_checkpoint(path: str, state: StateDict, image_input: ImageInput, source: str) -> None:
    """Write a checkpoint that Detectron2 loads by exact names, and that records its image input.

    Args:
        path: file to write, ``.pth`` or ``.pkl``.
        state: state dict of a detector.
        image_input: which images the weights are for.
        source: where the weights are from.

    Raises:
        ValueError: another suffix.
        OSError: `path` cannot be written.
    """
    check_output(path)
    as_stored = {
        "format": image_input.format,
        **{k: list(asdict(image_input)[k]) for k in ("pixel_mean", "pixel_std")},
    }
    checkpoint: dict[str, Any] = {
        "__author__": source,
        "matching_heuristics": False,
        "image_input": as_stored,
    }
    with open(path, "wb") as file:
        if path.endswith(".pth"):
            torch.save({"model": {k: v.contiguous() for k, v in state.items()}, **checkpoint}, file)
        else:
            pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, **checkpoint}, file, protocol=4)


def check_output(path: str) -> None:
    """Check that `path` can be the file of a checkpoint, and create its folder.

    Raises:
        ValueError: another suffix than ``.pth`` or ``.pkl``.
        OSError: the folder cannot be created.
    """
    if not path.endswith((".pth", ".pkl")):
        raise ValueError(f"{path} must end in .pth or .pkl")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def _net_of(blobs: Blobs) -> str:
    fitting = [net for net in NETS if {key.split(".")[-2] for key in _shapes(net)} <= set(blobs)]
    if not fitting:
        raise ValueError(f"no network of {', '.join(NETS)} has the layers {', '.join(blobs)}")
    return fitting[0]


def _shapes(net: str) -> dict[str, torch.Size]:
    """Key in a detector -> shape of each parameter of backbone and box head of a network in `NETS`."""
    backbone_class, head_class, side = NETS[net]
    with torch.device("meta"):
        backbone = backbone_class()
        channels = backbone.output_shape()["conv5"].channels
        head = head_class(input_shape=ShapeSpec(channels=channels, height=side, width=side))
    parts = {"backbone.": backbone.state_dict(), "roi_heads.box_head.": head.state_dict()}
    return {prefix + key: value.shape for prefix, part in parts.items() for key, value in part.items()}


def _check_keys(name: str, weights: StateDict, model: nn.Module) -> None:
    expected = {key: value.shape for key, value in model.state_dict().items()}
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(set(expected) - set(weights) - optional),
        "unknown": sorted(set(weights) - set(expected)),
        "of another shape": sorted(
            k for k in set(expected) & set(weights) if expected[k] != weights[k].shape
        ),
    }
    found = [f"{kind}: {_some(keys)}" for kind, keys in faults.items() if keys]
    if found:
        raise ValueError(f"the weights are not those of {name}: {'; '.join(found)}")


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
