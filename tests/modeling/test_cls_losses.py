"""Focal and guided losses, and the prior of the classifier."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torchvision.ops import sigmoid_focal_loss

from ohem_d2.modeling import roi_losses
from ohem_d2.modeling.cls_losses import (
    FocalOutputLayers,
    GuidedOutputLayers,
    bias_to_background,
    with_cls_loss,
)

from ..builders import SHAPES, build_heads, make_inputs, tiny_cfg

pytestmark = pytest.mark.usefixtures("storage")


def build(cls, num_classes, **kwargs):
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    shape = ShapeSpec(channels=6)
    return cls(shape, box2box_transform=transform, num_classes=num_classes, smooth_l1_beta=1.0, **kwargs)


def make_proposals(labels):
    """RoIs of 10 x 10 pixels, 2 to the left of their objects: the target of dx is 10 * 2 / 10, others 0."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(len(labels), 1)
    shift = torch.tensor([2.0, 0.0, 2.0, 0.0])
    fields = {"gt_classes": torch.tensor(labels, dtype=torch.long), "gt_boxes": Boxes(boxes + shift)}
    return [Instances((20, 20), proposal_boxes=Boxes(boxes), **fields)]


# Two classes; logits of equal scores: each of the three has the probability 1/3.
LABELS, LOG3 = [0, 2, 2, 2], math.log(3)
PROPOSALS, EQUAL = make_proposals(LABELS), (torch.zeros(4, 3), torch.zeros(4, 8))
BOX = 2 - 0.5  # smooth L1 of a target of 2, with beta 1


def test_focal_loss_by_hand():
    predictor = build(FocalOutputLayers, 2, gamma=2.0, alpha=0.25)
    losses = predictor.losses(EQUAL, PROPOSALS)
    # (1 - 1/3)^2 ln 3: of one foreground a quarter of it, of three background RoIs three quarters each.
    one = (2 / 3) ** 2 * LOG3
    # Divided by 4, for one foreground RoI.
    assert losses["loss_cls"].item() == pytest.approx((0.25 * one + 3 * 0.75 * one) / 4)
    assert losses["loss_box_reg"].item() == pytest.approx(BOX / 4)
    expected = [0.25 * one + BOX, 0.75 * one, 0.75 * one, 0.75 * one]
    assert roi_losses(predictor, EQUAL, PROPOSALS).tolist() == pytest.approx(expected)


def test_both_terms_are_divided_by_the_number_of_foreground_rois():
    predictor = build(FocalOutputLayers, 2)
    once, twice = (make_proposals(labels) for labels in ([0, 2], [0, 0, 2, 2]))
    a, b = (predictor.losses((torch.zeros(n, 3), torch.zeros(n, 8)), x) for n, x in ((2, once), (4, twice)))
    assert a["loss_cls"].item() == pytest.approx(b["loss_cls"].item())
    assert a["loss_box_reg"].item() == pytest.approx(b["loss_box_reg"].item()) == pytest.approx(BOX / 4)
    without = predictor.losses((torch.zeros(2, 3), torch.zeros(2, 8)), make_proposals([2, 2]))
    assert without["loss_cls"].item() == pytest.approx(2 * 0.75 * (2 / 3) ** 2 * LOG3 / 4)  # not by 0
    assert without["loss_box_reg"].item() == 0


@pytest.mark.parametrize("gamma, alpha", [(0.0, 0.5), (2.0, 0.25), (5.0, 0.75)])
def test_of_one_class_it_is_the_sigmoid_focal_loss_of_torchvision(gamma, alpha):
    torch.manual_seed(0)
    labels = torch.arange(40) % 4 > 0  # 1, the background, three times in four
    logits = 3 * torch.randn(40, 2, requires_grad=True)
    predictor = build(FocalOutputLayers, 1, gamma=gamma, alpha=alpha)
    found = predictor.losses((logits, torch.zeros(40, 4)), make_proposals(labels.long().tolist()))["loss_cls"]
    # The softmax of two logits is the sigmoid of their difference.
    margins, targets = logits[:, 0] - logits[:, 1], 1 - labels.float()
    expected = sigmoid_focal_loss(margins, targets, alpha, gamma, reduction="sum") / 40  # of 10 foreground
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (found, expected)))


def test_focal_loss_with_gamma_zero_is_half_of_cross_entropy():
    torch.manual_seed(0)
    predictions = torch.randn(4, 3), torch.randn(4, 8)
    focal = build(FocalOutputLayers, 2, gamma=0.0, alpha=0.5).losses(predictions, PROPOSALS)
    plain = build(FastRCNNOutputLayers, 2).losses(predictions, PROPOSALS)
    # One RoI in four is foreground: both divide by 4.
    assert focal["loss_cls"].item() == pytest.approx(plain["loss_cls"].item() / 2)
    assert focal["loss_box_reg"].item() == pytest.approx(plain["loss_box_reg"].item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_roi_that_is_certain_has_a_gradient_of_numbers(gamma):
    logits = torch.tensor([[0.0, 0.0, 30.0]], requires_grad=True)
    predictor = build(FocalOutputLayers, 2, gamma=gamma)
    predictor.losses((logits, torch.zeros(1, 8)), make_proposals([2]))["loss_cls"].backward()
    assert logits.grad.isfinite().all()


def test_terms_of_the_focal_loss_have_their_weights():
    weights = {"loss_cls": 3.0, "loss_box_reg": 0.5}
    plain, weighted = (
        build(FocalOutputLayers, 2, loss_weight=w).losses(EQUAL, PROPOSALS) for w in (1.0, weights)
    )
    assert {k: v.item() for k, v in weighted.items()} == pytest.approx(
        {k: weights[k] * v.item() for k, v in plain.items()}
    )
    of_each = [
        roi_losses(build(FocalOutputLayers, 2, loss_weight=w), EQUAL, PROPOSALS) for w in (1.0, weights)
    ]
    box = torch.tensor([BOX, 0, 0, 0])
    torch.testing.assert_close(of_each[1], 3 * (of_each[0] - box) + 0.5 * box)
    alone = build(FocalOutputLayers, 2, loss_weight={"loss_box_reg": 0.5}).losses(EQUAL, PROPOSALS)
    assert alone["loss_cls"].item() == pytest.approx(plain["loss_cls"].item())


@pytest.mark.parametrize("certain", [0.0, 5.0])  # a cross-entropy above 1, and one far below
def test_the_guided_loss_is_twice_the_box_loss_with_the_direction_of_cross_entropy(certain):
    torch.manual_seed(0)
    right = torch.nn.functional.one_hot(torch.tensor(LABELS), 3)
    logits = (torch.randn(4, 3) + certain * right).requires_grad_()
    losses = build(GuidedOutputLayers, 2).losses((logits, EQUAL[1]), PROPOSALS)
    assert losses["loss_box_reg"].item() == pytest.approx(BOX / 4)  # the mean over four coordinates
    assert losses["loss_cls"].item() == pytest.approx(2 * BOX / 4)
    entropy = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))
    guided, plain = (torch.autograd.grad(loss, logits)[0] for loss in (losses["loss_cls"], entropy))
    torch.testing.assert_close(guided, plain * 2 * BOX / 4 / entropy.item())


def test_the_guided_loss_gives_the_boxes_no_gradient_of_classification():
    deltas = torch.zeros(4, 8, requires_grad=True)
    losses = build(GuidedOutputLayers, 2).losses((EQUAL[0].clone().requires_grad_(), deltas), PROPOSALS)
    assert torch.autograd.grad(losses["loss_cls"], deltas, allow_unused=True)[0] is None


@pytest.mark.parametrize("labels", [[2, 2], []])
def test_without_foreground_the_guided_loss_is_zero_and_has_a_gradient(labels):
    logits, deltas = torch.zeros(len(labels), 3, requires_grad=True), torch.zeros(len(labels), 8)
    losses = build(GuidedOutputLayers, 2).losses((logits, deltas), make_proposals(labels))
    assert [x.item() for x in losses.values()] == [0, 0]
    losses["loss_cls"].backward()
    assert logits.grad.eq(0).all()


def test_a_guided_loss_of_a_roi_is_not_scaled():
    losses = roi_losses(build(GuidedOutputLayers, 2), EQUAL, PROPOSALS)
    assert losses.tolist() == pytest.approx([LOG3 + BOX, LOG3, LOG3, LOG3])


def test_the_bias_gives_foreground_its_prior():
    bias = torch.randn(4)
    bias_to_background(bias, 0.01)
    probabilities = bias.softmax(0)
    assert probabilities[:3].tolist() == pytest.approx([0.01 / 3] * 3) and bias[0] == 0
    assert bias[3].item() == pytest.approx(math.log(3 * 0.99 / 0.01))


LOSS = ("MODEL.CLS_LOSS.NAME", "focal", "MODEL.CLS_LOSS.FOCAL_GAMMA", 3.0, "MODEL.CLS_LOSS.FOCAL_ALPHA", 0.5)


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "OHEMCascadeROIHeads"])
def test_a_config_names_the_loss_and_keeps_the_weights(heads):
    keys = ["MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "Cascade" in heads]
    plain, focal = (build_heads(*keys, *opts) for opts in ((), (*LOSS, "MODEL.CLS_LOSS.PRIOR", 0.2)))
    pairs = list(zip(*(h.box_predictor if "Cascade" in heads else [h.box_predictor] for h in (plain, focal))))
    for old, new in pairs:
        assert type(old) is FastRCNNOutputLayers and type(new) is FocalOutputLayers
        assert (new.gamma, new.alpha, new.smooth_l1_beta) == (3.0, 0.5, 1.0)
        assert new.box2box_transform.weights == old.box2box_transform.weights
        assert new.cls_score.bias.softmax(0)[-1].item() == pytest.approx(0.8)
    assert len(pairs) == (3 if "Cascade" in heads else 1)
    assert plain.state_dict().keys() == focal.state_dict().keys()


def test_arms_of_one_seed_begin_with_equal_weights():
    weights = []
    for opts in (), LOSS:
        torch.manual_seed(0)
        weights.append(build_roi_heads(tiny_cfg(*opts), SHAPES).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_another_predictor_is_refused(monkeypatch):
    class Other(FastRCNNOutputLayers):
        pass

    monkeypatch.setattr("detectron2.modeling.roi_heads.roi_heads.FastRCNNOutputLayers", Other)
    with pytest.raises(
        ValueError, match="CLS_LOSS.NAME is 'guided' and PRIOR 0.0; valid for the predictor Other"
    ):
        build_heads("MODEL.CLS_LOSS.NAME", "guided")
    assert type(build_heads().box_predictor) is Other


@pytest.mark.parametrize(
    "name, prior, refused", [("focal", 0.0, True), ("guided", 0.1, True), ("guided", 0.0, False)]
)
def test_a_sigmoid_is_refused_by_what_is_of_a_softmax(name, prior, refused):
    cfg = tiny_cfg("MODEL.CLS_LOSS.NAME", name, "MODEL.CLS_LOSS.PRIOR", prior)
    predictor = build_heads().box_predictor
    predictor.use_sigmoid_ce = True  # as in Detectron2's main
    if refused:
        with pytest.raises(ValueError, match="of a softmax; valid with MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE"):
            with_cls_loss(predictor, cfg)
    else:
        assert type(with_cls_loss(predictor, cfg)) is GuidedOutputLayers


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "OHEMCascadeROIHeads"])
@pytest.mark.parametrize("name", ["focal", "guided"])
def test_heads_with_another_loss_can_mine_too(heads, name):
    mined = build_heads("MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
                        "Cascade" in heads, "MODEL.CLS_LOSS.NAME", name)  # fmt: skip
    features, proposals, targets = make_inputs()
    selected, losses = mined(None, features, proposals, targets)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(len(x) == 8 for x in selected)


def test_a_rule_that_reads_predictions_refuses_another_loss():
    with pytest.raises(TypeError, match="not known of FocalOutputLayers with its own `roi_losses`"):
        build_heads("MODEL.CLS_LOSS.NAME", "focal", "MODEL.OHEM.RULE", "prime")
