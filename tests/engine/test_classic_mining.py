"""The active set of classic hard negative mining, by hand-made candidates."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from ohem_d2.engine import classic_mining
from ohem_d2.engine.classic_mining import grow_active_set

# An image of 40 x 20 pixels, shown to the network at twice its size. Rows 0 and 3 are foreground.
BOXES = np.float32(
    [[0, 0, 8, 8], [10, 0, 18, 8], [20, 0, 28, 8], [1, 1, 9, 9], [30, 10, 38, 18], [0, 10, 8, 18]]
)
SCORES = np.float32([6, 5, 4, 3, 2, 1])
LABELS = [1, 2, 2, 0, 2, 2]  # of two classes
FOREGROUND_SCORES = [0.9, 0.6, 0.1, 0.8, 0.11, 0.0]
PROPOSALS = {"a": (BOXES, SCORES)}
IMAGE = {"image_id": "a", "image": torch.zeros(3, 40, 80), "height": 20, "width": 40}


@pytest.fixture
def grow(monkeypatch):
    """``grow(active, ...)`` with a model that gives the scores above; `grow.heads` are its heads."""
    put = []
    heads = SimpleNamespace(num_classes=2, proposal_append_gt=True, box_predictor=torch.nn.Identity())
    model = SimpleNamespace(roi_heads=heads, eval=lambda: put.append("eval"))

    def inspect(model, batch):
        assert put.pop() == "eval"
        assert batch == [IMAGE] and heads.proposal_append_gt is False
        fields = {"gt_classes": torch.tensor(LABELS), **run.fields}
        return [Instances((40, 80), proposal_boxes=Boxes(2 * torch.tensor(BOXES) + 1e-4), **fields)]

    def run(active=None, min_score=0.1, num_random=0, seed=0):
        (found,) = grow_active_set(model, [[IMAGE]], PROPOSALS, active, min_score, num_random, seed)
        assert found.image_id == "a"
        rows = [int(np.flatnonzero((BOXES == box).all(axis=1))[0]) for box in found.boxes]
        assert np.array_equal(found.scores, SCORES[rows])
        return rows, found.num_false_positives

    run.heads, run.fields = heads, {"scores": torch.tensor(FOREGROUND_SCORES)}
    monkeypatch.setattr(classic_mining, "inspect_candidates", inspect)
    return run


def test_background_scored_above_the_limit_is_a_false_positive(grow):
    assert grow() == ([0, 1, 3, 4], 2)  # 0.1 itself is not above
    assert grow(min_score=0.5) == ([0, 1, 3], 1)
    assert grow(min_score=1.0) == ([0, 3], 0)


def test_random_background_is_drawn_by_the_seed_and_no_more_than_there_is(grow):
    assert grow(min_score=1.0, num_random=99)[0] == [0, 1, 2, 3, 4, 5]
    sets = [tuple(grow(min_score=1.0, num_random=2, seed=seed)[0]) for seed in range(30)]
    assert all(len(rows) == 4 and {0, 3} < set(rows) for rows in sets)
    assert set().union(*sets) == set(range(6)) and len(set(sets)) > 3
    assert sets == [tuple(grow(min_score=1.0, num_random=2, seed=seed)[0]) for seed in range(30)]


def test_a_later_set_adds_false_positives_and_drops_nothing(grow):
    active = {"a": (BOXES[[0, 3, 5]], SCORES[[0, 3, 5]])}
    assert grow(active, num_random=99) == ([0, 1, 3, 4, 5], 2)
    none = {"a": (BOXES[:0], SCORES[:0])}
    assert grow(none, min_score=1.0) == ([], 0)


def test_a_model_of_unknown_scores_is_refused(grow):
    grow.fields = {}
    with pytest.raises(ValueError, match="the scores of Identity are not known"):
        grow()


def test_an_image_without_proposals_has_none_active(grow, monkeypatch):
    empty = Instances((40, 80), proposal_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    empty.scores = torch.zeros(0)
    monkeypatch.setattr(classic_mining, "inspect_candidates", lambda model, batch: [empty])
    model = SimpleNamespace(roi_heads=grow.heads, eval=lambda: None)
    none = {"a": (BOXES[:0], SCORES[:0])}
    for active in (None, none):
        (found,) = grow_active_set(model, [[IMAGE]], none, active, 0.1, 5)
        assert found.boxes.shape == (0, 4) and found.num_false_positives == 0
