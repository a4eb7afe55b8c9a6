import itertools
import math
import re

import pytest
import torch

from ohem_d2.mining import mine_hard_rois, rank_hard_rois, select_hard_rois, selection


def brute_force(losses, boxes, image_ids, num_per_image, nms_thresh=0.7, class_ids=None, num_images=None):
    """The definition in plain Python: one RoI at a time, IoU of two boxes at a time."""

    def iou(a, b):
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union if union > 0 else 0.0

    losses, boxes, image_ids = losses.tolist(), boxes.tolist(), image_ids.tolist()
    classes = [0] * len(losses) if class_ids is None else class_ids.tolist()
    survivors = []
    for i in sorted(range(len(losses)), key=lambda i: (-losses[i], i)):
        rivals = [j for j in survivors if image_ids[j] == image_ids[i] and classes[j] == classes[i]]
        if nms_thresh is None or all(iou(boxes[i], boxes[j]) <= nms_thresh for j in rivals):
            survivors.append(i)
    images = sorted(set(image_ids))
    if num_images is not None:
        survivors, num_per_image = survivors[: num_images * num_per_image], len(survivors)
    return [i for image in images for i in [j for j in survivors if image_ids[j] == image][:num_per_image]]


def random_rois(seed, num_rois, num_images=3, num_classes=3, levels=None):
    """Integer boxes on a small canvas, so that many overlap; `levels` distinct losses, so that many tie."""
    g = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 40, (num_rois, 2), generator=g)
    sizes = torch.randint(1, 30, (num_rois, 2), generator=g)
    boxes = torch.cat([corners, corners + sizes], dim=1).float()
    losses = torch.rand(num_rois, generator=g)
    if levels:
        losses = (losses * levels).floor()
    images = torch.randint(0, num_images, (num_rois,), generator=g)
    return losses, boxes, images, torch.randint(0, num_classes, (num_rois,), generator=g)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("nms_thresh", [None, 0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("per_class, per_batch", list(itertools.product([False, True], repeat=2)))
def test_equals_brute_force(levels, nms_thresh, per_class, per_batch):
    for seed in range(10):
        losses, boxes, images, classes = random_rois(seed, 60, levels=levels)
        args = (losses, boxes, images, 5, nms_thresh, classes if per_class else None)
        expected = brute_force(*args, num_images=3 if per_batch else None)
        assert select_hard_rois(*args, num_images=3 if per_batch else None).tolist() == expected


def test_duplicates_of_a_hard_roi_leave_room_for_others():
    # Boxes 0 and 1: intersection 90, union 110, IoU 0.818 > 0.7: 1 is dropped and 2, easier, is selected.
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]).float()
    losses, images = torch.tensor([3.0, 2.0, 1.0]), torch.zeros(3, dtype=torch.long)
    assert select_hard_rois(losses, boxes, images, 2).tolist() == [0, 2]
    assert select_hard_rois(losses, boxes, images, 2, nms_thresh=None).tolist() == [0, 1]


def test_an_iou_equal_to_the_threshold_is_no_duplicate():
    # Intersection 70, union 100: IoU is 0.7 exactly, also beside images whose boxes are moved far away.
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 7]]).float().repeat(50, 1)
    losses, images = torch.arange(100.0), torch.arange(50).repeat_interleave(2)
    assert len(select_hard_rois(losses, boxes, images, 2, nms_thresh=0.7)) == 100
    assert len(select_hard_rois(losses, boxes, images, 2, nms_thresh=0.6999)) == 50


def test_equal_losses_go_to_the_lower_index():
    losses, images = torch.ones(1000), torch.zeros(1000, dtype=torch.long)
    boxes = torch.arange(1000.0).unsqueeze(1) * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    for thresh in (None, 0.7):
        assert select_hard_rois(losses, boxes, images, 7, thresh).tolist() == list(range(7))


def test_an_image_gets_no_more_than_its_budget_and_no_padding():
    boxes = torch.arange(5.0).unsqueeze(1) * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    losses, images = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]), torch.tensor([7, 2, 7, 2, 7])
    assert select_hard_rois(losses, boxes, images, 2).tolist() == [3, 1, 0, 2]
    assert select_hard_rois(losses, boxes, images, 99).tolist() == [3, 1, 0, 2, 4]


def test_a_pooled_budget_goes_to_the_hardest_images():
    boxes = torch.arange(5.0).unsqueeze(1) * 20 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    losses, images = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]), torch.tensor([1, 0, 1, 0, 1])
    assert select_hard_rois(losses, boxes, images, 1, num_images=2).tolist() == [0, 2]
    assert select_hard_rois(losses, boxes, images, 2, num_images=2).tolist() == [3, 0, 2, 4]


def test_ids_of_any_integer_type_do_not_overflow():
    boxes, losses = torch.tensor([[0.0, 0, 9, 9]] * 2), torch.tensor([1.0, 2.0])
    ids, classes = torch.tensor([0, 128], dtype=torch.uint8), torch.ones(2, dtype=torch.uint8)
    assert select_hard_rois(losses, boxes, ids, 1, class_ids=classes).tolist() == [0, 1]


def test_no_rois_select_none():
    empty = torch.zeros(0), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    for thresh, classes in itertools.product((None, 0.7), (None, torch.zeros(0, dtype=torch.long))):
        selected = select_hard_rois(*empty, 4, thresh, classes)
        assert selected.shape == (0,) and selected.dtype == torch.long


def test_all_of_one_class_per_class_is_as_without():
    losses, boxes, images, classes = random_rois(0, 50)
    background = torch.full_like(classes, 20)
    assert torch.equal(
        select_hard_rois(losses, boxes, images, 5, 0.7, background),
        select_hard_rois(losses, boxes, images, 5, 0.7),
    )


def test_survivors_are_what_nms_keeps():
    losses, boxes, images, _ = random_rois(1, 50, num_images=1)
    hard = rank_hard_rois(losses, boxes, images, 3, 0.3)
    assert hard.survivors.tolist() == brute_force(losses, boxes, images, 50, 0.3)
    assert hard.order[hard.is_selected].tolist() == hard.survivors[:3].tolist()
    assert sorted(hard.order.tolist()) == sorted(hard.survivors.tolist()) and hard.num_selected == 3


def test_half_precision_losses_are_taken():
    losses, boxes, images, _ = random_rois(2, 50)
    half = losses.half()
    assert select_hard_rois(half, boxes, images, 5).tolist() == brute_force(half, boxes, images, 5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_the_images(value):
    losses, boxes, images, _ = random_rois(0, 20)
    images[:] = 0
    images[4], images[9] = 3, 5
    losses[4] = losses[9] = value
    with pytest.raises(FloatingPointError, match=r"2 of 20 losses .* \[3, 5\]"):
        select_hard_rois(losses, boxes, images, 5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"losses": torch.zeros(4, 1)}, r"losses must be \(R,\) floating point, got \(4, 1\)"),
        ({"losses": torch.zeros(4, dtype=torch.long)}, "losses must be"),
        ({"boxes": torch.zeros(4, 5)}, r"boxes must be \(4, 4\)"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes must be \(4, 4\)"),
        ({"image_ids": torch.zeros(4)}, r"image_ids must be \(4,\) integer"),
        ({"image_ids": torch.zeros(3, dtype=torch.long)}, "image_ids must be"),
        ({"class_ids": torch.zeros(4, dtype=torch.bool)}, "class_ids must be"),
        ({"num_per_image": 0}, "num_per_image must be an integer >= 1, got 0"),
        ({"num_per_image": 2.0}, "num_per_image must be"),
        ({"num_images": 0}, "num_images must be"),
        ({"nms_thresh": 1.5}, r"nms_thresh must be None or in \[0, 1\], got 1.5"),
        ({"nms_thresh": -0.1}, "nms_thresh must be"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    arguments = {
        "losses": torch.zeros(4),
        "boxes": torch.zeros(4, 4),
        "image_ids": torch.zeros(4, dtype=torch.long),
        "num_per_image": 2,
    }
    with pytest.raises(ValueError, match=message):
        select_hard_rois(**{**arguments, **change})


# `mine_hard_rois`: RoIs are concatenated image by image.

APART = torch.tensor([0.0, 0.0, 10.0, 10.0]) + 20 * torch.arange(75.0).unsqueeze(1)  # no two boxes overlap


def brute_force_rows(losses, boxes, num_rois, budget, nms_thresh, class_ids, pool_budget):
    """Of `brute_force`, the indices into the RoIs of each image."""
    images = torch.arange(len(num_rois)).repeat_interleave(torch.tensor(num_rois))
    num_images = len(num_rois) if pool_budget else None
    selected = brute_force(losses, boxes, images, budget, nms_thresh, class_ids, num_images)
    firsts = [sum(num_rois[:i]) for i in range(len(num_rois))]
    return [[i - first for i in selected if first <= i < first + n] for first, n in zip(firsts, num_rois)]


@pytest.fixture
def looked_at(monkeypatch):
    """How many RoIs went into each ranking."""
    numbers, rank = [], selection.rank_hard_rois

    def spy(losses, *args, **kwargs):
        numbers.append(len(losses))
        return rank(losses, *args, **kwargs)

    monkeypatch.setattr(selection, "rank_hard_rois", spy)
    return numbers


def as_lists(hard):
    assert all(rows.dtype == torch.long for rows in hard.rows)
    return [rows.tolist() for rows in hard.rows]


def test_rows_are_indices_into_the_rois_of_each_image():
    # Image 0: boxes 0 and 1 have IoU 0.818, so 1, the harder, drops 0. Image 1: one RoI.
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 10]]).float()
    losses, classes = torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([0, 1, 0, 0])
    hard = mine_hard_rois(losses, boxes, [3, 1], 3)
    assert as_lists(hard) == [[1, 2], [0]] and hard.num_survivors == 3 and hard.measured == {}
    per_class = mine_hard_rois(losses, boxes, [3, 1], 3, class_ids=classes)
    assert as_lists(per_class) == [[1, 2, 0], [0]] and per_class.num_survivors == 4
    # Two RoIs of the four: those of loss 5 and 3.
    assert as_lists(mine_hard_rois(losses, boxes, [3, 1], 1, pool_budget=True)) == [[1], [0]]
    # A budget of three in one image, where the RoI of loss 5 drops those of 3 and 1.
    assert as_lists(mine_hard_rois(losses, boxes, [4, 0, 0], 1, pool_budget=True)) == [[3, 2], [], []]


@pytest.mark.parametrize("topk", [12, 4096])
@pytest.mark.parametrize("levels", [None, 3])
# With an image without RoIs the budget stays unspent, so that NMS is repeated with all RoIs.
@pytest.mark.parametrize("num_rois", [(30, 0, 45), (30, 14, 31)])
@pytest.mark.parametrize("per_class, pool_budget", list(itertools.product([False, True], repeat=2)))
def test_mined_rows_equal_brute_force(monkeypatch, topk, levels, num_rois, per_class, pool_budget):
    monkeypatch.setattr(selection, "NMS_TOPK", topk)
    for seed, thresh in itertools.product(range(5), (None, 0.1, 0.7)):
        losses, boxes, _, classes = random_rois(seed, 75, levels=levels)
        arguments = losses, boxes, num_rois, 5, thresh, classes if per_class else None
        hard = mine_hard_rois(*arguments, pool_budget=pool_budget)
        assert as_lists(hard) == brute_force_rows(*arguments, pool_budget)


def test_the_hardest_go_into_nms_first_and_all_only_where_the_budget_is_unspent(monkeypatch, looked_at):
    monkeypatch.setattr(selection, "NMS_TOPK", 4)
    losses = torch.arange(9.0)
    assert as_lists(mine_hard_rois(losses, APART[:9], [9], 3)) == [[8, 7, 6]]
    assert as_lists(mine_hard_rois(losses, APART[:9], [3, 6], 3)) == [[2, 1, 0], [5, 4, 3]]
    assert as_lists(mine_hard_rois(losses, APART[:9], [2, 7], 3)) == [[1, 0], [6, 5, 4]]
    assert looked_at == [6, 3 + 6, 2 + 6]  # twice the budget; an image that is not cut has no more to give
    equal = torch.cat([APART[:4], APART[:1].repeat(5, 1)])  # the five hardest are the same box, as is box 0
    hard = mine_hard_rois(losses, equal, [9], 3)
    assert as_lists(hard) == [[8, 3, 2]] and hard.num_survivors == 4
    assert looked_at[3:] == [6, 9]


@pytest.mark.parametrize("topk", [12, 4096])
def test_measure_gets_the_ranking_of_all_rois_and_changes_nothing(monkeypatch, topk):
    monkeypatch.setattr(selection, "NMS_TOPK", topk)
    losses, boxes, _, _ = random_rois(0, 75)
    rankings = []

    def measure(ranked):
        rankings.append(ranked)
        return {
            "num_selected": ranked.num_selected,
            "hardest": losses[ranked.order[0]],
            "zero": losses.sum() * 0,
        }

    hard = mine_hard_rois(losses, boxes, [30, 45], 5, measure=measure)
    plain = mine_hard_rois(losses, boxes, [30, 45], 5)
    assert all(map(torch.equal, hard.rows, plain.rows)) and hard.num_survivors == plain.num_survivors
    ranked = rankings[-1]
    selected = hard.rows[0].tolist() + (hard.rows[1] + 30).tolist()
    assert ranked.order[ranked.is_selected].tolist() == selected and ranked.num_selected == 10
    assert sorted(ranked.order.tolist()) == sorted(ranked.survivors.tolist())
    assert losses[ranked.survivors].tolist() == sorted(losses[ranked.survivors].tolist(), reverse=True)
    assert hard.measured == {"num_selected": 10, "hardest": losses[:30].max().item(), "zero": 0}
    assert list(hard.measured) == ["num_selected", "hardest", "zero"]


def test_measured_scalars_are_floats_of_the_last_ranking(monkeypatch):
    monkeypatch.setattr(selection, "NMS_TOPK", 4)
    boxes = APART[:1].repeat(9, 1)
    hard = mine_hard_rois(
        torch.arange(9.0), boxes, [9], 3, 1.0, measure=lambda ranked: {"n": ranked.num_selected}
    )
    assert hard.measured == {"n": 3.0} and type(hard.measured["n"]) is float
    boxes[:2] = APART[1:3]  # nine RoIs, three different boxes: the first ranking finds one of them
    hard = mine_hard_rois(torch.arange(9.0), boxes, [9], 3, measure=lambda ranked: {"n": ranked.num_selected})
    assert hard.measured == {"n": 3.0}


@pytest.mark.parametrize("topk", [12, 4096])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_mined_loss_that_is_not_finite_names_its_image(monkeypatch, topk, value):
    monkeypatch.setattr(selection, "NMS_TOPK", topk)
    losses = torch.rand(75)
    losses[40] = value
    with pytest.raises(FloatingPointError, match=r"1 of 75 losses are not finite, in image\(s\) \[1\] of"):
        mine_hard_rois(losses, APART, [30, 45], 5)


@pytest.mark.parametrize("pool_budget", [False, True])
def test_images_without_rois_get_none(pool_budget):
    hard = mine_hard_rois(torch.zeros(0), torch.zeros(0, 4), [0, 0], 4, pool_budget=pool_budget)
    assert as_lists(hard) == [[], []] and hard.num_survivors == 0
    hard = mine_hard_rois(torch.tensor([1.0, 2.0]), APART[:2], [0, 2, 0], 4, pool_budget=pool_budget)
    assert as_lists(hard) == [[], [1, 0], []]


@pytest.mark.parametrize("num_losses, num_rois", [(0, []), (3, []), (3, [2]), (3, [2, 2])])
def test_numbers_of_rois_that_do_not_add_up_are_named(num_losses, num_rois):
    message = f"num_rois must be one number per image, of sum {num_losses}, got {num_rois}"
    with pytest.raises(ValueError, match=re.escape(message)):
        mine_hard_rois(torch.zeros(num_losses), torch.zeros(num_losses, 4), num_rois, 2)
