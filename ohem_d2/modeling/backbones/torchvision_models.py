"""torchvision's classification networks as backbones, by name."""

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

_PROBE_SIZE = 256
"""Side in pixels of the image that the shapes of the features are measured on."""

SCALED = ("googlenet", "inception_v3")
"""Networks that, when pretrained, scale images once more, to mean and std of 0.5; here they do not."""


def check_network(key: str, name: str) -> None:
    """Raise ValueError, which names `key`, unless torchvision has a classification network `name`."""
    _check_one_of(key, name, list_models(module=torchvision.models))


def build_network(name: str) -> nn.Module:
    """Torchvision's classification network `name`, its weights random; ValueError: there is none."""
    check_network("torchvision network", name)
    return get_model(
        name, weights=None, **({"init_weights": True} if name in SCALED else {})
    )  # else these two warn


@BACKBONE_REGISTRY.register()
class TorchvisionBackbone(Backbone):
    """Features of any convolutional classification network of torchvision, from layers that the config names.

    The features are called as their layers are. Weights are random until a checkpoint is loaded; the keys
    of a state dict are torchvision's after ``body.``.
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
        """Args:
            name: of ``torchvision.models.list_models``.
            layers: names of modules or nodes, in the order in which they run.
            strides: of each of `layers`, in pixels; powers of two.
            freeze: modules and parameters that are not trained, with all below them.
            norm: "BN", or "FrozenBN" for batch normalisation by fixed statistics.

        Raises:
            ValueError: an unknown name, with the valid ones; an output that is no feature map of its stride.
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
        """The (C, H, W) of each feature of a square image of `_PROBE_SIZE`, checked against the strides."""
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
        """Whether the maps have exactly 1 / stride of the sides of an image that the strides divide."""
        return all(h == w == _PROBE_SIZE // self._strides[layer] for layer, (_, h, w) in self._sizes.items())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Args:
            images: (N, 3, H, W).

        Returns:
            by layer, the features (N, C, about H / stride, about W / stride).
        """
        return self.body(images)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            layer: ShapeSpec(channels=c, stride=self._strides[layer])
            for layer, (c, _, _) in self._sizes.items()
        }


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`TorchvisionBackbone` under Detectron2's FPN, of the layers ``MODEL.FPN.IN_FEATURES``.

    Raises:
        ValueError: see `TorchvisionBackbone`; or the strides or sizes of the features are no pyramid.
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
    """Whether `feature` of the probe is an NCHW map of `stride`, give or take what lack of padding costs."""
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
