"""Backbones: the paper's networks, with their box heads, and torchvision's."""

from .torchvision_models import TorchvisionBackbone, build_torchvision_fpn_backbone
from .vgg import VGG16, VGG_CNN_M_1024, VGG16BoxHead, VGG_CNN_M_1024BoxHead

__all__ = [
    "TorchvisionBackbone",
    "VGG16",
    "VGG16BoxHead",
    "VGG_CNN_M_1024",
    "VGG_CNN_M_1024BoxHead",
    "build_torchvision_fpn_backbone",
]
