import math

import pytest
import torch

from ohem_d2.mining import (
    box_iou_losses,
    classification_losses,
    encode_boxes,
    sigmoid_classification_losses,
    smooth_l1_losses,
)


def test_classification_loss_is_minus_the_log_probability():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2
    losses = classification_losses(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(losses, torch.tensor([math.log(4.0), math.log(2.0)]))


def test_sigmoid_loss_counts_the_foreground_classes_alone():
    # sigmoid(log 3) = 3/4, sigmoid(0) = 1/2; the background column, here 50, does not count.
    logits = torch.tensor([[math.log(3), 0.0, 50.0]] * 2)
    labels = torch.tensor([0, 2])
    of_class, of_background = -math.log(3 / 4), -math.log(1 / 4)
    losses = sigmoid_classification_losses(logits, labels)
    torch.testing.assert_close(losses, torch.tensor([of_class, of_background]) + math.log(2))
    losses = sigmoid_classification_losses(logits, labels, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(losses, torch.tensor([of_class, of_background]))


def test_boxes_are_encoded_as_in_r_cnn():
    # Box 10 x 20 around (35, 70); target 20 x 20 around (45, 70): dx = 10/10, dy = 0, dw = log 2, dh = 0.
    boxes, targets = torch.tensor([[30.0, 60, 40, 80]]), torch.tensor([[35.0, 60, 55, 80]])
    expected = torch.tensor([[10.0, 0.0, 5 * math.log(2), 0.0]])
    torch.testing.assert_close(encode_boxes(boxes, targets, (10, 10, 5, 5)), expected)


@pytest.mark.parametrize(
    "beta, expected", [(1.0, 0.125 + 1.5), (0.0, 0.5 + 2.0), (4.0, 0.5 * 0.25 / 4 + 0.5 * 4 / 4)]
)
def test_smooth_l1_is_summed_over_the_coordinates(beta, expected):
    deltas, targets = torch.tensor([[0.5, 0.0, 0.0, -2.0]]), torch.zeros(1, 4)
    torch.testing.assert_close(smooth_l1_losses(deltas, targets, beta), torch.tensor([expected]))


def test_giou_of_disjoint_boxes_counts_the_gap():
    # IoU 0; the enclosing box is 30 x 10 = 300, the union 200: GIoU = 0 - 100/300.
    boxes, targets = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[20.0, 0, 30, 10]])
    torch.testing.assert_close(box_iou_losses("giou", boxes, targets), torch.tensor([1 + 1 / 3]))


def test_an_unknown_box_loss_names_the_valid_ones():
    with pytest.raises(ValueError, match="unknown box loss 'l3'; valid: giou, diou, ciou"):
        box_iou_losses("l3", torch.zeros(1, 4), torch.zeros(1, 4))


def test_losses_are_in_float32_whatever_autocast_says():
    logits, labels, boxes = (
        torch.randn(8, 5),
        torch.randint(0, 5, (8,)),
        torch.rand(8, 2).repeat(1, 2) + torch.tensor([0, 0, 1, 1]),
    )
    losses = {
        "softmax": lambda: classification_losses(logits, labels),
        "sigmoid": lambda: sigmoid_classification_losses(logits, labels),
        "federated": lambda: sigmoid_classification_losses(
            logits, labels, torch.tensor([1.0, 0.0, 1.0, 1.0])
        ),
        "box": lambda: smooth_l1_losses(encode_boxes(boxes, boxes + 0.1, (10, 10, 5, 5)), logits[:, :4], 1.0),
    }
    outside = {name: loss() for name, loss in losses.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, loss in losses.items():
            assert torch.equal(loss(), outside[name]), name
