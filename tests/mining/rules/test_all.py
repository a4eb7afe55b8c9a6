"""What holds for every rule."""

import ast
import inspect
from dataclasses import fields, replace

import pytest
import torch

from ohem_d2.mining import mine_by_rule
from ohem_d2.mining.rules import RULES, mixed
from ohem_d2.mining.rules.base import Candidates, rank_in_groups, top_of_groups

from .candidates import apart, by_image, make_budget, make_candidates, random_candidates, selected

ALL = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


def mask_of(rule, rois, budget):
    selection = rule(rois, budget)
    return selection[0] if isinstance(selection, tuple) else selection


@ALL
def test_no_image_exceeds_its_budget_and_none_with_rois_goes_without(rule):
    for seed in range(5):
        rois = random_candidates(seed)
        mask = mask_of(rule, rois, make_budget(6, seed))
        counts = [sum(mask[row].item() for row in rows) for rows in by_image(rois)]
        assert counts[1] == 0 and 0 < counts[0] <= 6 and 0 < counts[2] <= 6


@ALL
@pytest.mark.parametrize("sizes", [(0,), (0, 0), (5, 0)])
@pytest.mark.parametrize("foreground_share", [0.0, 1.0])
def test_no_rois_no_foreground_and_no_background_are_no_errors(rule, sizes, foreground_share):
    rois = random_candidates(0, sizes, foreground_share)
    mask = mask_of(rule, rois, make_budget(4))
    assert mask.shape == (sum(sizes),) and mask.dtype == torch.bool


@ALL
def test_equal_generators_select_the_same(rule):
    rois = random_candidates(0)
    masks = [mask_of(rule, rois, make_budget(seed=3)) for _ in range(2)]
    assert torch.equal(*masks)


@ALL
def test_nothing_is_changed(rule):
    rois = random_candidates(0)
    copies = {f.name: getattr(rois, f.name).clone() for f in fields(rois) if f.type is torch.Tensor}
    state = torch.get_rng_state()
    mask_of(rule, rois, make_budget())
    assert all(torch.equal(getattr(rois, name), copy) for name, copy in copies.items()) and copies
    assert torch.equal(torch.get_rng_state(), state)


@ALL
def test_a_function_has_fewer_than_40_lines(rule):
    tree = ast.parse(inspect.getsource(inspect.getmodule(rule)))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert rule.__name__ in [f.name for f in functions]
    assert all(f.end_lineno - f.lineno < 40 for f in functions)


@ALL
def test_the_selection_is_ordered_by_loss_and_counted_per_image(rule):
    rois = random_candidates(1)
    hard = mine_by_rule(rois, make_budget(), lambda *args: mask_of(rule, *args))
    rows = [[of_image[r] for r in chosen] for of_image, chosen in zip(by_image(rois), hard.rows)]
    assert {row for of_image in rows for row in of_image} == selected(mask_of(rule, rois, make_budget()))
    for of_image in rows:
        losses = rois.losses[of_image].tolist()
        assert losses == sorted(losses, reverse=True)


def test_without_losses_the_selection_is_ordered_by_index():
    rois = random_candidates(1)
    plain = Candidates(**{field.name: getattr(rois, field.name) for field in fields(Candidates)})
    hard = mine_by_rule(plain, make_budget(), lambda rois, budget: rois.ious > 0.2)
    chosen = [[r for r in of_image if plain.ious[r] > 0.2] for of_image in by_image(rois)]
    assert [[of_image[r] for r in rows] for of_image, rows in zip(by_image(rois), hard.rows)] == chosen
    assert sum(map(len, chosen)) > 5


def test_a_mask_that_does_not_fit_is_refused():
    rois = random_candidates(0)
    for wrong, found in ((rois.losses > 2)[:3], r"\(3,\) torch.bool"), (rois.losses, "torch.float32"):
        with pytest.raises(ValueError, match=rf"must return \(65,\) bool, or .*, got .*{found}"):
            mine_by_rule(rois, make_budget(), lambda *args: wrong)  # noqa: B023


@pytest.mark.parametrize(
    "wrong, found",
    [
        (lambda mask: None, "NoneType"),
        (lambda mask: [mask, {}], "list"),
        (lambda mask: (mask, [1.0]), r"a pair of \(65,\) torch.bool and list"),
    ],
)
def test_what_is_no_mask_is_refused(wrong, found):
    rois = random_candidates(0)
    with pytest.raises(ValueError, match=f"bool, or a pair of it and a dict of scalars, got {found}$"):
        mine_by_rule(rois, make_budget(), lambda *args: wrong(rois.losses > 2))


def test_a_non_finite_loss_names_the_images():
    rois = random_candidates(0)
    losses = rois.losses.clone()
    losses[50] = float("nan")  # of image 2
    with pytest.raises(FloatingPointError, match=r"1 of 65 losses are not finite, in image\(s\) \[2\]"):
        mine_by_rule(replace(rois, losses=losses), make_budget(), mixed)


def test_scalars_of_a_rule_are_for_the_log():
    rois = make_candidates(apart(3), [3, 3, 3], [0, 0, 1], 2, losses=[1.0, 2.0, 3.0])
    numbers = {"n": torch.tensor(7), "one": torch.ones(1), "plain": 0.5, "all": 9}
    rule = lambda rois, budget: (rois.losses > 1.5, numbers)  # noqa: E731
    hard = mine_by_rule(rois, make_budget(), rule, measure=lambda ranked: {"all": ranked.is_selected.sum()})
    assert hard.measured == {"all": 2} and hard.logged == {"n": 7, "one": 1, "plain": 0.5, "all": 9}
    assert [r.tolist() for r in hard.rows] == [[1], [0]]
    assert hard.num_survivors is None


def test_top_of_groups_by_hand():
    keys = torch.tensor([1.0, 5.0, 5.0, 2.0, 9.0])
    groups, eligible = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([True, True, True, True, False])
    assert selected(top_of_groups(keys, groups, eligible, 1)) == {1, 3}
    assert selected(top_of_groups(keys, groups, eligible, torch.tensor([0, 2]))) == {1, 2}
    # Group 0: row 3, then 0. Group 1: rows 1 and 2, then 4, which is not eligible.
    assert rank_in_groups(keys, groups, eligible).tolist() == [1, 0, 1, 0, 2]
