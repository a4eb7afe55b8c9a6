"""Predictors with another classification loss, for training on all RoIs (``MODEL.CLS_LOSS``).

Shape letters: R = RoIs of all images, K = foreground classes. Label K is the background.
"""

import math

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config import ClsLossOptions
from ..mining import classification_losses
from .roi_losses import reduce_predictions, reduced_terms

__all__ = ["FocalOutputLayers", "GuidedOutputLayers", "bias_to_background", "with_cls_loss"]


class FocalOutputLayers(FastRCNNOutputLayers):
    """Focal loss: ``-a (1 - p)^gamma log(p)`` for a RoI whose label has the probability p.

    a is `alpha` for foreground and 1 - `alpha` for background. Both losses are summed over the RoIs and
    divided by four times the number of those that are foreground (at least 1): the number of RoIs, were one
    in four foreground as in a sample. The probability is that of the softmax, so that inference is the
    parent's.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017; there of a sigmoid per class, and
    without the factor four.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, gamma: float = 2.0, alpha: float = 0.25, **kwargs):
        """Build the parent from `input_shape` and `kwargs`."""
        super().__init__(input_shape, **kwargs)
        self.gamma, self.alpha = gamma, alpha

    @classmethod
    def from_config(cls, cfg, input_shape):
        options = ClsLossOptions.from_config(cfg)
        parent = super().from_config(cfg, input_shape)
        return {**parent, "gamma": options.focal_gamma, "alpha": options.focal_alpha}

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        losses = super().losses(predictions, proposals)
        labels = cat([p.gt_classes for p in proposals])
        divisor = _divisor(labels, self.num_classes)
        cls_losses = nn.functional.cross_entropy(predictions[0], labels, reduction="none")
        focal = self._focal(cls_losses, labels).sum() / divisor
        return {
            "loss_cls": focal * self.loss_weight.get("loss_cls", 1.0),
            "loss_box_reg": losses["loss_box_reg"] * (len(labels) / divisor),
        }

    def roi_losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> Tensor:
        """(R,) loss of each RoI, not divided."""
        labels = cat([p.gt_classes for p in proposals])
        _, box_losses = _terms(self, predictions, proposals, labels)
        focal = self._focal(classification_losses(predictions[0], labels), labels)
        return focal * self.loss_weight.get("loss_cls", 1.0) + box_losses

    def _focal(self, cls_losses: Tensor, labels: Tensor) -> Tensor:
        """(R,) the focal loss of RoIs with this cross-entropy."""
        weights = torch.where(labels < self.num_classes, self.alpha, 1 - self.alpha)
        doubt = (1 - torch.exp(-cls_losses)).clamp(min=1e-6)  # at 0 the power has no gradient for gamma < 1
        return weights * doubt**self.gamma * cls_losses


class GuidedOutputLayers(FastRCNNOutputLayers):
    """Sampling-free: the classification loss is scaled to twice the box loss, whatever the imbalance.

    The box loss is the mean over the four targets of each foreground RoI; the mean cross-entropy of all RoIs
    is multiplied by ``2 * box loss / cross-entropy``, a constant for the gradient. Without foreground both
    are zero.

    Source: Chen et al., Is Sampling Heuristics Necessary in Training Deep Object Detectors?, arXiv
    1909.04868: guided loss scaling, with the factor of the authors' code.
    """

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        losses = super().losses(predictions, proposals)
        labels = cat([p.gt_classes for p in proposals])
        box_loss = losses["loss_box_reg"] * (len(labels) / _divisor(labels, self.num_classes))
        scale = 2 * box_loss.detach() / losses["loss_cls"].detach().clamp(min=1e-12)
        return {"loss_cls": losses["loss_cls"] * scale, "loss_box_reg": box_loss}

    def roi_losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> Tensor:
        """(R,) loss of each RoI, not scaled: cross-entropy and box loss."""
        labels = cat([p.gt_classes for p in proposals])
        return sum(_terms(self, predictions, proposals, labels))


def _divisor(labels: Tensor, num_classes: int) -> Tensor:
    """Four times the number of foreground RoIs, at least 4."""
    return 4 * (labels < num_classes).sum().clamp(min=1)


def _terms(predictor: FastRCNNOutputLayers, predictions, proposals: list[Instances], labels: Tensor):
    return reduced_terms(predictor, reduce_predictions(predictor, predictions, labels), proposals)


_PREDICTORS = {"focal": FocalOutputLayers, "guided": GuidedOutputLayers}


def with_cls_loss(predictor: nn.Module, cfg: CfgNode) -> nn.Module:
    """`predictor` with the classification loss and the prior of ``MODEL.CLS_LOSS``, and the same weights.

    Raises:
        ValueError: a loss or prior other than the default for a predictor that is none of Detectron2's, or
            that has a sigmoid and not a softmax.
    """
    options = ClsLossOptions.from_config(cfg)
    if options.is_plain:
        return predictor
    if type(predictor) is not FastRCNNOutputLayers:
        raise ValueError(
            f"MODEL.CLS_LOSS.NAME is {options.name!r} and PRIOR {options.prior}; valid for the predictor "
            f"{type(predictor).__name__}: 'cross_entropy' and 0"
        )
    if getattr(predictor, "use_sigmoid_ce", False) and (options.name == "focal" or options.prior):
        raise ValueError(
            f"MODEL.CLS_LOSS.NAME is {options.name!r} and PRIOR {options.prior}, which are of a softmax; "
            "valid with MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE: 'cross_entropy' or 'guided', and 0"
        )
    if options.name in _PREDICTORS:
        shape = ShapeSpec(channels=predictor.cls_score.in_features)
        transform = predictor.box2box_transform
        replacement = _PREDICTORS[options.name](cfg, shape, box2box_transform=transform)
        replacement.load_state_dict(predictor.state_dict())
        predictor = replacement
    if options.prior:
        bias_to_background(predictor.cls_score.bias, options.prior)
    return predictor


@torch.no_grad()
def bias_to_background(bias: Tensor, prior: float) -> None:
    """Set `bias` (K + 1,) so that equal logits give all foreground classes together the probability `prior`.

    Of background it becomes ``log(K (1 - prior) / prior)``, of the others 0.
    """
    bias.zero_()
    bias[-1] = math.log((len(bias) - 1) * (1 - prior) / prior)
