"""VGG16 and VGG_CNN_M_1024."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers, vgg16

from ohem_d2.engine import load_config
from ohem_d2.modeling import VGG16, VGG_CNN_M_1024, VGG16BoxHead, VGG_CNN_M_1024BoxHead
from ohem_d2.modeling.backbones.vgg import LocalResponseNorm

# RoIPool rounds a corner to a cell and includes it: these are cells 0 to 13 of 14 at stride 16.
ALL_OF_14_CELLS = [Boxes(torch.tensor([[0.0, 0.0, 13 * 16, 13 * 16]]))]


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def head_of(cls, side):
    with torch.device("meta"):
        return cls(input_shape=ShapeSpec(channels=512, height=side, width=side))


def config_of(net, tmp_path, *opts):
    return load_config(
        f"configs/Base-FastRCNN-{net}.yaml", ["OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", "", *opts]
    )


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return VGG16().eval()


@pytest.fixture(scope="module")
def vgg_m():
    torch.manual_seed(0)
    return VGG_CNN_M_1024().eval()


def test_vgg16_has_the_published_number_of_parameters(vgg):
    # 3x3 convolutions with biases, out (9 in + 1): 64(28 + 577) + 128(577 + 1153) + 256(1153 + 2 2305)
    # + 512(2305 + 2 4609) + 512(3 4609) = 38,720 + 221,440 + 1,475,328 + 5,899,776 + 7,079,424
    assert num_parameters(vgg) == 14_714_688
    # fc6 4096 (7 7 512 + 1) = 102,764,544; fc7 4096 4097 = 16,781,312. fc8 has 1000 4097.
    head = head_of(VGG16BoxHead, 7)
    assert num_parameters(head) == 119_545_856
    assert num_parameters(vgg) + num_parameters(head) + 1000 * 4097 == 138_357_544


def test_the_layers_of_vgg16_are_those_of_torchvision_and_pooling_rounds_up(vgg):
    theirs = make_layers(cfgs["D"])[:-1]  # without the last pooling
    assert len(list(vgg.children())) == len(theirs)
    for ours, other in zip(vgg.children(), theirs):
        assert type(ours) is type(other)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "inplace"):
            assert getattr(ours, name, None) == getattr(other, name, None)
    names = [name for name, layer in vgg.named_children() if isinstance(layer, torch.nn.MaxPool2d)]
    assert names == ["pool1", "pool2", "pool3", "pool4"] and all(
        vgg.get_submodule(n).ceil_mode for n in names
    )


def test_vgg_cnn_m_1024_has_the_published_number_of_parameters(vgg_m):
    # conv1 96 (7 7 3 + 1) = 14,208; conv2 256 (5 5 96 + 1) = 614,656; conv3 512 (9 256 + 1) = 1,180,160;
    # conv4, conv5 512 (9 512 + 1) = 2,359,808 each
    assert num_parameters(vgg_m) == 6_528_640
    # fc6 4096 (6 6 512 + 1) = 75,501,568; fc7 1024 4097 = 4,195,328
    assert num_parameters(head_of(VGG_CNN_M_1024BoxHead, 6)) == 79_696_896


@pytest.mark.parametrize("size, cells", [((32, 48), (2, 3)), ((33, 47), (3, 3))])
def test_vgg16_has_one_map_at_stride_16_rounded_up(vgg, size, cells):
    with torch.no_grad():
        (name, conv5), *others = vgg(torch.zeros(1, 3, *size)).items()
    assert (name, conv5.shape, others) == ("conv5", (1, 512, *cells), [])
    assert vgg.output_shape() == {"conv5": ShapeSpec(channels=512, stride=16)}


@pytest.mark.parametrize("side, cells", [(224, 13), (25, 1)])
def test_vgg_cnn_m_1024_pools_as_caffe_does(vgg_m, side, cells):
    # 224: conv1 (224 - 7) // 2 + 1 = 109, pool ceil(106 / 2) + 1 = 54, conv2 (54 + 2 - 5) // 2 + 1 = 26,
    # pool ceil(23 / 2) + 1 = 13. 25: 10, ceil(7 / 2) + 1 = 5, 2, ceil(-1 / 2) + 1 = 1
    with torch.no_grad():
        conv5 = vgg_m(torch.zeros(1, 3, side, side))["conv5"]
    assert conv5.shape == (1, 512, cells, cells)
    assert vgg_m.output_shape() == {"conv5": ShapeSpec(channels=512, stride=16)}


def test_vgg_cnn_m_1024_is_its_definition_step_by_step(vgg_m):
    """Against functions of torch; normalisation and rounding up written out."""

    def norm(x):
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        sums = sum(squares[:, i : i + x.shape[1]] for i in range(5))
        return x / (2 + 5e-4 / 5 * sums) ** 0.75

    def pool(x):
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)

    image = torch.randn(1, 3, 59, 59, generator=torch.Generator().manual_seed(0)) * 50
    w = dict(vgg_m.named_parameters())
    with torch.no_grad():
        x = pool(
            norm(F.conv2d(image, w["conv1.weight"], w["conv1.bias"], stride=2).relu())
        )  # 27, padded to 28: 13
        x = norm(
            F.conv2d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1).relu()
        )  # 6, which pads to 7
        x = pool(x)
        for name in "conv3", "conv4", "conv5":
            x = F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1).relu()
        torch.testing.assert_close(vgg_m(image)["conv5"], x, rtol=1e-4, atol=1e-5)
    assert x.shape == (1, 512, 3, 3) and x.max() > 0.1


def test_normalisation_of_one_cell_by_hand():
    x = torch.tensor([100.0, 200.0, 0.0, 300.0]).view(1, 4, 1, 1)
    # The window of channel 1 holds all four: 2 + 5e-4 / 5 (1e4 + 4e4 + 9e4) = 16; 16^0.75 = 8; 200 / 8 = 25
    # That of channel 0 ends at channel 2: 2 + 1e-4 5e4 = 7; 100 / 7^0.75 = 100 / 4.303517 = 23.23681
    out = LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0)(x).flatten()
    assert out[:2].tolist() == pytest.approx([23.23681, 25.0], rel=1e-5)


def test_normalisation_of_half_precision_does_not_overflow():
    norm, x = LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0), torch.full((1, 8, 2, 2), 400.0)
    out = norm(x.half())
    assert out.dtype == torch.float16  # the square, 160,000, has no half
    torch.testing.assert_close(out.float(), norm(x), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "cls, freeze_at, first",
    [
        (VGG16, 2, "conv3_1"),
        (VGG16, 0, "conv1_1"),
        (VGG_CNN_M_1024, 1, "conv2"),
        (VGG_CNN_M_1024, 4, "conv5"),
    ],
)
def test_blocks_up_to_freeze_at_are_not_trained(cls, freeze_at, first):
    with torch.device("meta"):
        names = [name for name, p in cls(freeze_at=freeze_at).named_parameters() if p.requires_grad]
        every = [name for name, _ in cls().named_parameters()]
    assert names[0] == f"{first}.weight" and names == every[every.index(names[0]) :]


def test_a_number_of_frozen_blocks_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="MODEL.BACKBONE.FREEZE_AT is 6; valid for VGG16: 0 to 5 blocks"):
        VGG16(freeze_at=6)


@pytest.mark.parametrize(
    "net, side, frozen, dims",
    [("VGG16", 7, "conv1 conv2", (4096, 4096)), ("VGG_CNN_M_1024", 6, "conv1", (4096, 1024))],
)
def test_the_base_config_is_the_published_detector(tmp_path, net, side, frozen, dims):
    model = build_model(config_of(net, tmp_path, "MODEL.DEVICE", "meta"))
    head, pooler = model.roi_heads.box_head, model.roi_heads.box_pooler
    assert (head.fc6.in_features, head.fc6.out_features, head.fc7.out_features) == (512 * side**2, *dims)
    assert [type(layer).__name__ for layer in head] == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2]
    assert head.drop6.p == head.drop7.p == 0.5
    assert [(p.output_size, p.spatial_scale, type(p).__name__) for p in pooler.level_poolers] == [
        ((side, side), 1 / 16, "RoIPool")
    ]
    fixed = {name[:5] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert fixed == set(frozen.split())
    predictor = model.roi_heads.box_predictor
    assert predictor.cls_score.in_features == predictor.bbox_pred.in_features == dims[1]
    assert predictor.smooth_l1_beta == 1.0 and predictor.box2box_transform.weights == (10.0, 10.0, 5.0, 5.0)


def test_new_layers_are_gaussian(tmp_path):
    torch.manual_seed(0)
    cfg = config_of("VGG_CNN_M_1024", tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", "20")
    predictor = FastRCNNOutputLayers(cfg, ShapeSpec(channels=1024))
    # of 21,504 and 81,920 numbers: a standard error of 0.5% and 0.25%
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.03)
    assert not predictor.cls_score.bias.any() and not predictor.bbox_pred.bias.any()


def test_vgg16_features_are_those_of_torchvision(vgg):
    torch.manual_seed(1)
    features = make_layers(cfgs["D"]).eval()
    convs = [m for m in vgg.children() if isinstance(m, torch.nn.Conv2d)]
    theirs = [m for m in features if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == len(theirs) == 13
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for conv, source in zip(theirs, convs):
            conv.load_state_dict(source.state_dict())
        expected = features[:-1](image)
        torch.testing.assert_close(vgg(image)["conv5"], expected, rtol=0, atol=1e-5)
    assert expected.max() > 0.1


def test_roi_pooling_of_the_whole_map_is_the_last_pooling():
    conv5 = torch.randn(1, 512, 14, 14)
    pooled = ROIPooler(7, (1 / 16,), 0, "ROIPool")([conv5], ALL_OF_14_CELLS)
    assert torch.equal(pooled, F.max_pool2d(conv5, 2))


@pytest.mark.slow
def test_backbone_pool_and_head_give_the_logits_of_torchvision(record_property):
    torch.manual_seed(0)
    theirs = vgg16(init_weights=False).eval()
    with torch.device("meta"):
        backbone, head = VGG16().eval(), head_of(VGG16BoxHead, 7).eval()
    own = [*backbone.state_dict(), *head.state_dict()]
    weights = dict(zip(own, theirs.state_dict().values()))
    backbone.load_state_dict({k: v for k, v in weights.items() if k.startswith("conv")}, assign=True)
    head.load_state_dict({k: v for k, v in weights.items() if k.startswith("fc")}, assign=True)
    theirs.classifier[6].weight.data.mul_(100)  # so that the logits are of the order of one
    image = torch.randn(1, 3, 224, 224) * 100
    with torch.no_grad():
        rois = ROIPooler(7, (1 / 16,), 0, "ROIPool")([backbone(image)["conv5"]], ALL_OF_14_CELLS)
        logits, expected = theirs.classifier[6](head(rois)), theirs(image)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1
    record_property(
        "largest_difference", f"{(logits - expected).abs().max():.3g} of a std of {expected.std():.3g}"
    )
