import copy

import pytest
import torch
from detectron2.modeling import build_model, build_proposal_generator
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rrpn import RRPN  # noqa: F401  (registers it)
from detectron2.structures import Boxes, ImageList
from detectron2.utils.events import get_event_storage

from ohem_d2 import OHEMRPN, OHEMRPNMixin

from ..builders import SHAPES, hard_anchors, make_inputs, tiny_cfg

BOX_LOSSES = [("smooth_l1", 0.0), ("smooth_l1", 0.2), ("giou", 0.0), ("diou", 0.0), ("ciou", 0.0)]
BUDGET = 16


def rpn_cfg(*opts):
    cfg = tiny_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "OHEMRPN"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.OHEM.RPN.BATCH_SIZE_PER_IMAGE = BUDGET
    cfg.MODEL.OHEM.RPN.PRE_NMS_TOPK = 400
    cfg.merge_from_list(list(opts))
    return cfg


def build_rpn(*opts):
    """An RPN whose predictions are far from zero, so that the losses of anchors differ."""
    torch.manual_seed(0)
    rpn = build_proposal_generator(rpn_cfg(*opts), SHAPES).train()
    torch.nn.init.normal_(rpn.rpn_head.objectness_logits.weight, std=0.5)
    torch.nn.init.normal_(rpn.rpn_head.anchor_deltas.weight, std=0.1)
    return rpn


def run(rpn, inputs=None):
    features, _, targets = inputs or make_inputs()
    images = ImageList(torch.zeros(len(targets), 3, 64, 64), [(64, 64)] * len(targets))
    return rpn(images, features, targets)


@pytest.fixture
def trained(monkeypatch):
    """What the parent's ``losses`` was called with: names and values."""
    calls, losses = {}, RPN.losses

    def spy(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        calls.update(anchors=anchors, logits=pred_objectness_logits, labels=torch.stack(list(gt_labels)))
        calls.update(deltas=pred_anchor_deltas, gt_boxes=gt_boxes)
        return losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes)

    monkeypatch.setattr(RPN, "losses", spy)
    return calls


def losses_of_all(rpn, trained, targets):
    labels = torch.stack(rpn.label_and_sample_anchors(trained["anchors"], targets)[0])
    anchors, logits, deltas = trained["anchors"], trained["logits"], trained["deltas"]
    return rpn.anchor_losses(anchors, logits, labels, deltas, trained["gt_boxes"]), labels


def test_it_is_built_by_names_of_arguments_too():
    rpn = OHEMRPN(rpn_cfg(), input_shape=SHAPES)
    assert rpn.ohem.batch_size_per_image == rpn.batch_size_per_image == BUDGET


def test_a_term_without_a_weight_has_the_weight_one(storage, trained):
    rpn, inputs = build_rpn(), make_inputs()
    run(rpn, inputs)
    weighted, _ = losses_of_all(rpn, trained, inputs[2])
    rpn.loss_weight = {}  # Detectron2's configs have both
    torch.testing.assert_close(losses_of_all(rpn, trained, inputs[2])[0], weighted)


@pytest.mark.parametrize("kind, beta", BOX_LOSSES)
def test_the_parents_losses_are_the_sum_over_the_hard_anchors(storage, trained, kind, beta):
    opts = ("MODEL.RPN.BBOX_REG_LOSS_TYPE", kind, "MODEL.RPN.SMOOTH_L1_BETA", beta)
    rpn = build_rpn(*opts, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 2.0, "MODEL.RPN.LOSS_WEIGHT", 0.7)
    inputs = make_inputs()
    _, returned = run(rpn, inputs)
    losses, _ = losses_of_all(rpn, trained, inputs[2])
    hard = trained["labels"] >= 0
    assert (trained["labels"] == 1).any() and returned["loss_rpn_loc"] > 0
    torch.testing.assert_close(sum(returned.values()), losses[hard].sum() / (2 * BUDGET))


def test_the_hard_anchors_are_those_of_a_search_over_all(storage, trained):
    rpn, inputs = build_rpn(), make_inputs()
    run(rpn, inputs)
    losses, labels = losses_of_all(rpn, trained, inputs[2])
    assert (labels == -1).any() and (labels == 1).any()
    anchors = Boxes.cat(trained["anchors"]).tensor
    for image in range(2):
        expected = hard_anchors(losses[image], anchors, labels[image] >= 0, BUDGET, 0.7)
        selected = trained["labels"][image] >= 0
        assert selected.nonzero().flatten().tolist() == expected and len(expected) == BUDGET
        assert torch.equal(trained["labels"][image][selected], labels[image][selected])
    assert trained["labels"].dtype == labels.dtype


def test_anchors_across_the_border_are_no_candidates_where_the_rpn_excludes_them(storage, trained):
    run(build_rpn("MODEL.RPN.BOUNDARY_THRESH", 0))
    inside = Boxes.cat(trained["anchors"]).inside_box((64, 64), 0)
    assert not inside.all() and not (trained["labels"][:, ~inside] >= 0).any()


def test_the_gradient_is_that_of_all_anchors_with_the_easy_losses_zeroed(storage, trained):
    rpn, inputs = build_rpn(), make_inputs()
    _, returned = run(rpn, inputs)
    parameters = list(rpn.parameters())
    mined = torch.autograd.grad(sum(returned.values()), parameters, retain_graph=True)
    losses, _ = losses_of_all(rpn, trained, inputs[2])
    zeroed = torch.autograd.grad((losses * (trained["labels"] >= 0)).sum() / (2 * BUDGET), parameters)
    torch.testing.assert_close(mined, zeroed)
    assert all(g.abs().sum() > 0 for g in mined)


@pytest.mark.parametrize("num_objects", [0, 2])
def test_images_with_and_without_objects_fill_the_budget_and_train(storage, trained, num_objects):
    rpn = build_rpn()
    _, returned = run(rpn, make_inputs(num_objects=num_objects))
    sum(returned.values()).backward()
    assert (trained["labels"] >= 0).sum(dim=1).tolist() == [BUDGET] * 2
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in rpn.parameters())
    assert rpn.rpn_head.objectness_logits.weight.grad.abs().sum() > 0


def test_without_candidates_the_loss_is_zero_and_has_a_gradient(storage, trained):
    rpn = build_rpn("MODEL.RPN.IOU_LABELS", [-1, -1, -1])
    rpn.anchor_matcher.allow_low_quality_matches = False
    _, returned = run(rpn)
    sum(returned.values()).backward()
    assert sum(returned.values()) == 0
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in rpn.parameters())


def test_switched_off_it_samples_as_the_parent_does(storage, trained):
    outputs = []
    for name, enabled in (("OHEMRPN", "False"), ("RPN", "None")):
        rpn = build_rpn("MODEL.PROPOSAL_GENERATOR.NAME", name, "MODEL.OHEM.RPN.ENABLED", enabled)
        torch.manual_seed(1)
        proposals, losses = run(rpn)
        outputs.append((losses, trained["labels"], proposals[0].proposal_boxes.tensor))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert not any(name.startswith("ohem/") for name in get_event_storage().latest())


def test_state_dict_inference_and_proposals_are_the_parents(storage):
    mined, plain = build_rpn(), build_rpn("MODEL.PROPOSAL_GENERATOR.NAME", "RPN")
    assert list(mined.state_dict()) == list(plain.state_dict())
    assert type(mined) is OHEMRPN and type(plain) is RPN
    for training in (True, False):
        pairs = zip(run(mined.train(training))[0], run(plain.train(training))[0])
        for a, b in pairs:
            assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)
            assert torch.equal(a.objectness_logits, b.objectness_logits)


def test_statistics_are_of_the_mined_anchors(storage, trained):
    rpn, inputs = build_rpn(), make_inputs()
    run(rpn, inputs)
    losses, labels = losses_of_all(rpn, trained, inputs[2])
    candidates, hard = labels >= 0, trained["labels"] >= 0
    values = {k[9:]: v for k, (v, _) in get_event_storage().latest().items() if k.startswith("ohem/rpn/")}
    assert values["num_candidates"] == candidates.sum() / 2
    assert values["num_selected"] == BUDGET and BUDGET <= values["num_survivors"] <= 400
    assert values["fg_fraction"] == pytest.approx((trained["labels"] == 1).sum().item() / (2 * BUDGET))
    assert values["mean_selected_loss"] == pytest.approx(losses[hard].mean().item())
    assert values["mean_loss"] == pytest.approx(losses[candidates].mean().item())
    assert values["easiest_selected_loss"] == pytest.approx(losses[hard].min().item())
    assert values["hardest_dropped_loss"] == pytest.approx(losses[candidates & ~hard].max().item())


def test_a_tiny_faster_rcnn_trains_on_hard_anchors_and_hard_rois(storage):
    cfg = rpn_cfg("MODEL.BACKBONE.NAME", "TinyBackbone", "MODEL.PIXEL_STD", [57.4, 57.1, 58.4])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    batch = [{"image": torch.rand(3, 64, 64) * 255, "instances": t} for t in make_inputs()[2]]
    history = []
    for _ in range(5):
        losses = model(copy.deepcopy(batch))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_rpn_cls"].item())
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert history[-1] < history[0]
    assert {"ohem/num_selected", "ohem/rpn/num_selected"} <= set(get_event_storage().latest())


def test_an_rpn_with_losses_of_its_own_says_what_to_write():
    class OwnLosses(RPN):
        def losses(self, *args):
            return {}

    class Mined(OHEMRPNMixin, OwnLosses):
        pass

    with pytest.raises(TypeError, match="Mined, whose parent has its own losses: give it .* `anchor_losses`"):
        Mined(rpn_cfg(), SHAPES)

    class Ranked(Mined):
        def anchor_losses(self, *args):
            return None

    Ranked(rpn_cfg(), SHAPES)
    Mined(rpn_cfg("MODEL.OHEM.RPN.ENABLED", "False"), SHAPES)


def test_rotated_anchors_are_an_error():
    class Mined(OHEMRPNMixin, RRPN):
        pass

    opts = ["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator", "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0,) * 5]
    with pytest.raises(TypeError, match="Box2BoxTransformRotated: only Box2BoxTransform is known"):
        Mined(rpn_cfg(*opts, "MODEL.ANCHOR_GENERATOR.ANGLES", [[0]]), SHAPES)
