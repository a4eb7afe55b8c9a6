"""Region proposal networks that train on hard anchors."""

import torch
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

from ..config import OHEMRPNOptions
from .anchors import AnchorOHEMMixin, anchor_box_losses
from .ignoring import ignore_anchors


class OHEMRPNMixin(AnchorOHEMMixin):
    """Trains an RPN on its hard anchors instead of a random sample: ``class Mine(OHEMRPNMixin, TheirRPN)``.

    The loss of an anchor is the cross-entropy of its objectness and, for a positive one, its box loss, with
    the weights of the RPN. There is no fraction of positives. Anchors that the matcher ignores, or that the
    RPN excludes because they cross the border of the image, are not candidates.

    As in the parent, the sum of the losses is divided by the budget, whose key replaces
    ``MODEL.RPN.BATCH_SIZE_PER_IMAGE``, so the weight of an anchor does not depend on how many are selected.
    """

    family = RPN
    options_class = OHEMRPNOptions

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.is_mining:
            self.batch_size_per_image = self.ohem.batch_size_per_image

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As the parent, but anchors in ignore regions get label -1 before a sample is drawn."""
        labels, gt_boxes = super().label_and_sample_anchors(anchors, gt_instances)
        if self.ignoring.enabled:
            labels = ignore_anchors(labels, anchors, gt_instances, 0, self.ignoring)
            if not self.is_mining:
                labels = list(map(super()._subsample_labels, labels))
        return labels, gt_boxes

    def _subsample_labels(self, label: Tensor) -> Tensor:
        samples_later = self.is_mining or self.ignoring.enabled
        return label if samples_later else super()._subsample_labels(label)

    def anchor_losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: Tensor,
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> Tensor:
        foreground = self.is_foreground(gt_labels)
        logits = torch.cat(pred_logits, dim=1).float()  # (N, R)
        cls_losses = F.binary_cross_entropy_with_logits(logits, foreground.float(), reduction="none")
        box_losses = anchor_box_losses(self, anchors, foreground, pred_anchor_deltas, gt_boxes)
        weight = self.loss_weight
        return cls_losses * weight.get("loss_rpn_cls", 1.0) + box_losses * weight.get("loss_rpn_loc", 1.0)

    def is_foreground(self, gt_labels: Tensor) -> Tensor:
        return gt_labels == 1


@PROPOSAL_GENERATOR_REGISTRY.register()
class OHEMRPN(OHEMRPNMixin, RPN):
    """Detectron2's RPN, mined."""
