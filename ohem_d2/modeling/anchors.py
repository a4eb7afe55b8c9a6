"""Online hard example mining of anchors, for region proposal networks and one-stage detectors.

Shape letters: N = images, R = anchors of one image (of all levels), T = those of them that go into NMS.
"""

from typing import NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..config import AnchorOHEMOptions, IgnoreRegionsOptions
from ..mining import (
    RankedRoIs,
    box_iou_losses,
    encode_boxes,
    mine_hard_rois,
    smooth_l1_losses,
)
from .statistics import selection_sums, write_mining


class HardAnchors(NamedTuple):
    """Result of `mine_anchors`."""

    selected: Tensor  # (N, R) bool
    # Of `selection_sums`, and the number of survivors of NMS; all images together.
    sums: dict[str, float]


class AnchorOHEMMixin:
    """Trains a dense detector of Detectron2 on its hard anchors only.

    Mining is a filter in front of the parent's ``losses``: that method gets the predictions of all anchors,
    so the loss of each is known without a second forward pass. Hard anchors keep their labels, the others are
    labelled -1 (ignore), and the parent computes its losses. State dict and inference are the parent's.

    A subclass defines `anchor_losses`, `is_foreground`, `family` and `options_class`.
    """

    # The class of Detectron2 that the parent is or derives from.
    family: type[nn.Module]
    options_class: type[AnchorOHEMOptions]

    @configurable
    def __init__(
        self,
        *,
        ohem: AnchorOHEMOptions | None = None,
        ignore_regions: IgnoreRegionsOptions | None = None,
        **kwargs,
    ):
        """Build the parent.

        Args:
            ohem: how to mine; None: the defaults.
            ignore_regions: whether anchors are ignored, mined or not; None: the defaults.
            kwargs: arguments of the parent.

        Raises:
            TypeError: the anchors of the parent cannot be ranked.
        """
        super().__init__(**kwargs)
        self.ohem = ohem if ohem is not None else self.options_class()
        self.ignoring = ignore_regions if ignore_regions is not None else IgnoreRegionsOptions()
        self.is_mining = self.ohem.enabled is not False
        if self.is_mining:
            self._check_minable()

    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        return {
            **super().from_config(cfg, *args, **kwargs),
            "ohem": cls.options_class.from_config(cfg),
            "ignore_regions": IgnoreRegionsOptions.from_config(cfg),
        }

    def anchor_losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: Tensor,
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
    ) -> Tensor:
        """Loss of each anchor: the terms that the parent's ``losses`` sums before it normalises the sum.

        The arguments are those of ``losses``.

        Args:
            anchors: per level R_l boxes, XYXY_ABS.
            pred_logits: per level (N, R_l) or (N, R_l, K).
            gt_labels: (N, R).
            pred_anchor_deltas: per level (N, R_l, 4).
            gt_boxes: per image (R, 4) XYXY_ABS.

        Returns:
            (N, R) float32, >= 0; arbitrary where an anchor is labelled -1.
        """
        raise NotImplementedError

    def is_foreground(self, gt_labels: Tensor) -> Tensor:
        """Which labels are those of objects: bool, of the shape of `gt_labels`."""
        raise NotImplementedError

    @torch.jit.unused
    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes) -> dict[str, Tensor]:
        """The parent's losses, of the hard anchors only."""
        if self.is_mining:
            gt_labels = torch.stack(gt_labels)
            gt_labels = self._hard_labels(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        return super().losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)

    @torch.no_grad()
    def _hard_labels(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes) -> list[Tensor]:
        losses = self.anchor_losses(anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        foreground = self.is_foreground(gt_labels)
        hard = mine_anchors(losses, Boxes.cat(anchors).tensor, gt_labels >= 0, foreground, self.ohem)
        family = self.ohem.section.rpartition(".")[2].lower()
        write_mining(f"ohem/{family}", hard.sums, len(losses))
        return list(gt_labels.masked_fill(~hard.selected, -1))

    def _check_minable(self) -> None:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        if not isinstance(self, self.family):
            raise TypeError(f"{name} cannot be mined: it does not derive from {self.family.__name__}")
        if not isinstance(self.box2box_transform, Box2BoxTransform):
            raise TypeError(
                f"cannot rank the anchors of {name}, which has {type(self.box2box_transform).__name__}: "
                "only Box2BoxTransform is known"
            )
        mixin = next(cls for cls in type(self).__mro__ if "family" in vars(cls))
        known_losses = super().losses.__func__ is self.family.losses
        if not known_losses and type(self).anchor_losses is mixin.anchor_losses:
            raise TypeError(
                f"cannot rank the anchors of {name}, whose parent has its own losses: give it a method "
                "`anchor_losses` that returns the loss of each anchor"
            )


@torch.no_grad()
def mine_anchors(
    losses: Tensor, anchors: Tensor, candidates: Tensor, foreground: Tensor, options: AnchorOHEMOptions
) -> HardAnchors:
    """Select the anchors of each image to train on, as `ohem_d2.mining.select_hard_rois` selects RoIs.

    Only the ``options.pre_nms_topk`` candidates of highest loss go into NMS. Since a box is suppressed only
    by boxes of higher loss, this does not change the selection, unless fewer than the budget survive.

    Args:
        losses: (N, R) floating point, >= 0.
        anchors: (R, 4) XYXY_ABS, the same for all images. NMS is on them, not on predicted boxes.
        candidates: (N, R) bool; other anchors are not selected and suppress nothing.
        foreground: (N, R) bool, for the log.
        options: budget of one image, limit and threshold of NMS.

    Returns:
        at most ``options.batch_size_per_image`` anchors per image; of equal losses the lower index comes
            first.

    Raises:
        FloatingPointError: a candidate has a non-finite loss; names the images by their index.
    """
    losses = losses.masked_fill(~candidates, -1.0)  # lower than any loss of a candidate
    ranked = losses.sort(dim=1, descending=True, stable=True).indices[:, : options.pre_nms_topk]  # (N, T)
    images = torch.arange(len(losses), device=losses.device).unsqueeze(1).expand_as(ranked).flatten()
    rows = ranked.flatten()

    def measure(ranking: RankedRoIs) -> dict[str, Tensor]:
        selected = torch.zeros_like(candidates)
        selected[images[ranking.order], rows[ranking.order]] = ranking.is_selected
        survivors = candidates[images[ranking.survivors], rows[ranking.survivors]]
        sums = selection_sums(losses, selected & candidates, foreground, candidates)
        return {**sums, "num_survivors": survivors.sum()}

    hard = mine_hard_rois(
        losses[images, rows],
        anchors[rows],
        [ranked.shape[1]] * len(losses),
        options.batch_size_per_image,
        options.nms_thresh,
        measure=measure,
    )
    selected = torch.zeros_like(candidates)
    for of_image, chosen, places in zip(selected, ranked, hard.rows):
        of_image[chosen[places]] = True
    return HardAnchors(selected & candidates, hard.measured)


def anchor_box_losses(
    model: nn.Module,
    anchors: list[Boxes],
    foreground: Tensor,
    pred_anchor_deltas: list[Tensor],
    gt_boxes: list[Tensor],
) -> Tensor:
    """Box loss of each anchor, of the type and with the beta and the transform of `model`.

    Args:
        model: an RPN or a RetinaNet.
        anchors: per level R_l boxes, XYXY_ABS.
        foreground: (N, R) bool.
        pred_anchor_deltas: per level (N, R_l, 4).
        gt_boxes: per image (R, 4) XYXY_ABS.

    Returns:
        (N, R) float32; 0 where an anchor is not foreground.
    """
    deltas = torch.cat(pred_anchor_deltas, dim=1).flatten(0, 1).float()
    boxes = Boxes.cat(anchors).tensor.repeat(len(gt_boxes), 1)
    targets = torch.cat(gt_boxes)
    transform = model.box2box_transform
    if model.box_reg_loss_type == "smooth_l1":
        target_deltas = encode_boxes(boxes, targets, transform.weights)
        losses = smooth_l1_losses(deltas, target_deltas, model.smooth_l1_beta)
    else:
        losses = box_iou_losses(model.box_reg_loss_type, transform.apply_deltas(deltas, boxes), targets)
    return torch.where(foreground, losses.view(foreground.shape), 0.0)
