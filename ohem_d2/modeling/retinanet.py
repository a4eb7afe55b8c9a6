"""One-stage detectors that train on hard anchors."""

import torch
from detectron2.modeling import META_ARCH_REGISTRY, RetinaNet
from detectron2.structures import Boxes
from fvcore.nn import sigmoid_focal_loss_jit
from torch import Tensor

from ..config import OHEMRetinaNetOptions
from .anchors import AnchorOHEMMixin, anchor_box_losses
from .ignoring import ignore_anchors


class OHEMRetinaNetMixin(AnchorOHEMMixin):
    """Trains a RetinaNet on its hard anchors: ``class Mine(OHEMRetinaNetMixin, TheirRetinaNet)``.

    The loss of an anchor is the focal loss over the classes and, for an object, the box loss. With
    ``MODEL.RETINANET.FOCAL_LOSS_GAMMA: 0.0`` and ``FOCAL_LOSS_ALPHA: -1.0`` it is the plain cross-entropy,
    and mining replaces the focal weights.

    As in the parent, the losses are divided by the running mean of the number of all foreground anchors, not
    of the selected ones, whose number may fall to zero during training. So the gradient is that of the parent
    with the losses of the easy anchors set to zero.
    """

    family = RetinaNet
    options_class = OHEMRetinaNetOptions
    _num_foreground = 0  # of all anchors of the batch

    @torch.no_grad()
    def label_anchors(self, anchors, gt_instances):
        """As the parent, but anchors in ignore regions get label -1."""
        labels, gt_boxes = super().label_anchors(anchors, gt_instances)
        return ignore_anchors(labels, anchors, gt_instances, self.num_classes, self.ignoring), gt_boxes

    @torch.jit.unused
    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        self._num_foreground = int(self.is_foreground(torch.stack(gt_labels)).sum())
        return super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9):
        if name == "loss_normalizer":
            value = max(self._num_foreground, 1)
        return super()._ema_update(name, value, initial_value, momentum)

    def anchor_losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: Tensor,
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> Tensor:
        labels_of_levels = gt_labels.split([logits.shape[1] for logits in pred_logits], dim=1)
        cls_losses = torch.cat(list(map(self._focal_losses, pred_logits, labels_of_levels)), dim=1)
        foreground = self.is_foreground(gt_labels)
        return cls_losses + anchor_box_losses(self, anchors, foreground, pred_anchor_deltas, gt_boxes)

    def _focal_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, R_l) from logits (N, R_l, K) and labels (N, R_l), of which K and -1 are not classes."""
        targets = labels.unsqueeze(2) == torch.arange(self.num_classes, device=labels.device)
        logits = logits.float()
        return sigmoid_focal_loss_jit(
            logits, targets.to(logits.dtype), alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        ).sum(dim=2)

    def is_foreground(self, gt_labels: Tensor) -> Tensor:
        return (gt_labels >= 0) & (gt_labels != self.num_classes)


@META_ARCH_REGISTRY.register()
class OHEMRetinaNet(OHEMRetinaNetMixin, RetinaNet):
    """Detectron2's RetinaNet, mined."""
