import pytest
import torch
from detectron2.modeling import RetinaNet, build_model
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage

from ohem_d2 import OHEMRetinaNet, OHEMRetinaNetMixin

from ..builders import hard_anchors, make_inputs, tiny_cfg

BOX_LOSSES = [("smooth_l1", 0.0), ("smooth_l1", 0.2), ("giou", 0.0), ("diou", 0.0), ("ciou", 0.0)]
BUDGET = 16


def retinanet_cfg(*opts):
    cfg = tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "OHEMRetinaNet"
    cfg.MODEL.BACKBONE.NAME = "TinyBackbone"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[12, 16]]
    cfg.MODEL.PIXEL_STD = [57.4, 57.1, 58.4]
    cfg.MODEL.RETINANET.IN_FEATURES = ["p2", "p3"]
    cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CONVS = 3, 1
    cfg.MODEL.RETINANET.PRIOR_PROB = 0.3
    cfg.MODEL.OHEM.RETINANET.BATCH_SIZE_PER_IMAGE = BUDGET
    cfg.MODEL.OHEM.RETINANET.PRE_NMS_TOPK = 400
    cfg.merge_from_list(list(opts))
    return cfg


def build_retinanet(*opts):
    """A RetinaNet whose predictions are far from zero, so that the losses of anchors differ."""
    torch.manual_seed(0)
    model = build_model(retinanet_cfg(*opts)).train()
    for layer in (model.head.cls_score, model.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def make_batch(num_objects=2):
    g = torch.Generator().manual_seed(0)
    targets = make_inputs(num_objects=num_objects)[2]
    return [{"image": torch.rand(3, 64, 64, generator=g) * 255, "instances": t} for t in targets]


@pytest.fixture
def trained(monkeypatch):
    """What the parent's ``losses`` was called with."""
    calls, losses = {}, RetinaNet.losses

    def spy(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        calls.update(anchors=anchors, logits=pred_logits, labels=torch.stack(list(gt_labels)))
        calls.update(deltas=pred_anchor_deltas, gt_boxes=gt_boxes)
        return losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)

    monkeypatch.setattr(RetinaNet, "losses", spy)
    return calls


def losses_of_all(model, trained, batch):
    labels = torch.stack(model.label_anchors(trained["anchors"], [x["instances"] for x in batch])[0])
    anchors, logits, deltas = trained["anchors"], trained["logits"], trained["deltas"]
    return model.anchor_losses(anchors, logits, labels, deltas, trained["gt_boxes"]), labels


def normalizer(labels):
    """The running mean of Detectron2 after one batch: it starts at 100 and has momentum 0.9."""
    return 0.9 * 100 + 0.1 * ((labels >= 0) & (labels != 3)).sum().item()


@pytest.mark.parametrize("kind, beta", BOX_LOSSES)
def test_the_parents_losses_are_the_sum_over_the_hard_anchors(storage, trained, kind, beta):
    model = build_retinanet(
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", kind, "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", beta,
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA", 0.4, "MODEL.RETINANET.FOCAL_LOSS_GAMMA", 1.5,
    )  # fmt: skip
    batch = make_batch()
    returned = model(batch)
    losses, labels = losses_of_all(model, trained, batch)
    hard = trained["labels"] >= 0
    assert returned["loss_box_reg"] > 0
    torch.testing.assert_close(sum(returned.values()), losses[hard].sum() / normalizer(labels))


def test_without_focal_weights_the_loss_is_the_cross_entropy(storage, trained):
    model = build_retinanet("MODEL.RETINANET.FOCAL_LOSS_ALPHA", -1.0, "MODEL.RETINANET.FOCAL_LOSS_GAMMA", 0.0)
    batch = make_batch()
    model(batch)
    losses, labels = losses_of_all(model, trained, batch)
    background = labels == 3
    # A background anchor is a negative of each class: the sum of -log(1 - sigmoid(x)) = log(1 + e^x).
    expected = torch.nn.functional.softplus(torch.cat(trained["logits"], dim=1)).sum(dim=2)
    torch.testing.assert_close(losses[background], expected[background])


def test_the_hard_anchors_are_those_of_a_search_over_all(storage, trained):
    model, batch = build_retinanet("MODEL.OHEM.RETINANET.NMS_THRESH", 0.4), make_batch()
    model(batch)
    losses, labels = losses_of_all(model, trained, batch)
    assert (labels == -1).any() and ((labels >= 0) & (labels < 3)).any()
    anchors = Boxes.cat(trained["anchors"]).tensor
    for image in range(2):
        expected = hard_anchors(losses[image], anchors, labels[image] >= 0, BUDGET, 0.4)
        selected = trained["labels"][image] >= 0
        assert selected.nonzero().flatten().tolist() == expected and len(expected) == BUDGET
        assert torch.equal(trained["labels"][image][selected], labels[image][selected])


def test_the_gradient_is_that_of_the_parent_with_the_easy_losses_zeroed(storage, trained):
    model, batch = build_retinanet(), make_batch()
    returned = model(batch)
    parameters = [p for name, p in model.named_parameters() if name.startswith("head")]
    mined = torch.autograd.grad(sum(returned.values()), parameters, retain_graph=True)
    losses, labels = losses_of_all(model, trained, batch)
    hard = trained["labels"] >= 0
    zeroed = torch.autograd.grad((losses * hard).sum() / normalizer(labels), parameters)
    torch.testing.assert_close(mined, zeroed)
    assert all(g.abs().sum() > 0 for g in mined)


def test_with_a_budget_for_all_anchors_the_losses_are_the_plain_ones(storage):
    everything = ("MODEL.OHEM.RETINANET.BATCH_SIZE_PER_IMAGE", 9999, "MODEL.OHEM.RETINANET.NMS_THRESH", 1.0)
    mined = build_retinanet(*everything, "MODEL.OHEM.RETINANET.PRE_NMS_TOPK", 9999)
    plain = build_retinanet("MODEL.META_ARCHITECTURE", "RetinaNet")
    for _ in range(2):  # the normaliser is a running mean
        torch.testing.assert_close(mined(make_batch()), plain(make_batch()), rtol=0, atol=0)


def test_the_normaliser_counts_all_foreground_anchors(storage):
    mined = build_retinanet("MODEL.OHEM.RETINANET.BATCH_SIZE_PER_IMAGE", 1)
    plain = build_retinanet("MODEL.META_ARCHITECTURE", "RetinaNet")
    for num_objects in (2, 0, 2):
        batch = make_batch(num_objects)
        mined(batch), plain(batch)
        assert mined.loss_normalizer == plain.loss_normalizer


@pytest.mark.parametrize("num_objects", [0, 2])
def test_images_with_and_without_objects_fill_the_budget_and_train(storage, trained, num_objects):
    model = build_retinanet()
    sum(model(make_batch(num_objects)).values()).backward()
    assert (trained["labels"] >= 0).sum(dim=1).tolist() == [BUDGET] * 2
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.head.parameters())
    assert model.head.cls_score.weight.grad.abs().sum() > 0


def test_switched_off_it_trains_as_the_parent_does(storage, trained):
    outputs = []
    for name, enabled in (("OHEMRetinaNet", "False"), ("RetinaNet", "None")):
        model = build_retinanet("MODEL.META_ARCHITECTURE", name, "MODEL.OHEM.RETINANET.ENABLED", enabled)
        outputs.append((model(make_batch()), trained["labels"]))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    assert not any(name.startswith("ohem/") for name in get_event_storage().latest())


def test_state_dict_and_inference_are_the_parents():
    mined, plain = build_retinanet().eval(), build_retinanet("MODEL.META_ARCHITECTURE", "RetinaNet").eval()
    assert list(mined.state_dict()) == list(plain.state_dict())
    assert type(mined) is OHEMRetinaNet and type(plain) is RetinaNet
    with torch.no_grad():
        for a, b in zip(mined(make_batch()), plain(make_batch())):
            assert len(a["instances"]) > 0
            assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
            assert torch.equal(a["instances"].scores, b["instances"].scores)


def test_statistics_are_of_the_mined_anchors(storage, trained):
    model, batch = build_retinanet(), make_batch()
    model(batch)
    losses, labels = losses_of_all(model, trained, batch)
    candidates, hard = labels >= 0, trained["labels"] >= 0
    foreground = hard & (trained["labels"] != 3)
    written = get_event_storage().latest().items()
    values = {name[15:]: value for name, (value, _) in written if name.startswith("ohem/retinanet/")}
    assert values["num_candidates"] == candidates.sum() / 2
    assert values["num_selected"] == BUDGET and BUDGET <= values["num_survivors"] <= 400
    assert values["fg_fraction"] == pytest.approx(foreground.sum().item() / (2 * BUDGET))
    assert 0 < values["fg_fraction"] < 1
    assert values["mean_loss"] == pytest.approx(losses[candidates].mean().item())
    assert values["easiest_selected_loss"] == pytest.approx(losses[hard].min().item())
    assert values["hardest_dropped_loss"] == pytest.approx(losses[candidates & ~hard].max().item())


def test_a_few_steps_lower_the_mean_loss_of_all_anchors(storage):
    model = build_retinanet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for _ in range(5):
        losses = model(make_batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(get_event_storage().latest()["ohem/retinanet/mean_loss"][0])
    assert history == sorted(history, reverse=True) and history[-1] < history[0]


def test_under_autocast_the_ranking_is_in_float32_and_the_head_trains(storage):
    model = build_retinanet()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_batch())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())


def test_a_detector_of_another_kind_is_an_error():
    class Mined(OHEMRetinaNetMixin, torch.nn.Module):
        pass

    with pytest.raises(
        TypeError, match=rf"^{__name__}\..*Mined cannot be mined: it does not derive from RetinaNet"
    ):
        Mined()
