"""Each rule against its definition in plain Python."""

import math
from collections import Counter
from dataclasses import replace
from inspect import signature

import pytest
import torch

from ohem_d2.mining import select_hard_rois
from ohem_d2.mining.rules import (
    hardest,
    instance_balanced,
    iou_balanced,
    mixed,
    pool,
    prime,
    quota,
    trimmed,
)

from .candidates import (
    NUM_CLASSES,
    apart,
    by_image,
    greedy,
    iou,
    make_budget,
    make_candidates,
    random_candidates,
    selected,
    survivors,
)

SEEDS = range(8)


def is_foreground(rois, row):
    return rois.labels[row].item() < NUM_CLASSES


# hardest


@pytest.mark.parametrize(
    "settings",
    [{}, {"nms_thresh": 1.0}, {"nms_thresh": 0.3, "nms_per_class": True}, {"is_pooled": True}],
)
def test_hardest_is_the_selection_of_the_paper(settings):
    for seed in SEEDS:
        rois, budget = random_candidates(seed), make_budget(6, **settings)
        pooled = {"num_images": rois.num_images} if budget.is_pooled else {}
        classes = rois.labels if budget.nms_per_class else None
        args = rois.losses, rois.boxes, rois.image_ids, 6, budget.nms_thresh, classes
        assert selected(hardest(rois, budget)) == set(select_hard_rois(*args, **pooled).tolist())


# quota


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nms_thresh": 0.2},
        {"nms_thresh": 0.2, "nms_per_class": True},
        {"nms_thresh": 1.0},
        {"nms_thresh": 0.2, "positive_fraction": 0.5},
    ],
)
def test_quota_is_filled_by_the_hardest_of_each_kind(settings):
    for seed in SEEDS:
        rois, budget = random_candidates(seed, sizes=(40, 0, 25, 30, 20)), make_budget(8, **settings)
        expected = set()
        for rows in survivors(rois, budget):
            foreground = [r for r in rows if is_foreground(rois, r)][: int(8 * budget.positive_fraction)]
            background = [r for r in rows if not is_foreground(rois, r)]
            expected.update(foreground, background[: 8 - len(foreground)])
        assert selected(quota(rois, budget)) == expected


# pool


def test_pool_draws_background_from_the_hardest_and_foreground_from_all():
    # Losses 0, 1, ..., 19; rows 0 to 3 are foreground. Of 8 RoIs 2 are foreground; 6 of the 9 hardest others.
    labels = [0] * 4 + [3] * 16
    rois = make_candidates(apart(20), labels, [0] * 20, 1, losses=range(20))
    drawn = Counter()
    for seed in range(300):
        mask = selected(pool(rois, make_budget(8, seed), pool_size=1.5))
        assert len(mask & set(range(4))) == 2 and len(mask) == 8
        drawn.update(mask)
    assert set(drawn) == {0, 1, 2, 3, *range(11, 20)}
    # Each is drawn with probability 1/2 of 300 foreground, 2/3 background: four standard deviations.
    for row, times in drawn.items():
        share = 1 / 2 if row < 4 else 2 / 3
        assert abs(times - 300 * share) < 4 * math.sqrt(300 * share * (1 - share))


def test_a_pool_larger_than_any_number_is_all_background():
    rois, budget = random_candidates(3), make_budget(8)
    assert selected(pool(rois, budget, pool_size=1e30)) == selected(pool(rois, make_budget(8), pool_size=1e4))


def test_pool_of_size_one_is_the_hardest_background():
    for seed in SEEDS:
        rois, budget = random_candidates(seed), make_budget(8, seed)
        mask = selected(pool(rois, budget, pool_size=1))
        for rows, of_image in zip(survivors(rois, budget), by_image(rois)):
            num_fg = len([r for r in mask & set(of_image) if is_foreground(rois, r)])
            hard = [r for r in rows if not is_foreground(rois, r)][: 8 - num_fg]
            assert {r for r in mask & set(of_image) if not is_foreground(rois, r)} == set(hard)


# iou_balanced


@pytest.mark.parametrize("num_bins", [1, 3, 4])
def test_iou_balanced_takes_as_many_of_each_bin(num_bins):
    for seed in SEEDS:
        rois, budget = random_candidates(seed, sizes=(60, 0, 60, 60)), make_budget(12, seed)
        mask = selected(iou_balanced(rois, budget, num_bins=num_bins))
        for rows in by_image(rois):
            background = [r for r in rows if not is_foreground(rois, r)]
            num_fg = min(3, len(rows) - len(background))
            assert len([r for r in rows if r in mask and is_foreground(rois, r)]) == num_fg
            assert len(mask & set(background)) == min(12 - num_fg, len(background))
            highest = max((rois.ious[r].item() for r in background), default=0)
            bins = Counter(), Counter()
            for r in background:
                of_row = min(int(rois.ious[r].item() / highest * num_bins), num_bins - 1)
                bins[r in mask][of_row] += 1
            for b in range(num_bins):
                available = bins[0][b] + bins[1][b]
                assert bins[1][b] >= min((12 - num_fg) // num_bins, available)


def test_iou_balanced_fills_what_a_bin_lacks_from_the_others():
    # One RoI of IoU 0.3, ten of 0: bins [0, 0.1), [0.1, 0.2), [0.2, 0.3]; 6 are drawn, 2 of each if it had.
    rois = make_candidates(apart(11), [3] * 11, [0] * 11, 1, ious=[0.3] + [0.0] * 10)
    drawn = Counter()
    for seed in range(50):
        mask = selected(iou_balanced(rois, make_budget(6, seed)))
        assert 0 in mask and len(mask) == 6
        drawn.update(mask)
    assert set(drawn) == set(range(11))


# instance_balanced


def test_instance_balanced_gives_every_object_its_turn():
    for seed in SEEDS:
        rois, budget = random_candidates(seed, foreground_share=0.5), make_budget(20, seed)
        mask = selected(instance_balanced(rois, budget))
        for rows in by_image(rois):
            foreground = [r for r in rows if is_foreground(rois, r)]
            of_object = Counter(rois.objects[r].item() for r in foreground)
            chosen = Counter(rois.objects[r].item() for r in foreground if r in mask)
            assert sum(chosen.values()) == min(5, len(foreground))
            most = max(chosen.values(), default=0)
            for name, available in of_object.items():
                assert chosen[name] >= min(most - 1, available)
            background = len(rows) - len(foreground)
            assert len(mask & set(rows)) - sum(chosen.values()) == min(20 - sum(chosen.values()), background)


def test_instance_balanced_draws_within_an_object_at_random():
    # Object 0 has 9 RoIs, object 1 one; of 2 foreground RoIs each object has one, any of the nine.
    rois = make_candidates(apart(10), [0] * 10, [0] * 10, 1, objects=[0] * 9 + [1])
    masks = [selected(instance_balanced(rois, make_budget(8, seed))) for seed in range(100)]
    assert all(9 in mask and len(mask) == 2 for mask in masks) and set().union(*masks) == set(range(10))


# prime


def prime_rows(rois, budget, nms_thresh):
    """Rows in the order of the paper: rank within the object or the group, then IoU or score."""
    ious = [iou(a, b) for a, b in zip(rois.decoded.tolist(), rois.object_boxes.tolist())]
    scores, decoded, chosen = rois.scores.tolist(), rois.decoded.tolist(), set()
    for rows in by_image(rois):
        foreground = [r for r in rows if is_foreground(rois, r)]
        background = [r for r in rows if not is_foreground(rois, r)]
        of_object = {r: rois.objects[r].item() for r in foreground}
        of_group = greedy(background, scores, decoded, nms_thresh)
        best = _by_turns(foreground, of_object, ious)[: budget.num_foreground]
        chosen.update(best, _by_turns(background, of_group, scores)[: budget.num_per_image - len(best)])
    return chosen


def _by_turns(rows, group_of, values):
    turn, seen = {}, Counter()
    for row in sorted(rows, key=lambda r: -values[r]):
        turn[row] = seen[group_of[row]]
        seen[group_of[row]] += 1
    return sorted(rows, key=lambda r: (turn[r], -values[r]))


@pytest.mark.parametrize("nms_thresh", [0.3, 0.5, 1.0])
def test_prime_takes_the_best_of_each_object_and_of_each_group(nms_thresh):
    for seed in SEEDS:
        sizes = (40, 0, 25, 30)
        rois, budget = random_candidates(seed, sizes), make_budget(12, positive_fraction=0.5)
        rois.decoded[::5, 2:] = rois.decoded[::5, :2]  # without area: a box overlaps not even itself
        assert selected(prime(rois, budget, nms_thresh=nms_thresh)) == prime_rows(rois, budget, nms_thresh)


def test_prime_calls_boxes_of_the_threshold_s_iou_two_places():
    # IoU 0.5 exactly: both are the first of their place; the third is a second, though its score is higher.
    boxes = [[0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1]]
    rois = make_candidates(boxes, [3] * 3, [0] * 3, 1, scores=[0.9, 0.1, 0.8])
    assert selected(prime(rois, make_budget(2), nms_thresh=0.5)) == {0, 1}


# trimmed


@pytest.mark.parametrize("max_iou", [0.3, 1.0])
def test_trimmed_leaves_out_suspected_objects_and_the_very_hardest(max_iou):
    for seed in SEEDS:
        rois, budget = random_candidates(seed), make_budget(5)
        expected, num_suspected = set(), 0
        for rows in survivors(rois, budget):
            suspected = [r for r in rows if _is_suspected(rois, r, max_iou)]
            expected.update([r for r in rows if r not in suspected][2:7])
        num_suspected = sum(_is_suspected(rois, r, max_iou) for r in range(len(rois.labels)))
        mask, scalars = trimmed(rois, budget, num_trimmed=2, max_score=0.6, max_iou=max_iou)
        assert selected(mask) == expected and num_suspected > 0
        assert scalars["num_suspected"].item() == pytest.approx(num_suspected / rois.num_images)


def test_trimmed_suspects_what_is_above_a_score_and_below_an_iou():
    scores, ious = [0.95, 0.96, 0.96], [0.0, 0.1, 0.0]
    rois = make_candidates(apart(3), [3] * 3, [0] * 3, 1, losses=[3, 2, 1], scores=scores, ious=ious)
    mask, scalars = trimmed(rois, make_budget(3), max_score=0.95, max_iou=0.1)
    assert selected(mask) == {0, 1} and scalars["num_suspected"].item() == 1


def _is_suspected(rois, row, max_iou):
    return not is_foreground(rois, row) and rois.scores[row] > 0.6 and rois.ious[row] < max_iou


# mixed


def test_mixed_goes_from_the_sampler_to_the_hardest():
    rois = random_candidates(0, sizes=(60, 50))
    for thresh in (0.2, 0.7):
        at_end = mixed(rois, replace(make_budget(8, nms_thresh=thresh), progress=1.0))
        assert torch.equal(at_end, hardest(rois, make_budget(8, nms_thresh=thresh)))
    for seed in range(20):  # at the start as the sampler: 2 foreground and 6 background, drawn from all
        mask = mixed(rois, make_budget(8, seed))
        for rows in by_image(rois):
            kinds = Counter(is_foreground(rois, r) for r in selected(mask) & set(rows))
            assert kinds == {True: 2, False: 6}
    drawn = set().union(*(selected(mixed(rois, make_budget(8, seed))) for seed in range(300)))
    assert drawn == set(range(110))


@pytest.mark.parametrize("seed", range(20))
def test_mixed_mines_its_share(seed):
    rois, budget = random_candidates(seed, sizes=(40, 40)), make_budget(8, seed)
    for progress, num_mined in ((0.0, 2), (0.5, 3), (1.0, 4)):  # shares 1/4, 3/8, 1/2
        mask = mixed(rois, replace(budget, progress=progress), start=0.25, end=0.5)
        assert mask.sum() == 16
        mined = hardest(rois, make_budget(num_mined))
        assert mask[mined].all()
        for rows in by_image(rois):  # of the rest a quarter, rounded down, is foreground
            rest = [r for r in rows if mask[r] and not mined[r]]
            assert sum(is_foreground(rois, r) for r in rest) == (8 - num_mined) // 4


def test_mixed_asks_for_the_length_of_the_training():
    with pytest.raises(ValueError, match="give the RoI heads its iterations as `max_iter`"):
        mixed(random_candidates(0), replace(make_budget(), progress=None))


# parameters


def test_parameters_are_by_default_those_of_the_docs():
    def defaults(rule):
        return {name: p.default for name, p in signature(rule).parameters.items() if p.kind == p.KEYWORD_ONLY}

    assert defaults(pool) == {"pool_size": 10.0} and defaults(iou_balanced) == {"num_bins": 3}
    assert defaults(prime) == {"nms_thresh": 0.5} and defaults(mixed) == {"start": 0.0, "end": 1.0}
    assert defaults(trimmed) == {"num_trimmed": 0, "max_score": 0.95, "max_iou": 0.1}


@pytest.mark.parametrize(
    "rule, parameters, message",
    [
        (pool, {"pool_size": 0.5}, "pool_size is 0.5; valid: a number >= 1"),
        (pool, {"pool_size": "10"}, "pool_size is '10'; valid: a number >= 1"),
        (iou_balanced, {"num_bins": 0}, "num_bins is 0; valid: an integer >= 1"),
        (iou_balanced, {"num_bins": 2.5}, "num_bins is 2.5; valid: an integer >= 1"),
        (prime, {"nms_thresh": 1.5}, "nms_thresh is 1.5; valid: a number in [0, 1]"),
        (trimmed, {"num_trimmed": -1}, "num_trimmed is -1; valid: an integer >= 0"),
        (trimmed, {"max_score": 2}, "max_score is 2; valid: a number in [0, 1]"),
        (trimmed, {"max_iou": -0.1}, "max_iou is -0.1; valid: a number in [0, 1]"),
        (mixed, {"start": 2}, "start is 2; valid: a number in [0, 1]"),
        (mixed, {"end": True}, "end is True; valid: a number in [0, 1]"),
    ],
)
def test_a_parameter_out_of_range_is_named(rule, parameters, message):
    with pytest.raises(ValueError) as error:
        rule(random_candidates(0), make_budget(), **parameters)
    assert str(error.value) == message
