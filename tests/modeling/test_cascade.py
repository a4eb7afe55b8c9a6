import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils.events import get_event_storage

from ohem_d2 import OHEMCascadeROIHeads, OHEMOptions
from ohem_d2.modeling.box_forward import box_forward
from ohem_d2.modeling.candidates import label_candidates
from ohem_d2.modeling.readonly_pass import candidate_losses

from ..builders import build_heads, make_inputs

CASCADE = ("MODEL.ROI_HEADS.NAME", "OHEMCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")


def cascade(*opts):
    return build_heads(*CASCADE, *opts)


def ranked_losses(heads, features, proposals, targets):
    candidates = label_candidates(heads, proposals, targets)
    return candidate_losses(heads, features, candidates, targets, OHEMOptions()).total


def test_the_loss_of_a_roi_is_the_sum_over_the_stages(storage):
    """A RoI is ranked by its losses when it goes alone through the parent cascade, summed over the stages."""
    heads, plain = cascade(), build_heads("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *CASCADE[2:])
    plain.load_state_dict(heads.state_dict())
    plain.batch_size_per_image, plain.positive_fraction, plain.proposal_append_gt = 10, 1.0, False
    features, proposals, targets = make_inputs(num_images=1, num_proposals=12)
    ranked = ranked_losses(heads, features, proposals, targets)
    for row in range(12):
        _, losses = plain(None, features, [proposals[0][row : row + 1]], targets)
        assert len(losses) == 6
        torch.testing.assert_close(ranked[row], sum(losses.values()).detach())
    assert ranked.std() > 0.1


def test_a_roi_that_becomes_empty_has_no_loss_in_later_stages(storage):
    heads, (features, proposals, targets) = cascade(), make_inputs(num_images=1, num_proposals=4)
    with torch.no_grad():  # the first stage moves every box far to the left, out of the image
        heads.box_predictor[0].bbox_pred.weight.zero_()
        heads.box_predictor[0].bbox_pred.bias.copy_(torch.tensor([-100.0, 0.0, 0.0, 0.0]))
    ranked = ranked_losses(heads, features, proposals, targets)
    with torch.no_grad():
        for stage in (1, 2):
            heads.box_predictor[stage].cls_score.bias.add_(torch.tensor([5.0, 0.0, 0.0, 0.0]))
    assert torch.equal(ranked_losses(heads, features, proposals, targets), ranked)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_do_not_change_the_losses_of_a_cascade(storage, chunk):
    heads, (features, proposals, targets) = cascade(), make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    whole = candidate_losses(heads, features, candidates, targets, OHEMOptions()).total
    parts = candidate_losses(heads, features, candidates, targets, OHEMOptions(readonly_chunk=chunk)).total
    torch.testing.assert_close(parts, whole)


def test_the_mining_pass_of_a_cascade_writes_no_events(storage):
    heads, (features, proposals, targets) = cascade(), make_inputs()
    ranked_losses(heads, features, proposals, targets)
    assert not get_event_storage().latest()
    assert heads.training


@pytest.mark.parametrize("num_proposals, num_objects", [(0, 0), (0, 2), (5, 0), (40, 2)])
def test_a_cascade_trains_what_it_selected_once(storage, num_proposals, num_objects):
    heads = cascade()
    trained, losses = heads(None, *make_inputs(num_proposals=num_proposals, num_objects=num_objects))
    sum(losses.values()).backward()
    assert all(len(p) <= 8 for p in trained) and all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is not None for p in heads.parameters())


class OwnStages(OHEMCascadeROIHeads):
    """As the parent, by a method of its own."""

    def _run_stage(self, features, proposals, stage):
        return super()._run_stage(features, proposals, stage)


class NamedPredictions(FastRCNNOutputLayers):
    """A predictor whose predictions are no pair, and whose losses are its own."""

    def forward(self, x):
        scores, deltas = super().forward(x)
        return {"scores": scores, "deltas": deltas}

    def predict_boxes(self, predictions, proposals):
        return super().predict_boxes((predictions["scores"], predictions["deltas"]), proposals)

    def roi_losses(self, predictions, proposals):
        return predictions["scores"].softmax(dim=1)[:, 0]


@pytest.mark.parametrize("heads", [OHEMCascadeROIHeads, OwnStages])
def test_predictions_of_any_kind_are_handed_to_the_predictor_they_are_of(storage, heads):
    """The loss of a RoI is the probability of the first class, summed over the stages."""
    features, proposals, targets = make_inputs()
    expected, found = cascade(), cascade()
    candidates = label_candidates(expected, proposals, targets)
    stages = box_forward(expected, features, candidates, targets)
    total = sum(stage.predictions[0].softmax(dim=1)[:, 0] for stage in stages)
    found.__class__ = heads
    for predictor in found.box_predictor:
        predictor.__class__ = NamedPredictions
    losses = candidate_losses(found, features, candidates, targets, OHEMOptions())
    torch.testing.assert_close(losses.total, total)


def test_naive_is_refused_for_a_cascade():
    with pytest.raises(ValueError, match="MODEL.OHEM.NAIVE is True; valid for a cascade: False"):
        cascade("MODEL.OHEM.NAIVE", "True")


def test_a_box_that_overflows_in_half_precision_is_recomputed_in_float32(storage):
    heads = cascade("MODEL.OHEM.READONLY_DTYPE", "float16")
    torch.nn.init.constant_(heads.box_predictor[0].bbox_pred.bias, 1e5)  # beyond float16's 65504
    features, proposals, targets = make_inputs()
    candidates = label_candidates(heads, proposals, targets)
    assert not candidate_losses(heads, features, candidates, targets, heads.ohem).total.isfinite().any()
    heads._features = features
    assert all(len(p) == 8 for p in heads._hard_candidates(proposals, targets))
