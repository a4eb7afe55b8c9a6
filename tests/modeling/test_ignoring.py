"""Ignore regions of which the areas are known: what is no candidate, for heads of every kind and anchors."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from ohem_d2 import IgnoreRegionsOptions
from ohem_d2.modeling import inspect_candidates
from ohem_d2.modeling.box_forward import box_forward
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.ignoring import are_inside, drop_ignored, find_ignored, ignore_anchors
from ohem_d2.utils.regions import TargetsWithRegions

from ..builders import build_heads, make_inputs, random_boxes
from ..zoo import LEFT, make_batch, make_tiny, read_zoo_config

ON = IgnoreRegionsOptions(enabled=True)
ENABLED = ("MODEL.IGNORE_REGIONS.ENABLED", True)
NO_MINING = ("MODEL.OHEM.ENABLED", False)
FAMILIES = {
    "mined": (),
    "naive": ("MODEL.OHEM.NAIVE", True),
    "plain": NO_MINING,
    "cascade": (
        "MODEL.ROI_HEADS.NAME",
        "OHEMCascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        True,
    ),
}


def boxes(*rows):
    return Boxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))


def targets_of(objects, regions, size=(64, 64)):
    return TargetsWithRegions(
        size,
        boxes(*regions),
        gt_boxes=boxes(*objects),
        gt_classes=torch.zeros(len(objects), dtype=torch.long),
    )


def proposals_of(*rows, size=(64, 64)):
    return Instances(size, proposal_boxes=boxes(*rows), objectness_logits=torch.arange(float(len(rows))))


def kept(proposals, targets, options=ON, thresholds=(0.5,), labels=(0, 1)):
    matcher = Matcher(list(thresholds), list(labels), allow_low_quality_matches=False)
    (result,) = drop_ignored([proposals], [targets], matcher, options)
    return result.objectness_logits.int().tolist()


def with_regions(targets, *regions):
    """The targets, each with these regions."""
    return [TargetsWithRegions(t.image_size, boxes(*regions), **t.get_fields()) for t in targets]


# Of a box of 10 x 10 at x = 0, a region up to x = 7 covers 0.7 of the area, one up to x = 8 covers 0.8.
@pytest.mark.parametrize("right, inside", [(7, False), (7.001, True), (8, True), (10, True), (6, False)])
def test_a_box_lies_inside_if_more_than_the_threshold_of_its_own_area_does(right, inside):
    region = boxes((-50, -50, right, 60))  # of far larger area, so that the IoU is below 0.01
    assert are_inside(boxes((0, 0, 10, 10)), region, 0.7).tolist() == [inside]


def test_the_largest_share_over_single_regions_counts_and_not_their_sum():
    halves = boxes((0, 0, 5, 10), (5, 0, 10, 10))  # 0.5 + 0.5
    assert are_inside(boxes((0, 0, 10, 10)), halves, 0.7).tolist() == [False]
    overlapping = boxes((0, 0, 8, 10), (0, 0, 3, 10))  # 0.8 and 0.3: their mean is 0.55
    assert are_inside(boxes((0, 0, 10, 10)), overlapping, 0.7).tolist() == [True]


def test_a_box_without_area_lies_inside_nothing():
    assert are_inside(boxes((3, 3, 3, 9)), boxes((0, 0, 10, 10)), 0.0).tolist() == [False]


def test_a_region_of_half_an_image_drops_what_lies_in_it_in_order():
    inputs = [(40, 0, 60, 20), (0, 0, 20, 20), (20, 0, 36, 20), (10, 30, 30, 60), (24, 0, 40, 20)]
    # Shares of the left half (x < 32): 0, 1, 12/16 = 0.75, 1, 8/16.
    assert kept(proposals_of(*inputs), targets_of([], [(0, 0, 32, 64)])) == [0, 4]


def test_what_matches_an_object_stays_though_a_crowd_covers_it():
    objects, crowd = [(0, 0, 20, 20)], [(0, 0, 64, 64)]
    # IoU 1, 0.75 (15 of 20 columns), 0.25, 0.
    inputs = [(0, 0, 20, 20), (0, 0, 15, 20), (0, 0, 5, 20), (40, 40, 60, 60)]
    assert kept(proposals_of(*inputs), targets_of(objects, crowd)) == [0, 1]
    # With a lower IoU of background, what is between is neither: the matcher drops it, and so may the region.
    assert kept(
        proposals_of(*inputs), targets_of(objects, crowd), thresholds=(0.1, 0.5), labels=(-1, 0, 1)
    ) == [0, 1]


def test_the_threshold_is_that_of_the_options():
    inputs = proposals_of((0, 0, 10, 10), (3, 0, 13, 10))  # shares 1.0 and 0.7
    region = targets_of([], [(0, 0, 10, 64)])
    assert kept(inputs, region, IgnoreRegionsOptions(True, 0.69)) == []
    assert kept(inputs, region, IgnoreRegionsOptions(True, 0.7)) == [1]
    assert kept(inputs, region, IgnoreRegionsOptions(True, 1.0)) == [0, 1]


def test_images_of_a_batch_have_their_own_regions():
    inputs = [proposals_of((0, 0, 9, 9), (40, 40, 50, 50)) for _ in range(3)]
    targets = [targets_of([], r) for r in ([(0, 0, 20, 20)], [], [(30, 30, 60, 60)])]
    matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=False)
    result = drop_ignored(inputs, targets, matcher, ON)
    assert [r.objectness_logits.int().tolist() for r in result] == [[1], [0, 1], [0]]
    assert result[1] is inputs[1] and [len(x) for x in inputs] == [2, 2, 2]
    assert find_ignored(inputs, targets, matcher, IgnoreRegionsOptions()) == [None] * 3


def test_anchors_of_the_background_are_labelled_minus_one():
    levels = [boxes((0, 0, 8, 8), (40, 40, 48, 48)), boxes((2, 2, 30, 30))]
    targets = [targets_of([], [(0, 0, 16, 16)]), targets_of([], [])]
    labels = [torch.tensor([0, 0, 0]), torch.tensor([0, 1, -1])]
    # The third anchor of 28 x 28 has 14 x 14 inside: 0.25.
    result = ignore_anchors(labels, levels, targets, 0, ON)
    assert [x.tolist() for x in result] == [[-1, 0, 0], [0, 1, -1]]
    positive = ignore_anchors([torch.tensor([1, 0, 0])], levels, targets[:1], 0, ON)
    assert positive[0].tolist() == [1, 0, 0]


def test_regions_go_along_to_a_device_and_with_a_selection():
    targets = targets_of([(0, 0, 9, 9), (1, 1, 5, 5)], [(0, 0, 20, 20)])
    for moved in (targets.to("cpu"), targets[:1], copy.deepcopy(targets), targets.to("meta")):
        assert moved.ignore_regions.tensor.shape == (1, 4)
    assert len(targets[:1]) == 1 and targets.to("meta").ignore_regions.device.type == "meta"


def test_targets_without_regions_are_refused_with_what_to_set():
    features, proposals, targets = make_inputs()
    with pytest.raises(
        TypeError, match="hands on no ignore regions; valid: ohem_d2.data.RegionDatasetMapper"
    ):
        build_heads(*ENABLED)(None, features, proposals, targets)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_regions_the_losses_are_those_of_the_key_off(family, storage):
    losses = {}
    for on in (False, True):
        heads = build_heads(*FAMILIES[family], *(ENABLED if on else ()))
        features, proposals, targets = make_inputs()
        torch.manual_seed(1)
        losses[on] = heads(None, features, proposals, with_regions(targets))[1]
    assert losses[True].keys() == losses[False].keys()
    assert all(torch.equal(losses[True][name], losses[False][name]) for name in losses[True])


def test_heads_that_do_not_mine_are_detectron2s_to_the_bit(storage):
    losses = []
    for opts in ((*NO_MINING, *ENABLED), ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")):
        features, proposals, targets = make_inputs()
        torch.manual_seed(1)
        losses.append(build_heads(*opts)(None, features, proposals, with_regions(targets))[1])
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_train_as_if_the_ignored_proposals_were_not_there(family, storage):
    """A region of half the image, against the same heads on the proposals that are not inside it."""
    losses, region = {}, (0.0, 0.0, 32.0, 64.0)
    for dropped in (False, True):
        heads = build_heads(*FAMILIES[family], *ENABLED)
        features, proposals, targets = make_inputs()
        targets = with_regions(targets, region)
        if dropped:
            proposals = drop_ignored(proposals, targets, heads.proposal_matcher, ON)
        assert (sum(map(len, proposals)) < 80) == dropped
        torch.manual_seed(1)
        losses[dropped] = heads(None, features, proposals, targets)[1]
        sum(losses[dropped].values()).backward()
    assert all(torch.equal(losses[True][name], losses[False][name]) for name in losses[True])
    plain = build_heads(*FAMILIES[family])
    features, proposals, targets = make_inputs()
    torch.manual_seed(1)
    off = plain(None, features, proposals, with_regions(targets, region))[1]
    assert any(not torch.equal(off[name], losses[True][name]) for name in off)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_of_which_all_is_ignored_trains_nothing(family, storage):
    heads = build_heads(*FAMILIES[family], *ENABLED)
    features, proposals, _ = make_inputs()
    nothing = [targets_of([], [(0, 0, 64, 64)]) for _ in proposals]
    losses = heads(None, features, proposals, nothing)[1]
    sum(losses.values()).backward()
    assert all(loss.item() == 0 for loss in losses.values())
    half = [nothing[0], targets_of([], [])]
    assert all(loss.isfinite() for loss in heads(None, features, proposals, half)[1].values())


RPN, RETINANET = "COCO-Detection/rpn_R_50_FPN_1x.yaml", "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
DENSE = {
    "rpn": (RPN, ("MODEL.PROPOSAL_GENERATOR.NAME", "OHEMRPN"), "MODEL.OHEM.RPN.ENABLED"),
    "retinanet": (RETINANET, ("MODEL.META_ARCHITECTURE", "OHEMRetinaNet"), "MODEL.OHEM.RETINANET.ENABLED"),
}


def dense_losses(family, *opts, regions=()):
    name, ours, _ = DENSE[family]
    cfg = read_zoo_config(name)
    make_tiny(cfg)
    cfg.merge_from_list([*ours, *opts])
    torch.manual_seed(0)
    model, batch = build_model(cfg).train(), make_batch(cfg, regions=regions)
    with EventStorage():
        return model(batch)


@pytest.mark.parametrize("is_mining", [True, False])
@pytest.mark.parametrize("family", DENSE)
def test_dense_detectors_without_regions_are_as_with_the_key_off(family, is_mining):
    opts = (DENSE[family][2], is_mining)
    ours, off = dense_losses(family, *opts, *ENABLED), dense_losses(family, *opts)
    ignored = dense_losses(family, *opts, *ENABLED, regions=((-999, -999, 999, 999),))
    assert all(torch.equal(ours[name], off[name]) for name in off)
    assert any(not torch.equal(ignored[name], off[name]) for name in off)
    if not is_mining:
        theirs = "MODEL.PROPOSAL_GENERATOR.NAME" if family == "rpn" else "MODEL.META_ARCHITECTURE"
        plain = dense_losses(family, theirs, "RPN" if family == "rpn" else "RetinaNet")
        assert all(torch.equal(ours[name], plain[name]) for name in plain)


@pytest.mark.parametrize("is_mining", [True, False])
@pytest.mark.parametrize("family", DENSE)
def test_anchors_are_labelled_before_a_sample_is_drawn(family, is_mining):
    """Of 300 anchors a third are in a region: none of these is drawn, and the sample is full all the same."""
    name, ours, key = DENSE[family]
    cfg = read_zoo_config(name)
    make_tiny(cfg)
    cfg.merge_from_list([*ours, key, is_mining, *ENABLED, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 190])
    model = build_model(cfg)
    label = (
        model.label_anchors if family == "retinanet" else model.proposal_generator.label_and_sample_anchors
    )
    inside, outside = random_boxes(100, size=30), Boxes(random_boxes(200, size=30).tensor + 32)
    targets = [targets_of([], [(0, 0, 32, 32)]), targets_of([inside.tensor[7].tolist()], [(0, 0, 32, 32)])]
    torch.manual_seed(0)
    nothing, one = label([inside, outside], targets)[0]
    assert (nothing[:100] == -1).all() and one[7] not in (-1, 80 if family == "retinanet" else 0)
    drawn = 190 if family == "rpn" and not is_mining else 200
    assert (nothing[100:] >= 0).sum() == drawn and (one[100:] >= 0).sum() >= drawn - 1 - (one[:100] > 0).sum()


def test_the_inspected_candidates_are_those_of_training():
    """The all-RoI loss and the pictures: with regions fewer, and none inside one but those on objects."""
    cfg = read_zoo_config("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml")
    make_tiny(cfg)
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "OHEMROIHeads", *ENABLED])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    everything, nothing = (inspect_candidates(model, make_batch(cfg, regions=r)) for r in ((), (LEFT,)))
    assert sum(map(len, nothing)) < sum(map(len, everything))
    for candidates in nothing:
        background = candidates[candidates.gt_classes == cfg.MODEL.ROI_HEADS.NUM_CLASSES]
        assert not are_inside(background.proposal_boxes, boxes(LEFT), 0.7).any()


def cascade_on_a_region():
    heads = build_heads(*FAMILIES["cascade"], *ENABLED)
    features, proposals, targets = make_inputs()
    return heads, features, proposals, with_regions(targets, (0.0, 0.0, 32.0, 64.0))


def test_later_stages_of_a_cascade_train_on_no_box_that_was_moved_into_a_region(storage, monkeypatch):
    heads, features, proposals, targets = cascade_on_a_region()
    trained = []

    def recording(losses):
        return lambda predictions, rois: trained.append(rois) or losses(predictions, rois)

    for predictor in heads.box_predictor:
        monkeypatch.setattr(predictor, "losses", recording(predictor.losses))
    heads(None, features, proposals, targets)
    numbers = [sum(map(len, rois)) for rois in trained]
    assert numbers[0] == 16 and numbers[2] < 16  # b = 8 in each of two images
    for rois in trained:
        for of_image in rois:
            background = of_image[of_image.gt_classes == 3]
            assert not are_inside(background.proposal_boxes, boxes((0, 0, 32, 64)), 0.7).any()


def test_the_loss_of_a_candidate_counts_only_the_stages_in_which_it_is_not_ignored(storage):
    heads, features, proposals, targets = cascade_on_a_region()
    candidates = label_candidates(
        heads, drop_ignored(proposals, targets, heads.proposal_matcher, ON), targets
    )
    with torch.no_grad():
        stages = list(box_forward(heads.eval(), features, candidates, targets))
    gone = torch.zeros(sum(map(len, candidates)), dtype=torch.bool)
    for stage in stages[1:]:
        inside = [are_inside(p.proposal_boxes, boxes((0, 0, 32, 64)), 0.7) for p in stage.proposals]
        gone |= torch.cat(inside) & (torch.cat([p.gt_classes for p in stage.proposals]) == 3)
        nonempty = torch.cat([p.proposal_boxes.nonempty() for p in stage.proposals])
        assert torch.equal(stage.weights[nonempty] == 0, gone[nonempty])
    assert 0 < gone.sum() < len(gone)


def test_in_a_cascade_images_without_regions_count_in_every_stage(storage):
    heads, features, proposals, targets = cascade_on_a_region()
    targets[1] = with_regions(targets[1:])[0]
    heads.eval()
    with torch.no_grad():
        counted = {}
        for number, of_images in enumerate((targets, with_regions(targets))):
            candidates = label_candidates(heads, proposals, of_images)
            *_, last = box_forward(heads, features, candidates, of_images)
            counted[number] = last.weights.split([len(c) for c in candidates])
    assert torch.equal(counted[0][1], counted[1][1])
    assert counted[0][0].sum() < counted[1][0].sum()
