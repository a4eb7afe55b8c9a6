"""The paper's networks: VGG16 (Simonyan and Zisserman 2015) and VGG_CNN_M_1024 (Chatfield et al. 2014).

Layers, and so the keys of a state dict, have the names of the authors' Caffe models (``conv1_1``, ``fc6``).
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_BOX_HEAD_REGISTRY, Backbone
from torch import Tensor, nn

NamedLayers = Iterator[tuple[str, nn.Module]]


class LocalResponseNorm(nn.LocalResponseNorm):
    """``x / (k + alpha / size * sum of x^2 over size channels) ** beta``, as in AlexNet.

    Computed in float32, since squares of activations above 255 overflow float16.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class _VGG(Backbone):
    """Five blocks of convolutions, each followed by a ReLU. The only output is ``conv5``, of stride 16.

    Pooling rounds up as in Caffe: in VGG16 a side of 600 pixels has 38 cells.
    """

    @configurable
    def __init__(self, *, in_channels: int = 3, freeze_at: int = 0):
        """Build the layers.

        Args:
            in_channels: channels of the image.
            freeze_at: number of blocks, from the first, that are not trained; 0 to 5.

        Raises:
            ValueError: `freeze_at` is out of range.
        """
        super().__init__()
        if freeze_at not in range(6):
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; valid for {type(self).__name__}: 0 to 5 blocks"
            )
        for name, layer in self._layers(in_channels):
            self.add_module(name, layer)
        convs = {name: layer for name, layer in self.named_children() if isinstance(layer, nn.Conv2d)}
        for name, conv in convs.items():
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            conv.requires_grad_(int(name[len("conv")]) > freeze_at)
        self._channels = conv.out_channels

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {"in_channels": input_shape.channels, "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT}

    def _layers(self, in_channels: int) -> NamedLayers:
        """The layers in the order in which they run. The digit after ``conv`` is the block."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``conv5``, (N, 512, about H / 16, about W / 16), of `images` (N, C, H, W)."""
        x = images
        for layer in self.children():
            x = layer(x)
        return {"conv5": x}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"conv5": ShapeSpec(channels=self._channels, stride=16)}


@BACKBONE_REGISTRY.register()
class VGG16(_VGG):
    """Thirteen 3x3 convolutions. The paper trains them from ``conv3_1`` on: ``MODEL.BACKBONE.FREEZE_AT: 2``.

    On images whose sides are multiples of 16 it equals torchvision's ``vgg16().features`` without the last
    pooling.
    """

    def _layers(self, in_channels: int) -> NamedLayers:
        for block, (depth, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
            if block > 1:
                yield f"pool{block - 1}", nn.MaxPool2d(2, ceil_mode=True)
            for i in range(1, depth + 1):
                yield f"conv{block}_{i}", nn.Conv2d(in_channels, channels, 3, padding=1)
                yield f"relu{block}_{i}", nn.ReLU(inplace=True)
                in_channels = channels


@BACKBONE_REGISTRY.register()
class VGG_CNN_M_1024(_VGG):
    """Five convolutions. The paper trains them from ``conv2`` on: ``MODEL.BACKBONE.FREEZE_AT: 1``.

    Images must have at least 25 pixels a side, since the first convolution has no padding.
    """

    def _layers(self, in_channels: int) -> NamedLayers:
        for block, conv in enumerate(
            [nn.Conv2d(in_channels, 96, 7, stride=2), nn.Conv2d(96, 256, 5, 2, padding=1)], 1
        ):
            yield f"conv{block}", conv
            yield f"relu{block}", nn.ReLU(inplace=True)
            yield f"norm{block}", LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)
            yield f"pool{block}", nn.MaxPool2d(3, stride=2, ceil_mode=True)
        for block, channels in [(3, 256), (4, 512), (5, 512)]:
            yield f"conv{block}", nn.Conv2d(channels, 512, 3, padding=1)
            yield f"relu{block}", nn.ReLU(inplace=True)


class _VGGBoxHead(nn.Sequential):
    """fc6 and fc7, each followed by a ReLU and dropout of one half."""

    fc_dims: ClassVar[Sequence[int]]  # outputs of fc6 and fc7

    @configurable
    def __init__(self, *, input_shape: ShapeSpec):
        """Build the layers for RoIs of `input_shape`, whose channels, height and width are flattened."""
        super().__init__()
        self.add_module("flatten", nn.Flatten())
        width = input_shape.channels * input_shape.height * input_shape.width
        for i, dim in enumerate(self.fc_dims, start=6):
            fc = nn.Linear(width, dim)
            nn.init.normal_(fc.weight, std=0.01)
            nn.init.zeros_(fc.bias)
            for name, layer in ("fc", fc), ("relu", nn.ReLU(inplace=True)), ("drop", nn.Dropout(0.5)):
                self.add_module(f"{name}{i}", layer)
            width = dim

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        return {"input_shape": input_shape}

    @property
    @torch.jit.unused
    def output_shape(self) -> ShapeSpec:
        return ShapeSpec(channels=self.fc_dims[-1])


@ROI_BOX_HEAD_REGISTRY.register()
class VGG16BoxHead(_VGGBoxHead):
    """The box head of VGG16, for RoIs of 512 x 7 x 7."""

    fc_dims = (4096, 4096)


@ROI_BOX_HEAD_REGISTRY.register()
class VGG_CNN_M_1024BoxHead(_VGGBoxHead):
    """The box head of VGG_CNN_M_1024, for RoIs of 512 x 6 x 6."""

    fc_dims = (4096, 1024)
