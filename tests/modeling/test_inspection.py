"""What NMS drops, and a random sample, outside training."""

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from ohem_d2.config import OHEMOptions
from ohem_d2.modeling import inspect_candidates, inspection
from ohem_d2.modeling.inspection import dropped_duplicates, mine_inspected, sample_at_random

from ..zoo import make_batch, make_tiny, read_zoo_config


def candidates_of(xs, losses, labels=None):
    """Boxes of 10 x 10 pixels at these x; two that are 1 pixel apart have an IoU of 9 / 11."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10] for x in xs])
    rois = Instances((50, 500), proposal_boxes=Boxes(boxes), losses=torch.tensor(losses))
    rois.gt_classes = torch.tensor(labels or [0] * len(xs))
    rois.cls_losses, rois.box_losses = rois.losses, 0 * rois.losses
    rois.gt_ious, rois.gt_boxes = 0 * rois.losses, Boxes(boxes)
    return rois


def dropped(rois, num_per_image, **options):
    options = OHEMOptions(**options)
    hard = mine_inspected([rois], options, num_per_image, 0.25, 1).rows[0]
    rows, of = dropped_duplicates(rois, hard, options, num_per_image)
    return hard.tolist(), rows.tolist(), of.tolist()


def test_dropped_are_the_duplicates_that_would_be_mined_without_nms():
    """By loss: 1, 0 (of 1), 3, 4 (of 3), 2. Of a budget of 3, NMS drops 0; 4 would have no place."""
    rois = candidates_of([0, 1, 100, 200, 201], [4.0, 5, 1, 3, 2])
    assert dropped(rois, 3) == ([1, 3, 2], [0], [1])
    assert dropped(rois, 5) == ([1, 3, 2], [0, 4], [1, 3])


def test_a_duplicate_is_of_a_roi_of_higher_loss():
    """At 1.5: IoU 0.74 with that of loss 5, of which it is a duplicate, and 0.82 with that of loss 3."""
    assert dropped(candidates_of([0, 1.5, 2.5], [5.0, 4, 3]), 3) == ([0, 2], [1], [0])


def test_of_two_equal_losses_one_is_a_duplicate_of_the_other():
    assert dropped(candidates_of([0, 1], [4.0, 4]), 2) == ([0], [1], [0])


def test_without_nms_nothing_is_dropped():
    assert dropped(candidates_of([0, 1, 100], [1.0, 2, 3]), 2, nms_thresh=1.0) == ([2, 1], [], [])


def test_by_label_only_equal_labels_are_duplicates():
    rois = candidates_of([0, 1, 1.5], [3.0, 2, 1], [0, 1, 0])
    assert dropped(rois, 3, nms_per_class=True) == ([0, 1], [2], [0])
    assert dropped(rois, 3) == ([0], [1, 2], [0, 0])


def test_what_a_rule_leaves_out_is_no_duplicate():
    """A quota of one foreground RoI leaves out the second, whose IoU with the first is 7 / 13."""
    rois = candidates_of([0, 3, 100, 200], [4.0, 3, 2.5, 1], [0, 0, 0, 1])
    hard, rows, of = dropped(rois, 4, rule="quota")
    assert 0 in hard and 1 not in hard and (rows, of) == ([], [])
    rois = candidates_of([0, 0, 100, 200], [4.0, 3, 2.5, 1], [0, 0, 0, 1])
    assert dropped(rois, 4, rule="quota", nms_thresh=1.0)[1:] == ([], [])  # not above the threshold


def test_no_candidates_at_all():
    none = candidates_of([0], [1.0])[torch.zeros(0, dtype=torch.long)]
    rows, of = dropped_duplicates(none, torch.zeros(0, dtype=torch.long), OHEMOptions(), 3)
    assert len(rows) == len(of) == 0 and len(sample_at_random(none, 4, 0.25, 1)) == 0


def test_where_nothing_is_mined_nothing_is_a_duplicate():
    rois, nothing = candidates_of([0, 1], [4.0, 3]), torch.zeros(0, dtype=torch.long)
    assert [len(x) for x in dropped_duplicates(rois, nothing, OHEMOptions(), 2)] == [0, 0]


def test_a_budget_of_the_batch_is_shared_by_its_images():
    batch = [candidates_of([0, 100], [9.0, 8]), candidates_of([0, 100], [2.0, 1])]
    rows = {
        scope: [x.tolist() for x in mine_inspected(batch, OHEMOptions(budget=scope), 1, 0.25, 1).rows]
        for scope in ("image", "batch")
    }
    assert rows == {"image": [[0], [0]], "batch": [[0, 1], []]}


def test_a_random_sample_has_the_shares_of_detectron2_and_leaves_the_random_state():
    rois = candidates_of(list(range(20)), [1.0] * 20, [0] * 10 + [1] * 10)
    state = torch.get_rng_state()
    rows = sample_at_random(rois, 8, 0.25, 1)
    assert (torch.get_rng_state() == state).all()
    assert (rois.gt_classes[rows] == 0).sum() == 2 and len(set(rows.tolist())) == 8
    assert rows.tolist() == sample_at_random(rois, 8, 0.25, 1).tolist()


def test_losses_are_those_of_float32_whatever_the_precision_of_mining(monkeypatch):
    """So that what is measured of two models compares; on CUDA the default of mining is float16."""
    asked, losses_of = [], inspection.candidate_losses
    monkeypatch.setattr(
        inspection, "candidate_losses", lambda *args, **kw: asked.append(args[4]) or losses_of(*args, **kw)
    )
    cfg = read_zoo_config("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml")
    make_tiny(cfg)
    model = build_model(cfg).eval()
    inspect_candidates(model, make_batch(cfg), OHEMOptions(readonly_dtype="bfloat16", rank_by="cls"))
    assert [(options.readonly_dtype, options.rank_by) for options in asked] == [("float32", "cls")]
