"""Backbones made of torchvision's classification networks, by name."""

import math
from collections.abc import Sequence

import torch
import torchvision
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torchvision.models import get_model, list_models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from ...config import TorchvisionOptions

# Side in pixels of the image on which the shapes of the features are measured.
_PROBE_SIZE = 256

# Networks that rescale images to mean and std of 0.5 when torchvision loads their weights; here they do not.
SCALED = ("googlenet", "inception_v3")


def check_network(key: str, name: str) -> None:
    """Raise ValueError naming `key` unless torchvision has a classification network `name`."""
    _check_one_of(key, name, list_models(module=torchvision.models))


def build_network(name: str) -> nn.Module:
    """Torchvision's classification network `name` with random weights; ValueError for an unknown name."""
    check_network("torchvision network", name)
    options = {"init_weights": True} if name in SCALED else {}  # else these two warn
    return get_model(name, weights=None, **options)


@BACKBONE_REGISTRY.register()
class TorchvisionBackbone(Backbone):
    """Features of a convolutional classification network of torchvision, from layers that the config names.

    A feature has the name of its layer. Weights are random until a checkpoint is loaded; the keys of a state
    dict are torchvision's with the prefix ``body.``.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        layers: Sequence[str],
        strides: Sequence[int],
        freeze: Sequence[str] = (),
        norm: str = "FrozenBN",
    ):
        """Build the network and measure its features.

        Args:
            name: one of ``torchvision.models.list_models()``.
            layers: names of modules or graph nodes, in the order in which they run.
            strides: of each of `layers`, in pixels; powers of two.
            freeze: modules and parameters that are not trained, including all submodules.
            norm: "BN", or "FrozenBN" for batch normalisation with fixed statistics and affine parameters.

        Raises:
            ValueError: an unknown name, with the valid ones, or a layer whose output is not a feature map of
                its stride.
        """
        super().__init__()
        check_network("MODEL.TORCHVISION.NAME", name)
        TorchvisionOptions(name, tuple(layers), tuple(strides), tuple(freeze), norm)  # checks the values
        model = build_network(name)
        _check_layers(model, layers)
        self.body = create_feature_extractor(model, list(layers), suppress_diff_warning=True)
        self._strides = dict(zip(layers, strides))
        self._sizes = self._measure(name)
        self._freeze(freeze)
        if norm == "FrozenBN":
            self.body = FrozenBatchNorm2d.convert_frozen_batchnorm(self.body)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return dict(vars(TorchvisionOptions.from_config(cfg)))

    def _measure(self, name: str) -> dict[str, torch.Size]:
        """(C, H, W) of each feature of a square image of side `_PROBE_SIZE`, checked against the strides."""
        self.eval()
        try:
            with torch.no_grad():
                features = self.body(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"MODEL.TORCHVISION.NAME {name!r} cannot be a backbone: {error}") from None
        self.train()
        for layer, feature in features.items():
            if not _has_stride(feature, self._strides[layer]):
                raise ValueError(
                    f"MODEL.TORCHVISION.STRIDES has {self._strides[layer]} for {layer!r} of {name!r}, whose "
                    f"output for an image of {_PROBE_SIZE} x {_PROBE_SIZE} has shape "
                    f"{tuple(getattr(feature, 'shape', ()))}"
                )
        return {layer: feature.shape[1:] for layer, feature in features.items()}

    def _freeze(self, names: Sequence[str]) -> None:
        parameters = dict(self.body.named_parameters())
        for name in names:
            below = [p for key, p in parameters.items() if f"{key}.".startswith(f"{name}.")]
            if not below:
                raise ValueError(
                    f"MODEL.TORCHVISION.FREEZE has {name!r}; valid: {', '.join(_shallow(parameters))}, "
                    "and below"
                )
            for parameter in below:
                parameter.requires_grad_(False)

    @property
    def divides(self) -> bool:
        """Whether each map has exactly the sides of the image over its stride, where it divides them."""
        return all(h == w == _PROBE_SIZE // self._strides[layer] for layer, (_, h, w) in self._sizes.items())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Layer -> its features (N, C, about H / stride, about W / stride) for `images` (N, 3, H, W)."""
        return self.body(images)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            layer: ShapeSpec(channels=c, stride=self._strides[layer])
            for layer, (c, _, _) in self._sizes.items()
        }


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on the layers ``MODEL.FPN.IN_FEATURES`` of a `TorchvisionBackbone`.

    Raises:
        ValueError: see `TorchvisionBackbone`; or the features do not halve in size from layer to layer.
    """
    bottom_up, names = TorchvisionBackbone(cfg, input_shape), cfg.MODEL.FPN.IN_FEATURES
    shapes = bottom_up.output_shape()
    for name in names:
        _check_one_of("MODEL.FPN.IN_FEATURES", name, list(shapes))
    strides = [shapes[name].stride for name in names]
    if not bottom_up.divides or any(b != 2 * a for a, b in zip(strides, strides[1:])):
        raise ValueError(
            f"MODEL.TORCHVISION.NAME {cfg.MODEL.TORCHVISION.NAME!r} fits no FPN: its features of strides "
            f"{strides} are no pyramid, each of exactly half the sides of the one before"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=names,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool() if strides[-1] == 32 else None,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _has_stride(feature: Tensor, stride: int) -> bool:
    """Whether `feature` of the probe is an NCHW map of `stride`, up to cells lost by missing padding."""
    if not isinstance(feature, Tensor) or feature.dim() != 4:
        return False
    return all(2 ** round(math.log2(_PROBE_SIZE / side)) == stride for side in feature.shape[2:])


def _check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    nodes = [node for node in get_graph_node_names(model, suppress_diff_warning=True)[1]]
    known = {".".join(node.split(".")[:depth]) for node in nodes for depth in range(1, node.count(".") + 2)}
    unknown = [layer for layer in layers if layer not in known]
    if unknown or not layers:
        raise ValueError(
            f"MODEL.TORCHVISION.LAYERS has {(unknown or [()])[0]!r}; valid: {', '.join(_shallow(nodes))}, "
            "and below"
        )


def _shallow(names: Sequence[str]) -> list[str]:
    """The first two parts of dotted `names`, each once, in order."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))


def _check_one_of(key: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"{key} has {value!r}; valid: {', '.join(valid)}")
