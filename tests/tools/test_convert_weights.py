"""The converter of weights, from its command line to the model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torchvision.models import get_model, resnet18, vgg16
from torchvision.models.feature_extraction import create_feature_extractor

from ohem_d2.engine import load_config
from ohem_d2.utils.checkpoint import CheckedCheckpointer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def convert(load_script, monkeypatch, capsys):
    """Run the script; returns what it prints as ``KEY VALUE`` overrides of a config."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, args)])
        load_script("tools/convert_weights.py").main()
        return capsys.readouterr().out.splitlines()[-1].split()

    return run


def load(base, opts, tmp_path):
    cfg = load_config(f"configs/{base}.yaml", [*opts, "OUTPUT_DIR", str(tmp_path)])
    model = build_model(cfg).eval()
    CheckedCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def same_image(model, size):
    """An image as `model` takes it, normalised by it, and the RGB image as torchvision normalises it."""
    rgb = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = rgb if model.input_format == "RGB" else rgb.flip(0)
    ours = model.preprocess_image([{"image": image}]).tensor
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ours, ((rgb / 255 - mean[:, None, None]) / std[:, None, None])[None]


@pytest.mark.parametrize(
    "name, base, layer",
    [("squeezenet1_0", "SqueezeNet", "features.10"), ("resnet18", "ResNet18", "layer2")],
)
def test_the_small_model_has_the_features_of_a_safetensors_file(tmp_path, convert, name, base, layer):
    """What the script prints are the values of the config, so that the commands need no more."""
    torch.manual_seed(0)
    theirs = get_model(name, weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    opts = convert("torchvision", name, tmp_path / "ours.pth", "--weights", tmp_path / "theirs.safetensors")
    model = load(f"Base-FasterRCNN-small-{base}", ["MODEL.WEIGHTS", str(tmp_path / "ours.pth")], tmp_path)
    ours, image = same_image(model, (64, 96))
    assert opts[:2] == ["MODEL.WEIGHTS", str(tmp_path / "ours.pth")]
    with torch.no_grad():
        expected = create_feature_extractor(theirs, [layer])(image)[layer]
        torch.testing.assert_close(model.backbone(ours)[layer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image_format, suffix", [("BGR", "pth"), ("RGB", "pkl")])
def test_a_resnet_of_torchvision_has_its_features_here(tmp_path, convert, image_format, suffix):
    torch.manual_seed(0)
    theirs = resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    args = ["--weights", tmp_path / "theirs.pth", "--format", image_format]
    opts = convert("torchvision", "resnet18", tmp_path / "a_new_folder" / f"ours.{suffix}", *args)
    keys = [
        "BACKBONE.NAME",
        "TorchvisionBackbone",
        "TORCHVISION.NAME",
        "resnet18",
        "ROI_HEADS.IN_FEATURES",
        "['layer3']",
    ]
    model = load("Base-FastRCNN-small", [*opts, *(f"MODEL.{k}" if "." in k else k for k in keys)], tmp_path)
    assert model.input_format == image_format
    ours, image = same_image(model, (64, 96))
    torch.testing.assert_close(ours if image_format == "RGB" else ours.flip(1), image, rtol=0, atol=1e-5)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        expected = theirs.layer3(theirs.layer2(theirs.layer1(x)))
        features = model.backbone(ours)["layer3"]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_vgg16_of_torchvision_has_its_features_here(tmp_path, convert, record_property, image_format):
    torch.manual_seed(0)
    theirs = vgg16(init_weights=False).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    args = ["--weights", tmp_path / "theirs.pth", "--format", image_format]
    opts = convert("torchvision", "vgg16", tmp_path / "ours.pth", *args)
    model = load("Base-FastRCNN-VGG16", opts, tmp_path)
    ours, image = same_image(model, (224, 224))
    with torch.no_grad():
        conv5, expected = model.backbone(ours)["conv5"], theirs.features[:-1](image)
        fc7 = model.roi_heads.box_head(torch.nn.functional.max_pool2d(conv5, 2))
        expected_fc7 = theirs.classifier[:-1](theirs.features(image).flatten(1))
    torch.testing.assert_close(conv5, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fc7, expected_fc7, rtol=1e-5, atol=1e-7)
    largest = [(conv5 - expected).abs().max().item(), (fc7 - expected_fc7).abs().max().item()]
    record_property(
        "largest_difference",
        f"conv5 {largest[0]:.3g} of {expected.max():.3g}, fc7 {largest[1]:.3g} of {expected_fc7.max():.3g}",
    )
    assert expected.max() > 0.01 and expected_fc7.max() > 0.001


def test_weights_are_refused_by_a_config_for_other_images(tmp_path, convert):
    torch.save(resnet18().state_dict(), tmp_path / "theirs.pth")
    opts = convert(
        "torchvision",
        "resnet18",
        tmp_path / "ours.pth",
        "--weights",
        tmp_path / "theirs.pth",
        "--format",
        "RGB",
    )
    assert opts[:4] == ["MODEL.WEIGHTS", str(tmp_path / "ours.pth"), "INPUT.FORMAT", "RGB"]
    keys = [
        "MODEL.BACKBONE.NAME",
        "TorchvisionBackbone",
        "MODEL.TORCHVISION.NAME",
        "resnet18",
        "MODEL.ROI_HEADS.IN_FEATURES",
        "['layer3']",
    ]
    with pytest.raises(
        ValueError,
        match=r"set INPUT.FORMAT RGB MODEL.PIXEL_MEAN \[123.675,116.28,103.53\] MODEL.PIXEL_STD \[58.395,",
    ):
        load("Base-FastRCNN-small", [*opts[:2], *keys], tmp_path)


def test_the_mean_that_is_given_is_recorded(tmp_path, convert):
    torch.save(resnet18().state_dict(), tmp_path / "theirs.pth")
    opts = convert(
        "torchvision",
        "resnet18",
        tmp_path / "a.pth",
        "--weights",
        tmp_path / "theirs.pth",
        "--pixel-mean",
        1,
        2,
        3,
    )
    assert (
        opts[2:]
        == "INPUT.FORMAT BGR MODEL.PIXEL_MEAN [1.0,2.0,3.0] MODEL.PIXEL_STD [57.375,57.12,58.395]".split()
    )
    stored = torch.load(tmp_path / "a.pth", weights_only=True)
    assert stored["image_input"] == {
        "format": "BGR",
        "pixel_mean": [1, 2, 3],
        "pixel_std": pytest.approx([57.375, 57.12, 58.395]),
    }
    assert stored["matching_heuristics"] is False


def npz(tmp_path):
    np.savez(tmp_path / "a.npz", **{"conv1.0": np.zeros((2, 3, 3, 3))})
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    "args, message",
    [
        (["torchvision", "resnet18", "out.txt"], "out.txt must end in .pth or .pkl"),
        (["torchvision", "resnet17", "out.pth"], "'resnet17'; valid: alexnet"),
        (["torchvision", "resnet18", "out.pth", "--weights", "none.pth"], "none.pth"),
        (["caffe", "none.caffemodel", "out.pth"], "none.caffemodel"),
        (["caffe", npz, "out.pth"], "no network of vgg16, vgg_cnn_m_1024 has the layers conv1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, convert, args, message):
    args = [arg(tmp_path) if callable(arg) else tmp_path / arg if "." in arg else arg for arg in args]
    with pytest.raises(SystemExit) as error:
        convert(*args)
    assert (
        str(error.value).startswith("convert_weights.py: ")
        and message in str(error.value)
        and "\n" not in str(error.value)
    )


def test_it_runs_as_a_script():
    run = subprocess.run(
        [sys.executable, "tools/convert_weights.py", "-h"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0 and "VGG_CNN_M_1024" in run.stdout
