"""Box voting and soft-NMS against definitions written with loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ohem_d2.evaluation import soft_nms, vote_boxes, voting


class Operations(TorchDispatchMode):
    """Counts what runs inside."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def vote_by_loops(boxes, groups, voters, weights, voter_groups, thresh):
    voted = []
    for box, group in zip(boxes.tolist(), groups.tolist()):
        total, mean = 0.0, [0.0] * 4
        for voter, weight, other in zip(voters.tolist(), weights.tolist(), voter_groups.tolist()):
            if group == other and iou(box, voter) >= thresh:
                total += weight
                mean = [m + weight * v for m, v in zip(mean, voter)]
        voted.append([m / total for m in mean] if total else box)
    return torch.tensor(voted).reshape(-1, 4)


def soft_nms_by_loops(boxes, scores, groups, sigma, thresh, most):
    boxes, scores, groups, taken = boxes.tolist(), scores.tolist(), groups.tolist(), []
    for group in set(groups):
        live = {i: s for i, s in enumerate(scores) if groups[i] == group}
        for _ in range(len(live) if most < 0 else min(most, len(live))):
            best = max(live, key=lambda i: (live[i], -i))
            score = live.pop(best)
            if score <= thresh:
                break
            taken.append((best, score))
            live = {i: s * math.exp(-(iou(boxes[i], boxes[best]) ** 2) / sigma) for i, s in live.items()}
    return sorted(taken, key=lambda pair: -pair[1])


def random_case(num, num_groups, seed, size=60):
    g = torch.Generator().manual_seed(seed)
    corners = torch.rand(num, 2, generator=g) * size
    boxes = torch.cat([corners, corners + 5 + torch.rand(num, 2, generator=g) * size / 2], dim=1)
    return boxes, torch.rand(num, generator=g), torch.randint(num_groups, (num,), generator=g)


ONE = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
ZERO = torch.zeros(1, dtype=torch.long)


def vote(boxes, voters, weights, groups=None, voter_groups=None, thresh=0.5):
    boxes, voters = torch.tensor(boxes).reshape(-1, 4), torch.tensor(voters).reshape(-1, 4)
    groups = torch.tensor(groups or [0] * len(boxes), dtype=torch.long)
    voter_groups = torch.tensor(voter_groups or [0] * len(voters), dtype=torch.long)
    return vote_boxes(boxes, groups, voters, torch.tensor(weights), voter_groups, thresh).tolist()


def test_a_box_alone_votes_for_itself():
    assert (
        vote([[0.1, 0.2, 10.3, 10.4]], [[0.1, 0.2, 10.3, 10.4]], [0.3])
        == torch.tensor([[0.1, 0.2, 10.3, 10.4]]).tolist()
    )


def test_a_box_becomes_the_mean_of_its_voters_by_score():
    # IoU 80 / 120 = 2 / 3. x1: (0.6 * 0 + 0.2 * 2) / 0.8 = 0.5, x2: (0.6 * 10 + 0.2 * 12) / 0.8 = 10.5.
    voters = [[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    assert vote(voters[:1], voters, [0.6, 0.2])[0] == pytest.approx([0.5, 0.0, 10.5, 10.0])


def test_a_voter_at_the_threshold_votes_and_one_below_does_not():
    # [0, 0, 10, 5] lies in the box and is half of it: IoU exactly 0.5; [0, 0, 10, 4] is 0.4.
    assert vote([[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]], [0.5, 0.5]) == [
        [0, 0, 10, 7.5]
    ]
    assert vote([[0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0]], [0.5, 0.5]) == [
        [0, 0, 10, 10]
    ]


def test_disjoint_boxes_stay():
    boxes = [[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]
    assert vote(boxes, boxes, [0.5, 0.5]) == boxes


def test_tied_voters_weigh_alike_and_all_that_overlap_vote():
    voters = [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    assert vote(voters, voters, [0.3, 0.3, 0.3]) == [[pytest.approx(v) for v in (1, 0, 11, 10)]] * 3


def test_only_the_own_group_votes():
    voters = [[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    assert vote(voters, voters, [0.5, 0.5], [0, 1], [0, 1]) == voters
    assert vote(voters[:1], voters[1:], [0.5], [3], [3]) == voters[1:]  # and where the box is no voter itself


def test_a_box_whose_voters_weigh_nothing_stays():
    voters = [[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]
    assert vote(voters[:1], voters, [0.0, 0.0]) == voters[:1]
    assert vote(voters[:1], [], []) == voters[:1]


def test_a_box_without_area_stays():
    assert vote([[5.0, 5.0, 5.0, 5.0]], [[5.0, 5.0, 5.0, 5.0]], [0.5]) == [[5, 5, 5, 5]]


def test_no_boxes():
    assert vote([], [], []) == []
    assert vote([], [[0.0, 0.0, 1.0, 1.0]], [0.5]) == []


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_votes_are_those_of_loops(kept, num, num_groups, seed, thresh):
    voters, weights, voter_groups = random_case(num, num_groups, seed)
    boxes, _, groups = random_case(kept, num_groups, seed + 1)
    boxes[: num // 2], groups[: num // 2] = voters[: num // 2][:kept], voter_groups[: num // 2][:kept]
    args = (boxes, groups, voters, weights, voter_groups, thresh)
    torch.testing.assert_close(vote_boxes(*args), vote_by_loops(*args))


def test_chunks_change_nothing(monkeypatch):
    voters, weights, groups = random_case(200, 3, 0)
    whole = vote_boxes(voters, groups, voters, weights, groups, 0.3)
    monkeypatch.setattr(voting, "_MAX_PAIRS", 150)
    assert torch.equal(vote_boxes(voters, groups, voters, weights, groups, 0.3), whole)


def test_the_operations_of_a_vote_do_not_grow_with_the_boxes():
    counts = []
    for num in (10, 1000):
        voters, weights, groups = random_case(num, 5, 0)
        with Operations() as operations:
            vote_boxes(voters[: num // 2], groups[: num // 2], voters, weights, groups, 0.5)
        counts.append(operations.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_no_more_than_the_rounding_of_its_result(dtype):
    """Many voters near 1,000: a sum in half precision would overflow or lose the coordinates."""
    boxes = torch.tensor([[1000.0, 1000.0, 1200.0, 1200.0]]).to(dtype).repeat(500, 1)
    weights, groups = torch.full((500,), 0.9, dtype=dtype), torch.zeros(500, dtype=torch.long)
    voted = vote_boxes(boxes[:1], groups[:1], boxes, weights, groups, 0.5)
    assert voted.dtype == dtype and torch.equal(voted, boxes[:1])
    case = (boxes, weights, groups, 0.5, 0.01)
    assert soft_nms(*case)[1].dtype == torch.float32 and len(soft_nms(*case)[0]) < 500


def test_no_gradient_is_recorded():
    boxes, weights = ONE.clone().requires_grad_(), torch.ones(1, requires_grad=True)
    assert not vote_boxes(boxes, ZERO, boxes, weights, ZERO, 0.5).requires_grad
    assert not vote_boxes(boxes, ZERO, boxes[:0], weights[:0], ZERO[:0], 0.5).requires_grad
    assert not soft_nms(boxes, weights, ZERO, 0.5, 0.0)[1].requires_grad


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([-1, 3, 100]),
)
def test_soft_nms_is_that_of_loops(num, num_groups, seed, sigma, most):
    boxes, scores, groups = random_case(num, num_groups, seed)
    keep, lowered = soft_nms(boxes, scores, groups, sigma, 0.05, most)
    expected = soft_nms_by_loops(boxes, scores, groups, sigma, 0.05, most)
    assert keep.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(lowered, torch.tensor([s for _, s in expected]))


def test_soft_nms_lowers_by_the_square_of_the_overlap():
    # IoU of the first two is 0.5: 0.8 * exp(-0.25 / 0.5) = 0.8 * 0.60653 = 0.48522; the third overlaps none.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]])
    keep, scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long), 0.5, 0.0)
    assert keep.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-0.5)])


def test_of_equal_scores_soft_nms_takes_the_first():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1)
    assert soft_nms(boxes, torch.full((3,), 0.5), torch.zeros(3, dtype=torch.long), 0.5, 0.0)[0].tolist() == [
        0,
        1,
        2,
    ]


def test_soft_nms_of_nothing_and_of_nothing_high_enough():
    assert [len(x) for x in soft_nms(ONE[:0], torch.zeros(0), ZERO[:0], 0.5, 0.0)] == [0, 0]
    assert [len(x) for x in soft_nms(ONE, torch.tensor([0.25]), ZERO, 0.5, 0.25)] == [0, 0]
