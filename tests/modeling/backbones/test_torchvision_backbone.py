"""Backbones from torchvision, by name."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torchvision.models import resnet18

from ohem_d2.modeling import TorchvisionBackbone
from ohem_d2.modeling.backbones.torchvision_models import _has_stride

from ...builders import tiny_cfg

RESNET = ("layer1", "layer2", "layer3", "layer4")
STRIDES = (4, 8, 16, 32)
FAMILIES = [
    ("resnet18", RESNET, STRIDES, (64, 128, 256, 512)),
    ("mobilenet_v2", ("features.3", "features.6", "features.13", "features.18"), STRIDES, (24, 32, 96, 1280)),
    ("convnext_tiny", ("features.1", "features.3", "features.5", "features.7"), STRIDES, (96, 192, 384, 768)),
    ("squeezenet1_1", ("features.4", "features.7", "features.12"), STRIDES[:3], (128, 256, 512)),
]


def build(name="resnet18", layers=RESNET, strides=STRIDES, backbone="TorchvisionBackbone", **keys):
    cfg = tiny_cfg("MODEL.BACKBONE.NAME", backbone)
    section = cfg.MODEL.TORCHVISION
    section.NAME, section.LAYERS, section.STRIDES = name, layers, strides
    cfg.MODEL.FPN.IN_FEATURES = list(layers)
    for key, value in keys.items():
        section[key] = value
    return build_backbone(cfg)


def spoil_statistics(model):
    """Give batch normalisation statistics that are not those of a new one."""
    torch.manual_seed(1)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            (
                m.running_mean.normal_(),
                m.running_var.uniform_(0.5, 2),
                m.weight.data.uniform_(0.5, 2),
                m.bias.data.normal_(),
            )


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_features_are_those_of_the_network_with_its_weights(norm):
    theirs = resnet18().eval()
    spoil_statistics(theirs)
    backbone = build(NORM=norm).eval()
    left = backbone.body.load_state_dict(theirs.state_dict(), strict=False)
    unused = [k for k in left.unexpected_keys if not k.endswith("num_batches_tracked")]
    assert (left.missing_keys, unused) == ([], ["fc.weight", "fc.bias"])
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        features = backbone(image)
        for name in RESNET:
            x = getattr(theirs, name)(x)
            torch.testing.assert_close(features.pop(name), x, rtol=1e-4, atol=1e-4)
    assert not features


@pytest.mark.parametrize("name, layers, strides, channels", FAMILIES)
def test_every_family_gives_maps_of_the_promised_shape(name, layers, strides, channels):
    backbone = build(name, layers, strides)
    shapes = {layer: (shape.channels, shape.stride) for layer, shape in backbone.output_shape().items()}
    assert shapes == dict(zip(layers, zip(channels, strides)))
    features = backbone(torch.randn(2, 3, 64, 64))
    assert {layer: f.shape[1] for layer, f in features.items()} == dict(zip(layers, channels))
    if backbone.divides:
        assert [f.shape[2] for f in features.values()] == [64 // s for s in strides]


@pytest.mark.parametrize(
    "name, layers, strides, channels", [*FAMILIES[:2], pytest.param(*FAMILIES[2], marks=pytest.mark.slow)]
)
def test_families_that_halve_exactly_go_under_an_fpn(name, layers, strides, channels):
    fpn = build(name, layers, strides, "build_torchvision_fpn_backbone")
    features = fpn(torch.randn(1, 3, 64, 64))
    assert {k: tuple(f.shape[1:]) for k, f in features.items()} == {
        f"p{i}": (256, 2 ** (6 - i), 2 ** (6 - i)) for i in range(2, 7)
    }


def test_a_network_whose_maps_are_no_pyramid_cannot_go_under_an_fpn():
    with pytest.raises(
        ValueError, match=r"'squeezenet1_1' fits no FPN: its features of strides \[4, 8, 16\] are no pyramid"
    ):
        build(*FAMILIES[3][:3], "build_torchvision_fpn_backbone")
    with pytest.raises(ValueError, match=r"'resnet18' fits no FPN: its features of strides \[4, 16\]"):
        build("resnet18", ("layer1", "layer3"), (4, 16), "build_torchvision_fpn_backbone")


def test_frozen_normalisation_replaces_all_and_batch_normalisation_stays_where_asked():
    frozen, plain = build(), build(NORM="BN")
    kinds = [
        [sum(isinstance(m, cls) for m in b.modules()) for cls in (FrozenBatchNorm2d, torch.nn.BatchNorm2d)]
        for b in (frozen, plain)
    ]
    assert kinds == [[20, 0], [0, 20]]  # a ResNet-18 has 20


def test_building_leaves_statistics_and_mode_as_they_were():
    backbone = build(NORM="BN")
    assert all(m.training for m in backbone.modules())
    assert all(m.num_batches_tracked == 0 for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_frozen_modules_are_not_trained():
    backbone = build(NORM="BN", FREEZE=("conv1", "bn1", "layer1"))
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    trained = {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}
    assert (frozen, trained) == ({"conv1", "bn1", "layer1"}, {"layer2", "layer3", "layer4"})


def test_a_map_has_the_stride_of_both_its_sides():
    maps = {(64, 64): True, (61, 63): True, (64, 32): False, (32, 64): False, (32, 32): False}
    assert {sides: _has_stride(torch.zeros(1, 8, *sides), 4) for sides in maps} == maps
    assert not _has_stride(torch.zeros(8, 64, 64), 4) and not _has_stride((torch.zeros(1, 8, 64, 64),), 4)


def test_a_network_that_is_another_one_in_training_is_built_without_a_warning(recwarn):
    backbone = TorchvisionBackbone(name="googlenet", layers=("inception3b",), strides=(8,))
    assert backbone.output_shape()["inception3b"].channels == 480
    assert not [str(w.message) for w in recwarn if w.category is not DeprecationWarning]


@pytest.mark.parametrize(
    "keys, message",
    [
        (
            {"name": "resnet17"},
            "MODEL.TORCHVISION.NAME has 'resnet17'; valid: alexnet, convnext_base, .*resnet18",
        ),
        (
            {"name": "fasterrcnn_resnet50_fpn"},
            "MODEL.TORCHVISION.NAME has 'fasterrcnn_resnet50_fpn'; valid: alexnet",
        ),
        ({"norm": "GN"}, "MODEL.TORCHVISION.NORM is 'GN'; valid: one of 'BN', 'FrozenBN'"),
        ({"layers": ("layer5",), "strides": (4,)}, r"LAYERS has 'layer5'; valid: .*layer4\.1, .*and below"),
        ({"layers": (), "strides": ()}, r"LAYERS has \(\); valid: "),
        ({"layers": ("",), "strides": (4,)}, r"LAYERS has ''; valid: .*, and below$"),
        ({"strides": (4, 8)}, r"STRIDES is \(4, 8\); valid: one stride for each of LAYERS \('layer1', "),
        (
            {"strides": (4, 8, 16, 16)},
            r"STRIDES has 16 for 'layer4' of 'resnet18', .* has shape \(1, 512, 8, 8\)",
        ),
        ({"freeze": ("layer",)}, r"FREEZE has 'layer'; valid: conv1.weight, .*layer1\.0, .*, and below$"),
        (
            {"name": "swin_t", "layers": ("features.1",), "strides": (4,)},
            r"has shape \(1, 64, 64, 96\)",
        ),  # NHWC
        (
            {"name": "shufflenet_v2_x0_5", "layers": ("stage2.1.chunk",), "strides": (8,)},
            r"has shape \(\)",
        ),  # two tensors
        (
            {"name": "vit_b_16", "layers": ("encoder",), "strides": (16,)},
            "'vit_b_16' cannot be a backbone: Wrong image",
        ),
    ],
)
def test_a_wrong_key_is_named_with_the_valid_choices(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        TorchvisionBackbone(**{"name": "resnet18", "layers": RESNET, "strides": STRIDES, **keys})
    assert "\n" not in str(error.value)
