import copy

import pytest
import torch
from detectron2.modeling import build_roi_heads
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, ROIHeads, StandardROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ohem_d2 import OHEMMixin, OHEMOptions, OHEMROIHeads, roi_losses
from ohem_d2.mining import select_hard_rois, selection
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.readonly_pass import CandidateLosses, candidate_losses

from ..builders import SHAPES, build_heads, make_inputs, tiny_cfg

DROPOUT_HEAD = (
    "MODEL.ROI_BOX_HEAD.NORM",
    "BN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV",
    "1",
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "8",
)


def with_dropout(heads):
    heads.box_head.add_module("dropout", nn.Dropout(0.5).train())
    return heads


def losses_and_gradients(heads, inputs):
    heads.zero_grad()
    features, proposals, targets = copy.deepcopy(inputs)
    features = {k: v.requires_grad_() for k, v in features.items()}
    _, losses = heads(None, features, proposals, targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in heads.named_parameters()}
    gradients.update({name: f.grad.clone() for name, f in features.items()})
    return losses, gradients


def test_the_hard_rois_are_those_of_a_plain_forward_and_select_hard_rois(storage):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    trained, _ = heads(None, features, proposals, targets)

    candidates = label_candidates(heads, *with_objects(proposals, targets))
    with torch.no_grad():
        pooled = heads.box_pooler([features["p2"], features["p3"]], [c.proposal_boxes for c in candidates])
        losses = roi_losses(heads.box_predictor, heads.box_predictor(heads.box_head(pooled)), candidates)
    boxes = torch.cat([c.proposal_boxes.tensor for c in candidates])
    images = torch.arange(2).repeat_interleave(42)
    selected = select_hard_rois(losses, boxes, images, 8)
    for image, p in enumerate(trained):
        expected = boxes[selected[images[selected] == image]]
        assert sorted(p.proposal_boxes.tensor.tolist()) == sorted(expected.tolist())
        assert len(p) == 8


def with_objects(proposals, targets):
    from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals

    return add_ground_truth_to_proposals(targets, proposals), targets


def test_the_training_loss_is_the_mean_loss_of_the_hard_rois(storage):
    heads, inputs = build_heads(), make_inputs()
    features, proposals, targets = inputs
    trained, losses = heads(None, features, proposals, targets)
    ranked = candidate_losses(
        heads, features, label_candidates(heads, trained, targets), targets, OHEMOptions()
    ).total
    torch.testing.assert_close(sum(losses.values()), ranked.mean())


@pytest.mark.parametrize("budget", ["image", "batch"])
def test_naive_zeroed_losses_give_the_same_gradient(storage, budget):
    inputs = make_inputs()
    opts = ("MODEL.OHEM.BUDGET", budget)
    losses, gradients = losses_and_gradients(build_heads(*opts), inputs)
    naive_losses, naive_gradients = losses_and_gradients(
        build_heads(*opts, "MODEL.OHEM.NAIVE", "True"), inputs
    )
    for name, loss in losses.items():
        torch.testing.assert_close(naive_losses[name], loss)
    assert gradients.keys() == naive_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(naive_gradients[name], gradient, rtol=1e-4, atol=1e-6)
    assert any(g.abs().sum() > 0 for g in gradients.values())


def test_the_mining_pass_leaves_no_trace(storage):
    heads = with_dropout(build_heads(*DROPOUT_HEAD, "MODEL.OHEM.READONLY_DROPOUT", "True"))
    features, proposals, targets = make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    state = {name: value.clone() for name, value in heads.state_dict().items()}
    flags, rng = [m.training for m in heads.modules()], torch.get_rng_state()
    put_before = dict(get_event_storage().latest())
    losses = candidate_losses(heads, features, candidates, targets, heads.ohem).total
    assert not losses.requires_grad
    assert all(torch.equal(value, state[name]) for name, value in heads.state_dict().items())
    assert "running_mean" in "".join(state)
    assert [m.training for m in heads.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert dict(get_event_storage().latest()) == put_before
    assert all(p.grad is None for p in heads.parameters())


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_do_not_change_the_losses(storage, chunk):
    heads, (features, proposals, targets) = build_heads(*DROPOUT_HEAD), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    whole = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    parts = candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_chunk=chunk)).total
    torch.testing.assert_close(parts, whole)


def test_dropout_in_the_read_only_pass_is_as_configured(storage):
    heads, (features, proposals, targets) = with_dropout(build_heads()), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    off, on = (
        candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_dropout=d)).total
        for d in (False, True)
    )
    again = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    assert torch.equal(off, again) and not torch.equal(off, on)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_ranks_almost_alike_and_trains_in_full(storage, dtype):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    full = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    half = candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_dtype=dtype)).total
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    losses, gradients = losses_and_gradients(build_heads("MODEL.OHEM.READONLY_DTYPE", dtype), make_inputs())
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(g.dtype == torch.float32 for g in gradients.values())


def test_under_autocast_the_trained_weights_still_get_gradients(storage):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = heads(None, features, proposals, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads.parameters())


def test_autocast_does_not_change_the_precision_of_the_ranking(storage):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    outside = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    assert torch.equal(inside, outside)


def test_precisions_of_the_passes_do_not_mix(storage):
    heads, inputs = build_heads("MODEL.OHEM.READONLY_DTYPE", "float16"), make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # autocast caches a cast weight whatever its type
        losses = [sum(heads(None, *copy.deepcopy(inputs))[1].values()) for _ in range(2)]
    sum(losses).backward()
    assert all(p.grad.abs().sum() > 0 for p in heads.parameters())


def test_an_overflow_in_half_precision_is_recomputed_in_float32(storage):
    heads, (features, proposals, targets) = build_heads("MODEL.OHEM.READONLY_DTYPE", "float16"), make_inputs()
    with torch.no_grad():
        heads.box_head.fc1.weight.mul_(1e6)  # 1e6 is beyond float16's 65504, not beyond float32
        heads.box_predictor.cls_score.weight.mul_(1e-6)
        heads.box_predictor.bbox_pred.weight.mul_(1e-6)
    candidates = label_candidates(heads, proposals, targets)
    assert not candidate_losses(heads, features, candidates, targets, heads.ohem).total.isfinite().all()
    trained, losses = heads(None, features, proposals, targets)
    assert all(len(p) == 8 for p in trained) and sum(losses.values()).isfinite()


def test_a_loss_that_is_not_finite_names_the_image_and_what_is_not_finite(storage):
    heads, (features, proposals, targets) = build_heads(), make_inputs()
    features["p2"][1] = features["p3"][1] = float("nan")
    parts = "feature map p2, feature map p3, classification loss, box loss"
    with pytest.raises(FloatingPointError, match=rf"in image\(s\) \[1\] of the batch: {parts}$"):
        heads(None, features, proposals, targets)
    features["p3"].zero_()
    with pytest.raises(FloatingPointError, match="of the batch: feature map p2, classification loss"):
        heads(None, features, proposals, targets)


def test_ranking_by_one_term_selects_by_it(storage):
    features, proposals, targets = make_inputs(num_images=1)
    chosen = {}
    for by in ("cls", "box", "cls+box"):
        heads = build_heads("MODEL.OHEM.RANK_BY", by)
        trained, _ = heads(None, features, proposals, targets)
        chosen[by] = sorted(trained[0].proposal_boxes.tensor.tolist())
    assert chosen["cls"] != chosen["box"] and chosen["cls+box"] != chosen["box"]
    trained_by_box = torch.tensor(chosen["box"])
    assert len(trained_by_box) == 8


def test_a_pooled_budget_can_leave_an_image_with_few(storage):
    features, proposals, targets = make_inputs()
    features["p2"][0] *= 10  # larger features, larger losses
    features["p3"][0] *= 10
    per_image = [len(p) for p in build_heads()(None, features, proposals, targets)[0]]
    pooled = [
        len(p) for p in build_heads("MODEL.OHEM.BUDGET", "batch")(None, features, proposals, targets)[0]
    ]
    assert per_image == [8, 8] and sum(pooled) == 16 and pooled[0] > pooled[1]


@pytest.mark.parametrize("budget", ["image", "batch"])
@pytest.mark.parametrize("duplicates", [False, True])
def test_nms_looks_at_the_hardest_first_and_selects_as_if_at_all(storage, monkeypatch, budget, duplicates):
    heads = build_heads("MODEL.OHEM.BUDGET", budget)
    features, proposals, targets = make_inputs(num_proposals=200)
    if duplicates:  # so that the hardest are not enough for the budget
        for p in proposals:
            p.proposal_boxes.tensor[:190] = p.proposal_boxes.tensor[0] + torch.rand(190, 4) / 100
    candidates = label_candidates(heads, proposals, targets)
    losses = candidate_losses(heads, features, candidates, targets, heads.ohem)
    losses = losses._replace(total=losses.total.mul(20).floor())  # many are equal
    expected = heads._mine(candidates, losses)

    looked_at = []
    monkeypatch.setattr(selection, "NMS_TOPK", 100)
    rank = selection.rank_hard_rois
    monkeypatch.setattr(
        selection, "rank_hard_rois", lambda *args, **kw: looked_at.append(len(args[0])) or rank(*args, **kw)
    )
    assert all(map(torch.equal, heads._mine(candidates, losses), expected))
    cut = [] if budget == "batch" else [200]  # a pooled budget could take more than 100 of an image
    assert looked_at == (cut if cut and not duplicates else [*cut, 400])


def test_a_pooled_budget_looks_at_all(storage, monkeypatch):
    """Image 0: 8 equal boxes of loss 10 and 4 others of 9; image 1: 4 of loss 1. Image 0 takes the budget."""
    monkeypatch.setattr(selection, "NMS_TOPK", 8)
    heads = build_heads("MODEL.OHEM.BUDGET", "batch", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "2")
    apart = torch.arange(5.0).unsqueeze(1) * 12 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    candidates = []
    for boxes in (torch.cat([apart[:1].repeat(8, 1), apart[1:]]), apart[:4]):
        candidates.append(
            Instances(
                (64, 64), proposal_boxes=Boxes(boxes), gt_classes=torch.zeros(len(boxes), dtype=torch.long)
            )
        )
    losses = CandidateLosses(torch.tensor([10.0] * 8 + [9.0] * 4 + [1.0] * 4), None, None)
    assert [rows.tolist() for rows in heads._mine(candidates, losses)] == [[0, 8, 9, 10], []]


def test_nms_per_class_keeps_what_differs_in_label(storage):
    features, proposals, targets = make_inputs(num_images=1, num_proposals=0, num_objects=1)
    box = targets[0].gt_boxes.tensor
    # A proposal 8 px below an object of 20 x 20 has IoU 240/560 = 0.43 with it: background; the object itself
    # is foreground. At a threshold of 0.4 the two are duplicates unless labels count.
    x, y = box[0, :2].tolist()
    targets[0].gt_boxes.tensor[:] = torch.tensor([[x, y, x + 20, y + 20]])
    proposals[0].proposal_boxes.tensor = torch.tensor([[x, y + 8, x + 20, y + 28]])
    proposals[0].objectness_logits = torch.zeros(1)
    opts = ("MODEL.OHEM.NMS_THRESH", "0.4")
    assert len(build_heads(*opts)(None, features, proposals, targets)[0][0]) == 1
    assert (
        len(build_heads(*opts, "MODEL.OHEM.NMS_PER_CLASS", "True")(None, features, proposals, targets)[0][0])
        == 2
    )


def test_ignored_rois_are_no_candidates(storage):
    heads = build_heads(
        "MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.3, 0.5]", "MODEL.ROI_HEADS.IOU_LABELS", "[0, -1, 1]"
    )
    features, proposals, targets = make_inputs(num_proposals=60)
    kept = label_candidates(heads, proposals, targets)
    assert sum(map(len, kept)) < 120
    for c in kept:
        assert not ((c.gt_ious >= 0.3) & (c.gt_ious < 0.5)).any()
    trained, _ = heads(None, features, proposals, targets)
    assert all((p.gt_classes >= 0).all() for p in trained)


def test_no_fraction_of_foreground_is_kept(storage):
    heads = build_heads("MODEL.ROI_HEADS.POSITIVE_FRACTION", "0.0001", "MODEL.OHEM.NMS_THRESH", "1.0")
    features, _, targets = make_inputs()
    proposals = [copy.deepcopy(p) for p in make_inputs()[1]]
    for p, t in zip(proposals, targets):
        p.proposal_boxes.tensor[:] = t.gt_boxes.tensor[0]
    trained, _ = heads(None, features, proposals, targets)
    assert all((p.gt_classes < 3).all() and len(p) == 8 for p in trained)
    assert heads.batch_size_per_image == 8 and heads.positive_fraction == 0.0001 and heads.proposal_append_gt


def test_naive_leaves_only_the_hard_foreground_to_mask_and_keypoint_heads(storage):
    mined, _ = build_heads()(None, *make_inputs())
    naive, _ = build_heads("MODEL.OHEM.NAIVE", "True")(None, *make_inputs())
    for hard, everything in zip(mined, naive):
        kept = everything[everything.gt_classes >= 0]
        assert len(everything) == 42
        assert sorted(kept.proposal_boxes.tensor.tolist()) == sorted(hard.proposal_boxes.tensor.tolist())


@pytest.mark.parametrize("num_objects", [0, 2])
def test_proposals_have_the_fields_that_the_parent_gives_them(storage, num_objects):
    inputs = make_inputs(num_objects=num_objects)
    plain, _ = build_heads("MODEL.ROI_HEADS.NAME", "StandardROIHeads")(None, *copy.deepcopy(inputs))
    mined, _ = build_heads()(None, *inputs)
    assert mined[0].get_fields().keys() == plain[0].get_fields().keys()


@pytest.mark.parametrize("naive", ["False", "True"])
@pytest.mark.parametrize("num_proposals, num_objects", [(0, 0), (0, 2), (5, 0), (3, 1)])
def test_images_without_proposals_or_objects_train(storage, num_proposals, num_objects, naive):
    heads = build_heads("MODEL.OHEM.NAIVE", naive)
    features, proposals, targets = make_inputs(num_proposals=num_proposals, num_objects=num_objects)
    _, losses = heads(None, features, proposals, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in heads.parameters())


def test_masks_are_attached_to_the_selected_alone(storage):
    heads = build_heads()
    features, proposals, targets = make_inputs(num_proposals=500)
    for t in targets:
        t.gt_masks = BitMasks(torch.ones(len(t), 64, 64, dtype=torch.bool))
    indexed = []
    getitem = BitMasks.__getitem__
    BitMasks.__getitem__ = lambda self, item: indexed.append(len(item)) or getitem(self, item)
    try:
        trained, _ = heads(None, features, proposals, targets)
    finally:
        BitMasks.__getitem__ = getitem
    assert indexed == [8, 8] and all(p.has("gt_masks") for p in trained)


def test_switched_off_they_are_the_parent(storage):
    plain = build_heads("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    off = build_heads("MODEL.OHEM.ENABLED", "False")
    off.load_state_dict(plain.state_dict())
    for heads in (plain, off):
        heads.losses = {}
        torch.manual_seed(3)
        heads.losses.update(heads(None, *make_inputs())[1])
    assert all(torch.equal(plain.losses[name], off.losses[name]) for name in plain.losses)
    assert not any(name.startswith("ohem/") for name in get_event_storage().latest())


def test_state_dict_and_inference_are_the_parents(storage):
    plain, mined = build_heads("MODEL.ROI_HEADS.NAME", "StandardROIHeads").eval(), build_heads(seed=1).eval()
    assert list(plain.state_dict()) == list(mined.state_dict())
    mined.load_state_dict(plain.state_dict())
    features, proposals, _ = make_inputs()
    for a, b in zip(*(heads(None, features, proposals)[0] for heads in (plain, mined))):
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor) and torch.equal(a.scores, b.scores)
        assert len(a) > 0


def test_statistics_of_a_hand_made_case(storage):
    heads, (features, proposals, targets) = (
        build_heads("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False"),
        make_inputs(),
    )
    candidates = label_candidates(heads, proposals, targets)
    losses = candidate_losses(heads, features, candidates, targets, heads.ohem).total
    trained, _ = heads(None, features, proposals, targets)
    latest = {k: v[0] for k, v in get_event_storage().latest().items() if k.startswith("ohem/")}
    boxes = torch.cat([c.proposal_boxes.tensor for c in candidates]).tolist()
    chosen = [
        i
        for i, box in enumerate(boxes)
        if box in [b for p in trained for b in p.proposal_boxes.tensor.tolist()]
    ]
    dropped = [i for i in range(len(boxes)) if i not in chosen]
    fg = [i for i in chosen if torch.cat([c.gt_classes for c in candidates])[i] < 3]
    assert latest["ohem/num_candidates"] == 40 and latest["ohem/num_selected"] == 8
    assert 8 <= latest["ohem/num_survivors"] < 40
    assert latest["ohem/fg_fraction"] == pytest.approx(len(fg) / 16)
    is_foreground = torch.cat([c.gt_classes for c in candidates]) < 3
    assert latest["ohem/candidates_fg_fraction"] == pytest.approx(is_foreground.float().mean().item())
    assert latest["ohem/mean_loss"] == pytest.approx(losses.mean().item())
    assert latest["ohem/mean_selected_loss"] == pytest.approx(losses[chosen].mean().item())
    assert latest["ohem/easiest_selected_loss"] == pytest.approx(losses[chosen].min().item())
    assert latest["ohem/hardest_dropped_loss"] == pytest.approx(losses[dropped].max().item())
    assert latest["ohem/mean_fg_iou"] == pytest.approx(
        torch.cat([c.gt_ious for c in candidates])[fg].mean().item()
    )


def test_heads_of_no_known_family_are_refused_at_build():
    class Alien(ROIHeads):
        @classmethod
        def from_config(cls, cfg, input_shape):
            return super().from_config(cfg)

    class Mined(OHEMMixin, Alien):
        pass

    with pytest.raises(TypeError, match="cannot be mined: .*Mined derives from none of StandardROIHeads"):
        Mined(tiny_cfg(), SHAPES)


def test_anyones_heads_are_mined_by_one_line(storage, caplog):
    class Theirs(StandardROIHeads):
        def forward(self, images, features, proposals, targets=None, more=None):
            self.more = more
            return super().forward(images, features, proposals, targets)

        def _forward_box(self, features, proposals):
            self.seen = [len(p) for p in proposals]
            return super()._forward_box(features, proposals)

    class Mine(OHEMMixin, Theirs):
        pass

    build_heads()
    assert "_forward_box" not in caplog.text
    heads = Mine(tiny_cfg(), SHAPES).train()
    assert "Mine has its own _forward_box; RoIs are ranked by what pooler, box head" in caplog.text
    heads(None, *make_inputs(), more="given")
    assert heads.seen == [8, 8] and heads.more == "given"
    heads.eval()(None, *make_inputs(), more="in a test")
    assert heads.more == "in a test"


def test_the_names_are_registered():
    assert ROI_HEADS_REGISTRY.get("OHEMROIHeads") is OHEMROIHeads
    assert type(build_roi_heads(tiny_cfg(), SHAPES)) is OHEMROIHeads


def test_a_compiled_box_head_is_mined_as_an_eager_one(storage):
    inputs = make_inputs()
    eager, compiled = build_heads(), build_heads()
    compiled.box_head.compile(backend="eager")
    losses, gradients = losses_and_gradients(eager, inputs)
    compiled_losses, compiled_gradients = losses_and_gradients(compiled, inputs)
    for name, loss in losses.items():
        torch.testing.assert_close(compiled_losses[name], loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled_gradients[name], gradient, rtol=1e-4, atol=1e-6)
    assert list(compiled.state_dict()) == list(eager.state_dict())


@pytest.mark.parametrize("naive, sampler", [(False, "Detectron2"), (False, "own"), (True, "Detectron2")])
def test_numbers_of_samples_are_written_once_an_iteration(storage, naive, sampler):
    """By mining where it takes the place of Detectron2's sampler, else by the sampler that is asked."""
    heads, (features, proposals, targets) = build_heads("MODEL.OHEM.NAIVE", str(naive)), make_inputs()
    if sampler == "own":
        own = {"_sample_proposals": lambda self, *args: ROIHeads._sample_proposals(self, *args)}
        heads.__class__ = type("Own", (type(heads),), own)
    trained, _ = heads(None, features, proposals, targets)
    for name in ("roi_head/num_fg_samples", "roi_head/num_bg_samples"):
        assert len(storage.history(name).values()) == 1, name
    foreground = storage.history("roi_head/num_fg_samples").latest()
    background = storage.history("roi_head/num_bg_samples").latest()
    assert foreground + background == sum(map(len, trained)) / 2
    if not naive:
        assert foreground == sum(int((p.gt_classes < 3).sum()) for p in trained) / 2


def test_without_any_candidate_the_numbers_of_samples_are_zero(storage):
    build_heads()(None, *make_inputs(num_proposals=0, num_objects=0))
    assert [storage.history(f"roi_head/num_{kind}_samples").latest() for kind in ("fg", "bg")] == [0, 0]
