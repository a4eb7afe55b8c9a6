import itertools

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformRotated
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances

from ohem_d2 import roi_losses
from ohem_d2.modeling.roi_losses import check_rankable, rank_terms, roi_terms

CLASSES = 3


def make_predictor(**kwargs):
    torch.manual_seed(0)
    transform = kwargs.pop("transform", Box2BoxTransform((10.0, 10.0, 5.0, 5.0)))
    return FastRCNNOutputLayers(
        ShapeSpec(channels=6), box2box_transform=transform, num_classes=CLASSES, **kwargs
    )


def make_proposals(labels=((0, 3, 1, 3, 2), (2, 2, 3, 3))):
    g = torch.Generator().manual_seed(1)
    proposals = []
    for classes in labels:
        num = len(classes)
        corners, sizes = torch.rand(num, 2, generator=g) * 50, 10 + torch.rand(num, 2, generator=g) * 30
        boxes = torch.cat([corners, corners + sizes], dim=1)
        p = Instances(
            (100, 100), proposal_boxes=Boxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.long)
        )
        if any(c != CLASSES for c in classes):
            p.gt_boxes = Boxes(boxes + torch.rand(num, 4, generator=g) * 6 - 3)
        proposals.append(p)
    return proposals


def make_predictions(predictor, proposals):
    torch.manual_seed(2)
    num = sum(map(len, proposals))
    return torch.randn(num, CLASSES + 1), torch.randn(num, predictor.bbox_pred.out_features)


def assert_mean_is_what_the_predictor_trains(predictor, proposals, storage):
    predictions = make_predictions(predictor, proposals)
    losses = roi_losses(predictor, predictions, proposals)
    assert losses.shape == (sum(map(len, proposals)),) and losses.dtype == torch.float32
    expected = sum(predictor.losses(predictions, proposals).values())
    torch.testing.assert_close(losses.mean(), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        ("smooth_l1", 0.0),
        ("smooth_l1", 1e-6),
        ("smooth_l1", 0.5),
        ("smooth_l1", 1.0),
        ("giou",),
        ("diou",),
        ("ciou",),
    ],
)
@pytest.mark.parametrize(
    "agnostic, weight", list(itertools.product([False, True], [1.0, {"loss_box_reg": 2.5, "loss_cls": 0.5}]))
)
def test_mean_is_the_training_loss(storage, loss, agnostic, weight):
    kwargs = {"box_reg_loss_type": loss[0], "smooth_l1_beta": loss[1] if len(loss) > 1 else 0.0}
    predictor = make_predictor(cls_agnostic_bbox_reg=agnostic, loss_weight=weight, **kwargs)
    assert_mean_is_what_the_predictor_trains(predictor, make_proposals(), storage)


@pytest.mark.parametrize("labels", [((3, 3), (3,)), ((0, 1), ()), ((2,),)])
def test_mean_is_the_training_loss_of_backgrounds_and_empty_images(storage, labels):
    assert_mean_is_what_the_predictor_trains(
        make_predictor(smooth_l1_beta=1.0), make_proposals(labels), storage
    )


def test_the_loss_of_a_roi_is_that_of_a_batch_of_one(storage):
    predictor, proposals = make_predictor(smooth_l1_beta=1.0), make_proposals()
    logits, deltas = make_predictions(predictor, proposals)
    losses = roi_losses(predictor, (logits, deltas), proposals)
    rois = [p[i : i + 1] for p in proposals for i in range(len(p))]
    for row, roi in enumerate(rois):
        one = sum(predictor.losses((logits[row : row + 1], deltas[row : row + 1]), [roi]).values())
        torch.testing.assert_close(losses[row], one)


def test_the_terms_add_up(storage):
    predictor, proposals = make_predictor(), make_proposals()
    predictions = make_predictions(predictor, proposals)
    terms = roi_terms(predictor, predictions, proposals)
    cls, box, both = (rank_terms(*terms, by) for by in ("cls", "box", "cls+box"))
    torch.testing.assert_close(cls + box, both)
    assert torch.equal(both, roi_losses(predictor, predictions, proposals))
    background = torch.cat([p.gt_classes for p in proposals]) == CLASSES
    assert (box[background] == 0).all() and (box[~background] > 0).all()


def test_a_degenerate_background_box_has_a_finite_loss():
    predictor, proposals = make_predictor(), make_proposals(((3, 3),))
    proposals[0].proposal_boxes.tensor[0] = torch.tensor([5.0, 5, 5, 5])
    assert roi_losses(predictor, make_predictions(predictor, proposals), proposals).isfinite().all()


def test_no_rois_have_no_losses():
    predictor = make_predictor()
    proposals = make_proposals(((),))
    assert roi_losses(predictor, make_predictions(predictor, proposals), proposals).shape == (0,)


@pytest.mark.skipif(
    not hasattr(FastRCNNOutputLayers, "sigmoid_cross_entropy_loss"), reason="not in this Detectron2"
)
@pytest.mark.parametrize("federated", [False, True])
def test_mean_is_the_training_loss_with_sigmoid_and_federated_loss(storage, federated):
    kwargs = {"use_sigmoid_ce": True}
    if federated:
        frequency = torch.tensor([0.2, 0.3, 0.5])
        kwargs.update(use_fed_loss=True, get_fed_loss_cls_weights=lambda: frequency, fed_loss_num_classes=2)
    predictor, proposals = make_predictor(**kwargs), make_proposals(((0, 3, 3), (3, 3)))
    predictions = make_predictions(predictor, proposals)
    torch.manual_seed(5)
    losses = roi_losses(predictor, predictions, proposals)
    torch.manual_seed(5)  # the classes of a federated loss are drawn
    torch.testing.assert_close(losses.mean(), sum(predictor.losses(predictions, proposals).values()))


class OwnLoss(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        return {"loss_own": predictions[0].sum()}


class OwnRoILosses(OwnLoss):
    def roi_losses(self, predictions, proposals):
        return predictions[0].sum(dim=1)


def make_own(cls):
    return cls(
        ShapeSpec(channels=6), box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)), num_classes=CLASSES
    )


def test_a_predictor_with_another_loss_is_named_with_the_method_to_write():
    predictor, proposals = make_own(OwnLoss), make_proposals()
    with pytest.raises(TypeError, match=r"OwnLoss: it has its own losses; give it a method `roi_losses\("):
        roi_losses(predictor, make_predictions(predictor, proposals), proposals)


def test_a_predictor_with_another_box_transform_is_named():
    predictor = make_predictor(transform=Box2BoxTransformRotated((1.0, 1.0, 1.0, 1.0, 1.0)))
    with pytest.raises(TypeError, match="Box2BoxTransformRotated: only Box2BoxTransform is known"):
        roi_losses(predictor, make_predictions(predictor, []), [])


def test_a_predictor_that_ranks_itself_is_asked():
    predictor, proposals = make_own(OwnRoILosses), make_proposals()
    predictions = make_predictions(predictor, proposals)
    assert torch.equal(roi_losses(predictor, predictions, proposals), predictions[0].sum(dim=1))
    with pytest.raises(ValueError, match="RANK_BY is 'cls'; valid for OwnRoILosses"):
        check_rankable(predictor, "cls")


def test_losses_of_its_own_are_one_for_each_roi():
    class Column(OwnRoILosses):
        def roi_losses(self, predictions, proposals):
            return super().roi_losses(predictions, proposals)[:, None]

    predictor, proposals = make_own(Column), make_proposals()
    num_rois = sum(map(len, proposals))
    message = rf"roi_losses of Column must return \({num_rois},\), got \({num_rois}, 1\)"
    with pytest.raises(ValueError, match=message):
        roi_losses(predictor, make_predictions(predictor, proposals), proposals)
