"""Testing at many scales, with rounds of box regression and voting, and with soft-NMS."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.structures import Boxes, Instances
from torch import nn

from ohem_d2.config import BoxVotingOptions, MultiScaleOptions, SoftNMSOptions
from ohem_d2.evaluation import RCNNWithTTA, build_test_model, check_testing
from ohem_d2.evaluation.inference import _best, _candidates, _move, _regressed
from ohem_d2.evaluation.predictions import class_predictions, thresholds

from ..builders import tiny_cfg
from .models import (
    AUG,
    FAMILIES,
    RPN,
    SOFT,
    VOTING,
    assert_same,
    cfg_of,
    detect,
    fields_of,
    inputs_of,
    model_of,
    record_of,
)

COMBINE = "TEST.AUG.COMBINE"
MODES = {"+B": VOTING, "+M": (*AUG, "(48, 64)"), "+M+B": (*AUG, "(48, 64)", *VOTING), "soft": SOFT}
EVERY = pytest.mark.parametrize("combine", ["detections", "candidates", "mean", "max"])


def run(record, *opts, seed=0):
    cfg = cfg_of(*opts)
    return detect(build_test_model(cfg, model_of(cfg, seed)), [inputs_of(cfg, record)])


@EVERY
@pytest.mark.parametrize("proposals", [(), RPN], ids=["precomputed", "rpn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_scale_is_plain_inference_bit_for_bit(tmp_path, family, proposals, combine):
    record, opts = record_of(tmp_path), (*FAMILIES[family], *proposals)
    plain = run(record, *opts)
    assert len(plain[0]) > 5
    assert_same(run(record, *opts, *AUG, "(64,)", COMBINE, combine), plain)


def test_boxes_are_in_the_pixels_of_the_image_where_no_other_size_is_asked_for(tmp_path):
    record, opts = record_of(tmp_path), (*AUG, "(48, 64)", COMBINE, "mean")
    cfg = cfg_of(*opts)
    inputs, model = inputs_of(cfg, record), build_test_model(cfg, model_of(cfg, 0))
    bare = {key: value for key, value in inputs.items() if key not in ("height", "width")}
    assert_same(detect(model, [bare]), detect(model, [inputs]))


def test_one_scale_of_a_batch_is_plain_inference_bit_for_bit(tmp_path):
    cfg, aug = cfg_of(), cfg_of(*AUG, "(64,)")
    records = [record_of(tmp_path, 40 - 20 * i, seed=i) for i in range(3)]
    plain = detect(model_of(cfg), [inputs_of(cfg, r) for r in records])
    assert_same(detect(RCNNWithTTA(aug, model_of(aug)), [inputs_of(aug, r) for r in records]), plain)


@EVERY
@pytest.mark.parametrize(
    "more", [(), VOTING, SOFT, RPN, FAMILIES["mask"]], ids=["+M", "+M+B", "soft", "rpn", "mask"]
)
def test_the_order_of_the_scales_does_not_matter(tmp_path, combine, more):
    record = record_of(tmp_path)
    flip = ("TEST.AUG.FLIP", "True", COMBINE, combine, *more)
    results = [run(record, *AUG, sizes, *flip) for sizes in ("(48, 64, 90)", "(90, 64, 48)", "(64, 90, 48)")]
    assert len(results[0][0]) > 0
    assert_same(results[1], results[0])
    assert_same(results[2], results[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_fields_and_boxes_in_the_image(tmp_path, family, mode):
    (found,) = run(record_of(tmp_path), *FAMILIES[family], *MODES[mode])
    assert found.image_size == (60, 80)
    assert len(found) > 0
    assert found.has("pred_masks") == (family == "mask")
    assert found.has("pred_keypoints") == (family == "keypoint")
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 80).all() and (boxes[:, [1, 3]] <= 60).all()
    assert (found.scores.diff() <= 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_proposals_there_are_no_detections(tmp_path, family, mode):
    (found,) = run(record_of(tmp_path, num_proposals=0), *FAMILIES[family], *MODES[mode])
    assert len(found) == 0


@EVERY
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_where_no_score_is_high_enough_there_are_no_detections(tmp_path, family, mode, combine):
    opts = (*FAMILIES[family], *MODES[mode], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0", COMBINE, combine)
    (found,) = run(record_of(tmp_path), *opts)
    assert len(found) == 0


@pytest.mark.parametrize("mode", MODES)
def test_an_image_without_proposals_beside_one_with_some(tmp_path, mode):
    cfg = cfg_of(*MODES[mode])
    inputs = [inputs_of(cfg, record_of(tmp_path, n, seed=n)) for n in (0, 40)]
    empty, full = detect(build_test_model(cfg, model_of(cfg)), inputs)
    assert len(empty) == 0 and len(full) > 0


@EVERY
def test_rounds_and_scales_multiply_to_the_passes_of_the_head(tmp_path, combine):
    cfg = cfg_of(*AUG, "(48, 64, 90)", *VOTING, "TEST.BOX_VOTING.ROUNDS", "3", COMBINE, combine)
    model, passes = model_of(cfg), []
    model.roi_heads.box_head.register_forward_hook(lambda *_: passes.append(1))
    features = []
    model.backbone.register_forward_hook(lambda *_: features.append(1))
    detect(RCNNWithTTA(cfg, model), [inputs_of(cfg, record_of(tmp_path))])
    assert (len(passes), len(features)) == (9, 3)


def test_all_detections_merged_are_those_of_detectron2(tmp_path):
    """Its own result lies in the image's frame and ours in that of a scale: equal up to rounding."""
    opts = (*FAMILIES["mask"], *RPN, "INPUT.MIN_SIZE_TEST", "60", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.3")
    cfg = cfg_of(*opts, *AUG, "(48, 60, 90)", "TEST.AUG.FLIP", "True")
    model, inputs = model_of(cfg), [inputs_of(cfg, record_of(tmp_path))]
    (ours,), (theirs,) = (
        detect(m, inputs) for m in (RCNNWithTTA(cfg, model), GeneralizedRCNNWithTTA(cfg, model, batch_size=1))
    )
    assert len(ours) == len(theirs) > 5
    order, other = ours.scores.argsort(stable=True), theirs.scores.argsort(stable=True)
    torch.testing.assert_close(ours.scores[order], theirs.scores[other])
    torch.testing.assert_close(
        ours.pred_boxes.tensor[order], theirs.pred_boxes.tensor[other], rtol=0, atol=1e-3
    )
    assert (ours.pred_masks[order] != theirs.pred_masks[other]).float().mean() < 0.01


class _Predictor(nn.Module):
    """Scores and boxes of RoIs by a rule of their boxes in the view: to work out the mean by hand."""

    def forward(self, features):
        return features

    def predict_boxes(self, predictions, proposals):
        return [
            p.proposal_boxes.tensor + p.proposal_boxes.tensor.new_tensor([2.0, 0.0, 2.0, 0.0])
            for p in proposals
        ]

    def predict_probs(self, predictions, proposals):
        return [torch.tensor([[p.image_size[0] / 200, 0.0, 0.0, 0.0]] * len(p)) for p in proposals]


def test_scores_and_boxes_of_a_proposal_are_averaged_over_the_scales(tmp_path):
    # Each view moves a box 2 pixels of its own to the right. For an image of 60 x 80 at 60, 30 and 120 that
    # is 2, 4 and 1 pixels of the image, on average 7 / 3. The scores are 0.3, 0.15 and 0.6, on average 0.35.
    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *AUG, "(30, 60, 120)", COMBINE, "mean")
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor = _Predictor()
    inputs["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[10 + 7 / 3, 20.0, 30 + 7 / 3, 50.0]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.35]))


def test_a_flipped_view_is_mirrored_back(tmp_path):
    # 2 pixels to the right in the image, and 2 to the left in its mirror image: on average none.
    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *AUG, "(60,)", "TEST.AUG.FLIP", "True", COMBINE, "mean")
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor = _Predictor()
    inputs["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[10.0, 20.0, 30.0, 50.0]]))


class _Ramp(nn.Module):
    """Masks that rise from 0 at their left edge to 1.2 at the right one."""

    def forward(self, features, instances):
        for x in instances:
            x.pred_masks = torch.linspace(0, 1.2, 28).expand(len(x), 1, 28, 28)
        return instances


def test_masks_of_a_flipped_view_are_mirrored_back(tmp_path):
    # (0 + 1.2) / 2 = 0.6, above the 0.5 from which a pixel is part of the mask; edges differ by half a cell.
    cfg = cfg_of(
        *FAMILIES["mask"],
        "INPUT.MIN_SIZE_TEST",
        "60",
        *AUG,
        "(60,)",
        "TEST.AUG.FLIP",
        "True",
        COMBINE,
        "mean",
    )
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor, model.roi_heads.mask_head = _Predictor(), _Ramp()
    inputs["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    assert found.pred_masks[0].sum() == found.pred_masks[0, 20:50, 10:30].sum() == 20 * 30


@pytest.mark.parametrize("voters, shift", [("all", 3.0), ("last", 4.0)])
def test_two_rounds_regress_twice_and_vote(tmp_path, voters, shift):
    # Round 1 moves the box by 2 pixels, round 2 by 4. Both have score 0.3 and IoU 18 / 22: one is suppressed.
    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *VOTING, "TEST.BOX_VOTING.VOTERS", voters)
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor = _Predictor()
    inputs["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[10 + shift, 20.0, 30 + shift, 50.0]]))
    torch.testing.assert_close(found.scores, torch.tensor([0.3]))


def test_box_voting_has_thresholds_of_its_own(tmp_path):
    # As above, but at 0.9 NMS keeps both; of IoU 0.82, each votes for the other.
    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *VOTING, "TEST.BOX_VOTING.NMS_THRESH", "0.9")
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor = _Predictor()
    inputs["proposals"].proposal_boxes.tensor[:] = torch.tensor([[10.0, 20.0, 30.0, 50.0]])
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[13.0, 20.0, 33.0, 50.0]] * 2))


@pytest.mark.parametrize("mode", MODES)
def test_the_images_of_a_batch_do_not_meet(tmp_path, mode):
    cfg = cfg_of(*MODES[mode])
    model, inputs = (
        build_test_model(cfg, model_of(cfg)),
        [inputs_of(cfg, record_of(tmp_path, seed=i)) for i in range(2)],
    )
    for together, alone in zip(detect(model, inputs), [detect(model, [x])[0] for x in inputs]):
        torch.testing.assert_close(fields_of(together), fields_of(alone))


class _Table(nn.Module):
    """Two boxes and their scores for each height of a view, in pixels of an image of 60 x 80."""

    def forward(self, features):
        return features

    def predict_boxes(self, predictions, proposals):
        boxes = {
            60: [[10.0, 10.0, 30.0, 30.0], [16.0, 10.0, 36.0, 30.0]],
            90: [[5.0, 10.0, 25.0, 30.0], [0.0, 0.0, 1.0, 1.0]],
        }
        return [torch.tensor(boxes[p.image_size[0]]) * p.image_size[0] / 60 for p in proposals]

    def predict_probs(self, predictions, proposals):
        scores = {60: [0.6, 0.5], 90: [0.9, 0.0]}
        return [torch.tensor([[s, 0.0, 0.0, 1 - s] for s in scores[p.image_size[0]]]) for p in proposals]


@pytest.mark.parametrize(
    "combine, more, expected",
    [
        # At 60, the first box (0.6) suppresses the second (0.5): IoU 280 / 520. The first box at 90 (0.9)
        # suppresses the first at 60: 300 / 500, but not the second: 180 / 620. So the second is there if none
        # was suppressed at 60.
        ("detections", (), {0.9: [5, 10, 25, 30]}),
        ("candidates", (), {0.9: [5, 10, 25, 30], 0.5: [16, 10, 36, 30]}),
        ("detections", VOTING, {0.9: [5, 10, 25, 30], 0.5: [16, 10, 36, 30]}),
        # The mean of the first proposal has 0.75, 2.5 pixels left of its box at 60; of the second 0.25.
        ("mean", (), {0.75: [7.5, 10, 27.5, 30], 0.25: [8, 5, 18.5, 15.5]}),
        ("proposals", (), {0.75: [7.5, 10, 27.5, 30], 0.25: [8, 5, 18.5, 15.5]}),
        # The first proposal scores highest at 90, the second at 60, and each brings its box along.
        ("max", (), {0.9: [5, 10, 25, 30], 0.5: [16, 10, 36, 30]}),
    ],
    ids=str,
)
def test_the_scales_are_combined_as_the_option_says(tmp_path, combine, more, expected):
    rounds = ("TEST.BOX_VOTING.ROUNDS", "1", "TEST.BOX_VOTING.VOTE_THRESH", "1.0")
    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *AUG, "(60, 90)", *more, *rounds, COMBINE, combine)
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 2))
    model.roi_heads.box_predictor = _Table()
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    assert found.scores.tolist() == pytest.approx(list(expected))
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([*map(list, expected.values())]).float())


def test_the_best_scale_of_a_proposal_is_chosen_for_each_class():
    # One RoI, two views, two classes and the background; each box stands for its view and class.
    boxes = torch.tensor([[[[0.0] * 4, [1.0] * 4]], [[[10.0] * 4, [11.0] * 4]]])
    scores = torch.tensor([[[0.6, 0.1, 0.3]], [[0.2, 0.3, 0.5]]])
    found, highest = _best(boxes, scores)
    assert found[0, :, 0].tolist() == [0, 11]
    assert highest[0].tolist() == pytest.approx([0.6, 0.3, 0.5])
    # A box that the classes share is that of the first view, whose 0.6 is the highest of a class: not of the
    # second, though its background were higher.
    shared, _ = _best(boxes[:, :, :1], torch.tensor([[[0.1, 0.6, 0.3]], [[0.2, 0.1, 0.7]]]))
    assert shared.tolist() == [[[0, 0, 0, 0]]]


def test_only_boxes_of_the_class_vote(tmp_path):
    """Two classes found at the same place, whose boxes differ: without the class, each would be the mean."""

    class TwoClasses(_Table):
        def predict_boxes(self, predictions, proposals):
            boxes = torch.zeros(1, 12)
            boxes[0, :8] = torch.tensor([10.0, 10.0, 30.0, 30.0, 12.0, 10.0, 32.0, 30.0])
            return [boxes for _ in proposals]

        def predict_probs(self, predictions, proposals):
            return [torch.tensor([[0.5, 0.4, 0.0, 0.1]]) for _ in proposals]

    cfg = cfg_of("INPUT.MIN_SIZE_TEST", "60", *VOTING, "TEST.BOX_VOTING.ROUNDS", "1")
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1))
    model.roi_heads.box_predictor = TwoClasses()
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs])
    assert found.pred_classes.tolist() == [0, 1]
    assert found.pred_boxes.tensor.tolist() == [[10, 10, 30, 30], [12, 10, 32, 30]]


@pytest.mark.parametrize(
    "combine, sizes",
    [("mean", [(64, 85)]), ("max", [(64, 85)]), ("detections", [(64, 85), (48, 64), (90, 120)])],
)
def test_where_predictions_of_proposals_are_combined_the_rpn_of_the_reference_alone_proposes(
    tmp_path, combine, sizes
):
    cfg = cfg_of(*RPN, *AUG, "(90, 48, 64)", COMBINE, combine)
    model, seen = model_of(cfg), []
    model.proposal_generator.register_forward_hook(
        lambda module, args, output: seen.extend(args[0].image_sizes)
    )
    detect(RCNNWithTTA(cfg, model), [inputs_of(cfg, record_of(tmp_path))])
    assert [tuple(size) for size in seen] == sizes


def test_a_round_goes_on_from_the_box_of_the_best_class_that_is_a_box():
    # One RoI a row, a box for each of two classes; the last score is the background's.
    inf = float("inf")
    boxes = torch.tensor([
        [[1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 6.0, 6.0]],  # the second class is the better one
        [[1.0, 1.0, 99.0, 5.0], [0.0, 0.0, 1.0, 1.0]],  # clipped
        [[30.0, 1.0, 40.0, 5.0], [0.0, 0.0, 1.0, 1.0]],  # outside the image: empty
        [[1.0, 1.0, inf, 5.0], [0.0, 0.0, 1.0, 1.0]],
    ])  # fmt: skip
    scores = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.2, 0.5], [0.3, 0.2, 0.5], [0.3, 0.2, 0.5]])
    regressed = _regressed(boxes, scores, (10, 20))
    assert regressed.proposal_boxes.tensor.tolist() == [[2, 2, 6, 6], [1, 1, 20, 5]]


def test_a_roi_with_a_number_that_is_not_finite_gives_no_candidates():
    boxes = torch.tensor([[[1.0, 1.0, 5.0, 5.0]], [[1.0, 1.0, float("nan"), 5.0]], [[1.0, 1.0, 5.0, 6.0]]])
    scores = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [float("nan"), 0.3, 0.1]])
    found = _candidates(boxes, scores, (10, 10), 0.2)
    assert found.pred_boxes.tensor.tolist() == [[1, 1, 5, 5]] * 2
    assert (found.scores.tolist(), found.pred_classes.tolist()) == (pytest.approx([0.6, 0.3]), [0, 1])


def test_predictions_of_half_precision_become_float32(tmp_path):
    cfg = cfg_of()
    model, inputs, predictor = model_of(cfg), inputs_of(cfg, record_of(tmp_path, 1)), _Predictor()
    probs = predictor.predict_probs
    predictor.predict_probs = lambda *args: [
        p.bfloat16() for p in probs(*args)
    ]  # as a sigmoid's under autocast
    model.roi_heads.box_predictor = predictor
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    boxes, scores = class_predictions(model.roi_heads, features, [inputs["proposals"]])
    assert (boxes[0].dtype, scores[0].dtype) == (torch.float32, torch.float32)


def test_masks_are_those_of_the_voted_boxes(tmp_path):
    cfg = cfg_of(*FAMILIES["mask"], *VOTING)
    model, given = model_of(cfg), []
    model.roi_heads.mask_pooler.register_forward_pre_hook(
        lambda _, args: given.append(args[1][0].tensor.clone())
    )
    (found,) = detect(RCNNWithTTA(cfg, model), [inputs_of(cfg, record_of(tmp_path))])
    assert len(given) == 1
    scale = torch.tensor([80 / 85, 60 / 64] * 2)  # 60 x 80 pixels were tested at 64 x 85
    torch.testing.assert_close(given[0] * scale, found.pred_boxes.tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_that_the_heads_choose_from(tmp_path, family, monkeypatch):
    cfg = cfg_of(*FAMILIES[family])
    model, inputs = model_of(cfg), inputs_of(cfg, record_of(tmp_path))
    seen = []
    for module in ("fast_rcnn", "cascade_rcnn"):
        monkeypatch.setattr(
            f"detectron2.modeling.roi_heads.{module}.fast_rcnn_inference",
            lambda b, s, *_: seen.append((b, s)),
        )
    with torch.no_grad():
        images = model.preprocess_image([inputs])
        features = model.backbone(images.tensor)
        with pytest.raises(TypeError):  # nothing to choose from comes back
            model.roi_heads(images, features, [inputs["proposals"]])
        boxes, scores = class_predictions(model.roi_heads, features, [inputs["proposals"]])
    assert torch.equal(boxes[0].flatten(1), seen[0][0][0]) and torch.equal(scores[0], seen[0][1][0])


def test_a_box_as_large_as_its_image_stays_in_it_at_every_scale():
    """Scaling rounds; the loader clips afterwards, and so do we."""
    for width in range(50, 150):
        whole = Instances((60, width), proposal_boxes=Boxes(torch.tensor([[0.0, 0.0, width, 60.0]])))
        moved = [
            _move(whole, (90, width + more)).proposal_boxes.tensor[0, 2] - width - more
            for more in range(-40, 40)
        ]
        assert max(moved) <= 0


def test_gradients_are_not_recorded(tmp_path):
    cfg = cfg_of(*MODES["+M+B"])
    model = model_of(cfg)
    (output,) = RCNNWithTTA(cfg, model)([inputs_of(cfg, record_of(tmp_path))])
    assert (
        not output["instances"].pred_boxes.tensor.requires_grad
        and not output["instances"].scores.requires_grad
    )
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["standard", "cascade", "res5"])
def test_half_precision(tmp_path, family, mode):
    cfg = cfg_of(*FAMILIES[family], *MODES[mode])
    model, inputs = build_test_model(cfg, model_of(cfg)), [inputs_of(cfg, record_of(tmp_path))]
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = detect(model, inputs)
    assert len(found) > 0 and found.pred_boxes.tensor.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_settings_given_one_by_one_are_those_of_a_config(tmp_path, mode):
    cfg = cfg_of(*MODES[mode])
    model = model_of(cfg)
    options = {
        "aug": MultiScaleOptions.from_config(cfg),
        "box_voting": BoxVotingOptions.from_config(cfg),
        "soft_nms": SoftNMSOptions.from_config(cfg),
    }
    inputs = [inputs_of(cfg, record_of(tmp_path))]
    given = RCNNWithTTA(model, **options, **thresholds(model))
    assert_same(detect(given, inputs), detect(RCNNWithTTA(cfg, model), inputs))


def test_a_model_stays_itself_where_nothing_is_enabled():
    cfg = cfg_of()
    model = model_of(cfg)
    assert build_test_model(cfg, model) is model


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_the_model_outlives_an_evaluation(mode):
    """As Detectron2's `inference_context` does it, in the middle of a training."""
    cfg = cfg_of(*MODES[mode])
    model = model_of(cfg).train()
    wrapper = build_test_model(cfg, model)
    mode = wrapper.training
    wrapper.eval()
    assert not model.training
    wrapper.train(mode)
    assert model.training and model.roi_heads.box_head.training


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ("TEST.AUG.COMBINE", "min"),
            "TEST.AUG.COMBINE is 'min'; valid: one of 'detections', 'candidates', ",
        ),
        ((*AUG, "()"), r"TEST.AUG.MIN_SIZES is \(\); valid: one size or more"),
        (("TEST.BOX_VOTING.ROUNDS", "0"), "TEST.BOX_VOTING.ROUNDS is 0; valid: an integer >= 1"),
        (
            ("TEST.BOX_VOTING.NMS_THRESH", "1.5"),
            r"TEST.BOX_VOTING.NMS_THRESH is 1.5; valid: a number in \[0, 1\]",
        ),
        (("TEST.BOX_VOTING.VOTE_THRESH", "-1.0"), "TEST.BOX_VOTING.VOTE_THRESH is -1.0"),
        (
            ("TEST.BOX_VOTING.VOTERS", "first"),
            "TEST.BOX_VOTING.VOTERS is 'first'; valid: one of 'all', 'last'",
        ),
        (("TEST.SOFT_NMS.SIGMA", "0.0"), "TEST.SOFT_NMS.SIGMA is 0.0; valid: a number > 0"),
        (
            ("MODEL.META_ARCHITECTURE", "RetinaNet", *VOTING),
            "infer as GeneralizedRCNN does; RetinaNet does not",
        ),
        (
            ("MODEL.META_ARCHITECTURE", "PanopticFPN", *AUG, "(64,)"),
            "infer as GeneralizedRCNN does; PanopticFPN does not",
        ),
        (("MODEL.ROI_HEADS.NAME", "RROIHeads", *SOFT), "at many scales .*RROIHeads .*rotated boxes"),
    ],
)
def test_a_setting_that_is_wrong_or_that_the_model_cannot_follow_is_named(opts, message):
    with pytest.raises(ValueError, match=message):
        check_testing(tiny_cfg("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", *opts))


def test_an_unknown_key_of_box_voting_is_an_error():
    cfg = tiny_cfg(*VOTING)
    cfg.TEST.BOX_VOTING.VOTE_TRESH = 0.5
    with pytest.raises(KeyError, match="unknown key TEST.BOX_VOTING.VOTE_TRESH; valid: ENABLED, ROUNDS"):
        check_testing(cfg)
