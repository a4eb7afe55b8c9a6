"""Weights of Caffe and torchvision in this project's models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from ohem_d2.modeling import VGG16
from ohem_d2.modeling.backbones.caffe import read_caffemodel, read_npz
from ohem_d2.modeling.backbones.vgg import _VGG, _VGGBoxHead
from ohem_d2.modeling.backbones.weights import (
    CAFFE_INPUT,
    NETS,
    ImageInput,
    _some,
    convert_blobs,
    convert_torchvision,
    reverse_channels,
    torchvision_input,
    torchvision_weights,
)


class TinyVGG(_VGG):
    """Two convolutions at stride 16, called as those of VGG_CNN_M_1024."""

    def _layers(self, in_channels):
        yield "conv1", nn.Conv2d(in_channels, 4, 5, stride=4, padding=2)
        yield "relu1", nn.ReLU()
        yield "conv2", nn.Conv2d(4, 6, 5, stride=4, padding=2)


class TinyBoxHead(_VGGBoxHead):
    fc_dims = (5, 3)


@pytest.fixture
def tiny_net(monkeypatch):
    monkeypatch.setitem(NETS, "tiny", (TinyVGG, TinyBoxHead, 2))
    return "tiny"


def make_blobs(**replaced):
    rng = np.random.default_rng(0)
    shapes = {"conv1": (4, 3, 5, 5), "conv2": (6, 4, 5, 5), "fc6": (5, 24), "fc7": (3, 5), "fc8": (10, 3)}
    blobs = {name: [rng.normal(size=shape), rng.normal(size=shape[0])] for name, shape in shapes.items()}
    blobs = {name: [a.astype(np.float32) for a in arrays] for name, arrays in blobs.items()}
    return {name: arrays for name, arrays in {**blobs, **replaced}.items() if arrays is not None}


def write(tmp_path, kind, blobs):
    if kind != "npz":
        from .caffe_files import write_caffemodel  # here, since it needs protobuf

        return read_caffemodel(str(write_caffemodel(tmp_path / "a.caffemodel", blobs, kind)))
    np.savez(
        tmp_path / "a.npz",
        **{f"{name}.{i}": a for name, arrays in blobs.items() for i, a in enumerate(arrays)},
    )
    return read_npz(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("kind", ["v0", "v1", "new", "npz"])
def test_a_network_of_caffe_computes_the_same_here(tmp_path, tiny_net, kind):
    blobs = make_blobs()
    state = convert_blobs(write(tmp_path, kind, blobs), None)  # found by its layers
    backbone, head = (
        TinyVGG().eval(),
        TinyBoxHead(input_shape=ShapeSpec(channels=6, height=2, width=2)).eval(),
    )
    for module, prefix in (backbone, "backbone."), (head, "roi_heads.box_head."):
        module.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    torch.manual_seed(0)
    image = torch.randn(1, 3, 32, 32)
    w = {name: [torch.from_numpy(a) for a in arrays] for name, arrays in blobs.items()}
    conv5 = F.conv2d(
        F.conv2d(image, *w["conv1"], stride=4, padding=2).relu(), *w["conv2"], stride=4, padding=2
    )
    fc7 = F.linear(F.linear(conv5.flatten(1), *w["fc6"]).relu(), *w["fc7"]).relu()
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)["conv5"], conv5, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(head(conv5), fc7, rtol=1e-4, atol=1e-4)
    assert fc7.any() and "fc8" not in " ".join(state)


@pytest.mark.parametrize(
    "replaced, net, message",
    [
        ({"fc7": None}, "tiny", "tiny needs weight and bias of 'fc7'; there are: conv1, conv2, fc6, fc8"),
        ({"fc7": [np.zeros((3, 5))]}, "tiny", "tiny needs weight and bias of 'fc7'"),
        (
            {"fc6": [np.zeros((5, 54)), np.zeros(5)]},
            "tiny",
            r"weight of 'fc6' has shape \(5, 54\); tiny needs \(5, 24\)",
        ),
        (
            {"conv2": [np.zeros((6, 4, 5, 5)), np.zeros(4)]},
            "tiny",
            r"bias of 'conv2' has shape \(4,\); tiny needs \(6,\)",
        ),
        (
            {"fc7": None},
            None,
            "no network of vgg16, vgg_cnn_m_1024, tiny has the layers conv1, conv2, fc6, fc8",
        ),
        ({}, "vgg16", "vgg16 needs weight and bias of 'conv1_1'; there are: conv1"),
    ],
)
def test_blobs_of_another_network_are_an_error(tiny_net, replaced, net, message):
    with pytest.raises(ValueError, match=message):
        convert_blobs(make_blobs(**replaced), net)


def test_reversed_channels_take_the_reversed_image():
    torch.manual_seed(0)
    backbone, turned = TinyVGG(), TinyVGG()
    turned.load_state_dict(reverse_channels(backbone.state_dict()))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(turned(image.flip(1))["conv5"], backbone(image)["conv5"])
        assert not torch.allclose(turned(image)["conv5"], backbone(image)["conv5"])


def test_the_channels_are_those_of_the_first_convolution():
    state = {"positions": torch.randn(5, 3), "conv.weight": torch.randn(4, 3, 2, 2)}
    turned = reverse_channels(state)
    assert turned["positions"] is state["positions"]
    assert torch.equal(turned["conv.weight"], state["conv.weight"][:, [2, 1, 0]])


def test_inputs_follow_the_format():
    rgb = torchvision_input("vgg16").to("BGR")
    # 255 (0.406, 0.456, 0.485) and 255 (0.225, 0.224, 0.229)
    assert rgb.pixel_mean == pytest.approx((103.53, 116.28, 123.675)) and rgb.pixel_std == pytest.approx(
        (57.375, 57.12, 58.395)
    )
    assert CAFFE_INPUT.to("BGR") == CAFFE_INPUT
    assert CAFFE_INPUT.to("RGB").pixel_mean == (122.7717, 115.9465, 102.9801)
    scaled = torchvision_input("googlenet")  # which scales to mean 0.5 once more, when pretrained
    assert scaled.pixel_mean == scaled.pixel_std == (127.5,) * 3


def test_inputs_differ_by_format_mean_or_std():
    one = ImageInput("BGR", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0))
    assert not one.differs_from(ImageInput("BGR", (1.005, 2.0, 3.0), (1.0, 1.0, 1.0)))
    assert one.differs_from(ImageInput("RGB", (1.0, 2.0, 3.0), (1.0, 1.0, 1.0)))
    assert one.differs_from(ImageInput("BGR", (1.0, 2.0, 3.1), (1.0, 1.0, 1.0)))
    assert one.differs_from(ImageInput("BGR", (1.0, 2.0, 3.0), (1.0, 1.1, 1.0)))


@pytest.mark.parametrize(
    "fields, message",
    [
        (("GBR", (1, 2, 3), (1, 1, 1)), "image format 'GBR'; valid: BGR, RGB"),
        (("BGR", (1, 2), (1, 1, 1)), "valid: three numbers each, the std above 0"),
        (("BGR", (1, 2, 3), (1, 0, 1)), "valid: three numbers each, the std above 0"),
    ],
)
def test_an_input_out_of_range_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageInput(*fields)


@pytest.mark.parametrize(
    "backbone, prefix",
    [
        ("TorchvisionBackbone", "backbone.body."),
        ("build_torchvision_fpn_backbone", "backbone.bottom_up.body."),
    ],
)
def test_keys_of_torchvision_go_below_the_backbone_without_the_classifier(backbone, prefix, caplog):
    weights = resnet18().state_dict()
    with caplog.at_level("INFO"):
        state = convert_torchvision("resnet18", weights, backbone)
    assert caplog.messages == ["Left out, since only classification needs it: fc"]
    kept = [k for k in weights if not k.startswith("fc.") and not k.endswith("num_batches_tracked")]
    assert list(state) == [prefix + k for k in kept]
    assert all(state[prefix + k] is weights[k] for k in kept)


@pytest.mark.parametrize(
    "name, backbone, message",
    [
        ("resnet17", "TorchvisionBackbone", "torchvision network has 'resnet17'; valid: alexnet"),
        (
            "resnet18",
            "VGG16",
            "backbone 'VGG16' of resnet18; valid: TorchvisionBackbone, build_torchvision_fpn_backbone",
        ),
        ("vgg16", "VGG_CNN_M_1024", "backbone 'VGG_CNN_M_1024' of vgg16; valid: VGG16, TorchvisionBackbone"),
    ],
)
def test_an_unknown_network_or_backbone_is_named(name, backbone, message):
    with pytest.raises(ValueError, match=message):
        convert_torchvision(name, {}, backbone)


@pytest.mark.parametrize("of_network", [torchvision_input, torchvision_weights])
def test_an_unknown_network_has_neither_input_nor_weights(of_network):
    with pytest.raises(ValueError, match="^network has 'resnet17'; valid: alexnet"):
        of_network("resnet17")


def test_weights_of_another_network_are_named():
    weights = resnet18().state_dict()
    with pytest.raises(
        ValueError, match="not those of resnet34: missing: layer1.2.bn1.bias, .* and 75 more$"
    ):
        convert_torchvision("resnet34", weights, "TorchvisionBackbone")
    weights["fc.weight"] = torch.zeros(10, 512)
    weights["extra"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match="not those of resnet18: unknown: extra; of another shape: fc.weight$"
    ):
        convert_torchvision("resnet18", weights, "TorchvisionBackbone")


def test_up_to_five_faults_are_named():
    names = "abcdef"
    assert _some(names[:5]) == "a, b, c, d, e" and _some(names) == "a, b, c, d, e and 1 more"


def test_the_order_of_a_state_dict_does_not_matter():
    with torch.device("meta"):
        from torchvision.models import vgg16

        weights = vgg16().state_dict()
        shapes = VGG16().state_dict()
    for order in list(weights), list(weights)[::-1]:
        state = convert_torchvision("vgg16", {k: weights[k] for k in order}, "VGG16")
        assert list(state)[:2] == ["backbone.conv1_1.weight", "backbone.conv1_1.bias"]
        assert state["backbone.conv5_3.weight"] is weights["features.28.weight"]
        assert state["roi_heads.box_head.fc7.bias"] is weights["classifier.3.bias"]
        assert len(state) == len(shapes) + 4


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_file_of_weights_that_cannot_be_read_is_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is no state dict: no checkpoint, or truncated"):
        torchvision_weights("resnet18", str(tmp_path / name))


def test_a_file_of_something_else_is_named(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth is no state dict of tensors"):
        torchvision_weights("resnet18", str(tmp_path / "a.pth"))
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth is no state dict of tensors"):
        torchvision_weights("resnet18", str(tmp_path / "a.pth"))


def test_a_state_dict_is_read_from_its_file_or_downloaded_and_checked(tmp_path, monkeypatch):
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "a.pth")
    assert torchvision_weights("resnet18", str(tmp_path / "a.pth"))["conv.weight"].tolist() == [1, 1]
    asked = []

    def get_model_weights(name):
        state = lambda **options: asked.append((name, options)) or {"fc": 1}  # noqa: E731
        return SimpleNamespace(DEFAULT=SimpleNamespace(get_state_dict=state))

    monkeypatch.setattr("ohem_d2.modeling.backbones.weights.get_model_weights", get_model_weights)
    assert torchvision_weights("resnet18") == {"fc": 1}
    assert asked == [("resnet18", {"progress": False, "check_hash": True})]
