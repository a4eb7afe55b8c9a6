"""Mining rules in RoI heads."""

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

import ohem_d2.modeling.mixin
from ohem_d2 import MINING_RULES, OHEMOptions
from ohem_d2.engine import load_config
from ohem_d2.mining.rules import RULES, Budget, CandidatesWithLosses, hardest
from ohem_d2.modeling.box_forward import box_forward
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.inspection import mine_inspected
from ohem_d2.modeling.readonly_pass import candidate_losses, check_minable
from ohem_d2.modeling.rules import build_rule, mine_candidates

from ..builders import build_heads, make_inputs
from .test_cuda import KINDS

NAMES = [rule.__name__ for rule in RULES]
FAMILIES = {name: KINDS[name] for name in ("standard", "res5", "cascade")}


@pytest.fixture
def register():
    """Registers rules, which are forgotten after the test."""
    names = []

    def register(rule):
        names.append(rule.__name__)
        return MINING_RULES.register(rule)

    yield register
    for name in names:
        del MINING_RULES._obj_map[name]


def with_rule(name, *opts):
    return build_heads("MODEL.OHEM.RULE", name, *opts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", NAMES)
def test_every_rule_trains_every_family(storage, rule, family):
    heads, (features, proposals, targets) = with_rule(rule, *FAMILIES[family]), make_inputs(num_proposals=60)
    heads._features = features  # as in forward, which does not return what it sampled in every family
    torch.manual_seed(0)
    sampled = heads.label_and_sample_proposals(proposals, targets)
    torch.manual_seed(0)
    _, losses = heads(None, features, proposals, targets)
    assert all(0 < len(p) <= 8 for p in sampled)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters() if p.grad is not None)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["ohem/num_selected"] == pytest.approx(sum(map(len, sampled)) / len(sampled))
    num_fg = sum((p.gt_classes < 3).sum().item() for p in sampled)
    assert latest["ohem/fg_fraction"] == pytest.approx(num_fg / sum(map(len, sampled)))
    assert ("ohem/mean_loss" in latest) == build_rule(OHEMOptions(rule=rule)).reads_losses


def test_the_rule_of_the_heads_is_that_of_the_config(storage):
    """With a share of foreground of 0, quota takes none; the rule of the paper does not read the share."""
    opts, num_fg = ("MODEL.ROI_HEADS.POSITIVE_FRACTION", "0.0"), {}
    for rule in ("hardest", "quota"):
        sampled, _ = with_rule(rule, *opts)(None, *make_inputs(num_proposals=60))
        num_fg[rule] = sum((p.gt_classes < 3).sum().item() for p in sampled)
    assert num_fg["quota"] == 0 < num_fg["hardest"]


@pytest.mark.parametrize("budget", ["image", "batch"])
def test_hardest_is_what_the_heads_mine_faster(storage, budget):
    heads = with_rule("hardest", "MODEL.OHEM.BUDGET", budget)
    features, proposals, targets = make_inputs(num_proposals=300)
    candidates = label_candidates(heads, proposals, targets)
    losses = candidate_losses(heads, features, candidates, targets, heads.ohem)
    fast = mine_candidates(candidates, losses, heads._rule, heads._budget(), 3)
    as_rule = heads._rule._replace(select=lambda *args: hardest(*args))
    as_rule.select.func = None  # not known as the rule of the paper
    slow = mine_candidates(candidates, losses, as_rule, heads._budget(), 3)
    assert all(map(torch.equal, fast.rows, slow.rows)) and sum(map(len, fast.rows)) == 16


@pytest.mark.parametrize("rule", NAMES)
def test_only_rules_that_read_losses_cost_a_read_only_pass(storage, monkeypatch, rule):
    calls, run = [], candidate_losses
    monkeypatch.setattr(
        ohem_d2.modeling.mixin, "candidate_losses", lambda *a, **kw: calls.append(kw) or run(*a, **kw)
    )
    with_rule(rule)(None, *make_inputs())
    if rule in ("iou_balanced", "instance_balanced"):
        assert not calls
    else:
        assert calls == [{"with_predictions": rule in ("prime", "trimmed")}]


def test_what_a_rule_gets(storage, register):
    seen = []

    def look(rois: CandidatesWithLosses, budget: Budget, *, share: float = 1.0) -> Tensor:
        seen.append((rois, budget, share))
        return rois.losses >= 0

    register(look)
    opts = ("MODEL.OHEM.RULE", "look", "SOLVER.MAX_ITER", "200", "MODEL.OHEM.NMS_PER_CLASS", "True",
            "MODEL.ROI_HEADS.POSITIVE_FRACTION", "0.5")  # fmt: skip
    heads = build_heads(*opts)
    features, proposals, targets = make_inputs(num_proposals=30)
    storage.iter = 50
    heads(None, features, proposals, targets)
    (empty, _, _), (rois, budget, share) = seen
    assert len(empty.labels) == 0  # on which the parameters are checked
    assert (budget.num_per_image, budget.positive_fraction, budget.progress) == (8, 0.5, 0.25)
    assert (budget.nms_thresh, budget.nms_per_class, budget.is_pooled, share) == (0.7, True, False, 1.0)
    with torch.no_grad():
        proposals = [*proposals]
        candidates = label_candidates(heads, _with_objects(proposals, targets), targets)
        expected = candidate_losses(heads, features, candidates, targets, heads.ohem)
    assert torch.equal(rois.boxes, torch.cat([c.proposal_boxes.tensor for c in candidates]))
    assert torch.equal(rois.labels, torch.cat([c.gt_classes for c in candidates]))
    assert torch.equal(rois.ious, torch.cat([c.gt_ious for c in candidates]))
    assert torch.equal(rois.objects, torch.cat([c.gt_matches for c in candidates]))
    assert torch.equal(rois.object_boxes, torch.cat([c.gt_boxes.tensor for c in candidates]))
    assert rois.num_rois == [len(c) for c in candidates] and rois.num_classes == 3
    assert rois.image_ids.tolist() == [i for i, c in enumerate(candidates) for _ in range(len(c))]
    for name, values in (("losses", "total"), ("cls_losses", "cls"), ("box_losses", "box")):
        torch.testing.assert_close(getattr(rois, name), getattr(expected, values))
    assert (rois.box_losses > 0).any() and (rois.box_losses[~rois.is_foreground] == 0).all()


def _with_objects(proposals, targets):
    return ohem_d2.modeling.mixin.add_ground_truth_to_proposals(targets, proposals)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_scores_and_boxes_are_those_of_the_last_stage(storage, family, chunk):
    heads, (features, proposals, targets) = build_heads(*FAMILIES[family]), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    options = OHEMOptions(readonly_chunk=chunk)
    found = candidate_losses(heads, features, candidates, targets, options, with_predictions=True)
    plain = candidate_losses(heads, features, candidates, targets, options)
    torch.testing.assert_close(found[:3], plain[:3])
    with torch.no_grad():
        *_, stage = box_forward(heads.eval(), features, candidates, targets)
    logits, deltas = stage.predictions
    scores, classes = logits.softmax(dim=1)[:, :-1].max(dim=1)
    labels = torch.cat([p.gt_classes for p in stage.proposals])
    torch.testing.assert_close(found.scores, scores)
    classes = torch.where(labels == 3, classes, labels)
    of_class = deltas if deltas.shape[1] == 4 else deltas.view(-1, 3, 4)[torch.arange(len(labels)), classes]
    boxes = torch.cat([p.proposal_boxes.tensor for p in stage.proposals])
    transform: Box2BoxTransform = stage.predictor.box2box_transform
    torch.testing.assert_close(found.decoded, transform.apply_deltas(of_class, boxes))


def test_draws_follow_the_seed_of_the_batch(storage):
    heads, inputs = with_rule("iou_balanced"), make_inputs(num_proposals=60)
    rows = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        rows.append(torch.cat([p.proposal_boxes.tensor for p in heads(None, *inputs)[0]]))
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_a_schedule_follows_the_iterations(storage):
    """Mixed: drawn at the start, mined at the end."""
    heads, inputs = with_rule("mixed", "SOLVER.MAX_ITER", "10"), make_inputs(num_proposals=60)
    mined = torch.cat([p.proposal_boxes.tensor for p in build_heads()(None, *inputs)[0]])
    for iteration, is_mined in ((0, False), (9, False), (10, True)):  # of the last, 9, nine in ten
        get_event_storage().iter = iteration
        rows = torch.cat([p.proposal_boxes.tensor for p in heads(None, *inputs)[0]])
        assert (rows.shape == mined.shape and torch.equal(rows, mined)) == is_mined


def test_suspected_objects_are_logged(storage):
    heads = with_rule("trimmed", "MODEL.OHEM.RULE_ARGS", {"max_score": 0.0, "max_iou": 1.0})
    heads(None, *make_inputs(num_proposals=60))
    latest = {name: value for name, (value, _) in storage.latest().items()}
    background = latest["ohem/num_candidates"] - 8  # no more than that are foreground
    assert latest["ohem/num_suspected"] > background / 2


def test_a_rule_without_an_annotation_is_refused(register):
    def plain(rois, budget):
        return rois.labels >= 0

    register(plain)
    with pytest.raises(TypeError, match="rule plain: its first argument is annotated with None; valid: Cand"):
        build_rule(OHEMOptions(rule="plain"))


def test_a_rule_that_reads_no_losses_mines_heads_whose_losses_are_not_known(storage):
    """`check_minable` is asked for rules that read losses alone."""
    heads = with_rule("iou_balanced")

    class OwnLosses(type(heads.box_predictor)):
        def losses(self, *args):
            return super().losses(*args)

    heads.box_predictor.__class__ = OwnLosses
    assert sum(map(len, heads(None, *make_inputs(num_proposals=60))[0])) == 16
    with pytest.raises(TypeError, match="it has its own losses"):
        check_minable(heads, "cls+box")


def test_a_rule_can_neither_change_the_log_nor_return_anything_else(storage, register):
    def greedy(rois: CandidatesWithLosses, budget: Budget):
        mask = rois.losses > rois.losses.mean()
        for values in (rois.losses, rois.cls_losses, rois.box_losses):
            values.fill_(-1.0)
        return mask, {"num_selected": 99, "own": 5}

    def listing(rois: CandidatesWithLosses, budget: Budget):
        return [rois.losses > 0]

    register(greedy), register(listing)
    heads = with_rule("greedy")
    selected, _ = heads(None, *make_inputs(num_proposals=60))
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["ohem/own"] == 5 and latest["ohem/num_selected"] == sum(map(len, selected)) / 2
    assert latest["ohem/mean_selected_loss"] > latest["ohem/mean_loss"] > 0
    with pytest.raises(ValueError, match="a rule must return .* got list"):
        with_rule("listing")


def test_the_case_of_a_parameter_does_not_matter_and_none_is_its_default(register):
    def upper(rois: CandidatesWithLosses, budget: Budget, *, T: int = 3) -> Tensor:  # noqa: N803
        return rois.losses > T

    register(upper)
    assert build_rule(OHEMOptions(rule="upper", rule_args={"T": 2})).select.keywords == {"T": 2}
    assert build_rule(OHEMOptions(rule="upper", rule_args={"POOL_SIZE": None})).select.keywords == {}


@pytest.mark.parametrize(
    "opts, message",
    [
        (("RULE", "hard"), "MODEL.OHEM.RULE is 'hard'; valid: hardest, quota, pool, iou_balanced"),
        (("RULE_ARGS.NUM", "1"), "RULE_ARGS has 'NUM', no parameter of hardest; it has none"),
        (("RULE", "pool", "RULE_ARGS.SIZE", "1"), "'SIZE', no parameter of pool; valid: POOL_SIZE"),
        (("RULE", "pool", "RULE_ARGS.POOL_SIZE", "0"), "RULE_ARGS of pool: pool_size is 0; valid: a number"),
        (("RULE", "pool", "RULE_ARGS.POOL_SIZE", "1e999"), "RULE_ARGS of pool: pool_size is inf; valid"),
        (("RULE", "pool", "BUDGET", "batch"), "BUDGET is 'batch'; valid for the rule pool: 'image'"),
        (("RULE", "pool", "NAIVE", "True"), "NAIVE is True; valid for the rule pool: False"),
    ],
)
def test_a_config_is_checked(tmp_path, opts, message):
    opts = [x if i % 2 else f"MODEL.OHEM.{x}" for i, x in enumerate(opts)]
    with pytest.raises((KeyError, ValueError)) as error:
        load_config("", ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", *opts])
    assert message in str(error.value)


def test_parameters_come_from_files_and_the_command_line(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("VERSION: 2\nMODEL: {OHEM: {RULE: trimmed, RULE_ARGS: {NUM_TRIMMED: 3}}}\n")
    more = ["MODEL.OHEM.RULE_ARGS.MAX_IOU", "0.2", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"]
    options = OHEMOptions.from_config(load_config(str(file), more))
    assert (options.rule, options.rule_args) == ("trimmed", {"NUM_TRIMMED": 3, "MAX_IOU": 0.2})
    assert build_rule(options).select.keywords == {"num_trimmed": 3, "max_iou": 0.2}


@pytest.mark.parametrize("rule", NAMES)
def test_inspected_candidates_are_mined_by_the_rule(storage, rule):
    heads = with_rule(rule, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.6)
    features, proposals, targets = make_inputs(num_proposals=60)
    candidates = label_candidates(heads, proposals, targets)
    losses = candidate_losses(heads, features, candidates, targets, heads.ohem, with_predictions=True)
    names = ("losses", "cls_losses", "box_losses", "scores", "decoded")
    for i, c in enumerate(candidates):
        for name, values in zip(names, losses):
            c.set(name, values.split([len(c) for c in candidates])[i])
    torch.manual_seed(0)
    expected = mine_candidates(candidates, losses, heads._rule, heads._budget(), 3).rows
    torch.manual_seed(0)
    found = mine_inspected(candidates, heads.ohem, 8, heads.positive_fraction, 3, progress=0.0).rows
    assert all(map(torch.equal, expected, found)) and isinstance(candidates[0], Instances)
