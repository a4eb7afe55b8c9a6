"""Online hard example mining for any RoI heads of Detectron2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config import OHEMOptions
from ..mining import RankedRoIs, check_finite, rank_hard_rois
from .candidates import candidate_losses, check_minable, label_candidates
from .roi_losses import ranking_losses
from .statistics import read_mining_statistics, write_mining_statistics

# RoIs of an image that NMS looks at first, those of highest loss. Its time and memory grow with their square; what it
# keeps of them it keeps of all, since a RoI is dropped by harder ones alone.
_NMS_TOPK = 4096


class OHEMMixin:
    """Trains RoI heads on their hard examples alone: ``class Mine(OHEMMixin, TheirROIHeads)``.

    Mining is a filter in front of the parent's own sampler. Every proposal gets the loss that the current
    weights give it, in a read-only pass; the hard ones go to the parent, which is told to take them all. State
    dict and inference are the parent's.

    The parent must derive from `StandardROIHeads`, `Res5ROIHeads` or `CascadeROIHeads`. Mask and keypoint
    heads train on the foreground among the selected RoIs.

    Source: Shrivastava, Gupta and Girshick, CVPR 2016.
    """

    @configurable
    def __init__(self, *, ohem: OHEMOptions | None = None, **kwargs):
        """Args:
            ohem: how to mine; None: the defaults.
            kwargs: the parent's.

        Raises:
            TypeError: a parent or a box predictor whose RoIs cannot be ranked.
            ValueError: `OHEMOptions.naive` for a cascade.
        """
        super().__init__(**kwargs)
        self.ohem = ohem if ohem is not None else OHEMOptions()
        self._features: dict[str, Tensor] | None = None
        if self.is_mining:
            check_minable(self)
            if self.ohem.naive and isinstance(self.box_predictor, nn.ModuleList):
                raise ValueError("MODEL.OHEM.NAIVE is True; valid for a cascade: False")

    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        return {**super().from_config(cfg, *args, **kwargs), "ohem": OHEMOptions.from_config(cfg)}

    @property
    def is_mining(self) -> bool:
        return self.ohem.enabled is not False

    def forward(self, images, features, proposals, targets=None):
        if not (self.training and self.is_mining):
            return super().forward(images, features, proposals, targets)
        self._features = features
        try:
            with self._zeroed_easy_losses() if self.ohem.naive else nullcontext():
                return super().forward(images, features, proposals, targets)
        finally:
            self._features = None

    def __prepare_scriptable__(self) -> nn.Module:
        """For `torch.jit.script`, which cannot compile ``super()``: these weights in heads of the parent's class."""
        mro = type(self).__mro__
        parent = mro[mro.index(OHEMMixin) + 1]
        # The class has annotations of its own, since a constant `training` is what lets training code be left out.
        constants = {**getattr(parent, "__annotations__", {}), "training": torch.jit.Final[bool]}
        namespace = {"__annotations__": constants, "__module__": parent.__module__}
        plain = copy(self)
        plain.__class__ = type(parent.__name__, (parent,), namespace)
        plain._modules = dict(self._modules)
        return plain

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Replace the proposals of each image by its hard ones, labelled as the parent labels them."""
        if not self.is_mining:
            return super().label_and_sample_proposals(proposals, targets)
        if not proposals:
            return proposals
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        if not self.ohem.naive:
            proposals = self._hard_proposals(proposals, targets)
        with self._sampling_all(max(map(len, proposals))):
            return super().label_and_sample_proposals(proposals, targets)

    def _hard_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        candidates = label_candidates(self, proposals, targets)
        try:
            hard = self._mine(self._candidate_losses(candidates, targets, self.ohem), candidates)
        except FloatingPointError:
            # Half precision may have overflowed; float32 decides whether the loss is finite.
            in_float32 = replace(self.ohem, readonly_dtype="float32")
            hard = self._mine(self._candidate_losses(candidates, targets, in_float32), candidates)
        names = proposals[0].get_fields()
        return [_with_fields(c[rows], names) for c, rows in zip(candidates, hard)]

    def _candidate_losses(self, candidates, targets, options: OHEMOptions) -> Tensor:
        return candidate_losses(self, self._features, candidates, targets, options)

    def _mine(self, losses: Tensor, candidates: list[Instances]) -> list[Tensor]:
        """Select by `losses` (R,), which are in the order of the concatenated candidates.

        Returns:
            per image the (H_i,) int64 rows of its hard candidates, by loss descending.
        """
        sizes = [len(c) for c in candidates]
        image_ids = torch.cat([torch.full((n,), i, device=losses.device) for i, n in enumerate(sizes)])
        all_rows = torch.arange(len(losses), device=losses.device)
        # A pooled budget can take any number of an image's RoIs.
        is_cut = max(sizes) > _NMS_TOPK and self.ohem.budget == "image"
        ranked = self._rank(
            losses, candidates, image_ids, _hardest_of_each_image(losses, sizes) if is_cut else all_rows
        )
        statistics = read_mining_statistics(losses, candidates, ranked, self.num_classes)
        check_finite(statistics.num_not_finite, losses, image_ids)
        if is_cut and sum(statistics.num_selected) < self.batch_size_per_image * len(candidates):
            # Among the hardest too many are duplicates of each other.
            ranked = self._rank(losses, candidates, image_ids, all_rows)
            statistics = read_mining_statistics(losses, candidates, ranked, self.num_classes)
        write_mining_statistics(statistics, candidates, len(ranked.survivors))
        selected = ranked.order[: sum(statistics.num_selected)].split(statistics.num_selected)
        return [rows - first for rows, first in zip(selected, accumulate(sizes, initial=0))]

    def _rank(
        self, losses: Tensor, candidates: list[Instances], image_ids: Tensor, rows: Tensor
    ) -> RankedRoIs:
        """`rank_hard_rois` among `rows` of the concatenated candidates."""
        options = self.ohem
        ranked = rank_hard_rois(
            losses[rows],
            torch.cat([c.proposal_boxes.tensor for c in candidates])[rows],
            image_ids[rows],
            self.batch_size_per_image,
            options.nms_thresh if options.nms_thresh < 1 else None,
            torch.cat([c.gt_classes for c in candidates])[rows] if options.nms_per_class else None,
            num_images=len(candidates) if options.budget == "batch" else None,
        )
        return ranked._replace(order=rows[ranked.order], survivors=rows[ranked.survivors])

    @contextmanager
    def _sampling_all(self, num_proposals: int) -> Iterator[None]:
        """Inside, the parent's sampler takes all of up to `num_proposals` proposals per image, and adds none."""
        saved = self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt
        self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = num_proposals, 1.0, False
        try:
            yield
        finally:
            self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = saved

    @contextmanager
    def _zeroed_easy_losses(self) -> Iterator[None]:
        """Inside, the predictor's loss counts the hard RoIs alone (`OHEMOptions.naive`)."""
        self.box_predictor.losses = partial(self._losses_of_hard_rois, self.box_predictor.losses)
        try:
            yield
        finally:
            del self.box_predictor.losses

    def _losses_of_hard_rois(self, losses_of, predictions: tuple[Tensor, ...], proposals: list[Instances]):
        ranking = ranking_losses(self.box_predictor, predictions, proposals, self.ohem.rank_by)
        rows = self._mine(ranking, proposals)
        firsts = accumulate(map(len, proposals), initial=0)
        selected = torch.cat([first + r for first, r in zip(firsts, rows)])
        losses = losses_of(tuple(p[selected] for p in predictions), [p[r] for p, r in zip(proposals, rows)])
        for p, r in zip(
            proposals, rows
        ):  # easy RoIs are no foreground for the mask and keypoint heads either
            easy = torch.ones_like(p.gt_classes, dtype=torch.bool).index_fill_(0, r, False)
            p.gt_classes = torch.where(easy, -1, p.gt_classes)
        return losses


def _hardest_of_each_image(losses: Tensor, sizes: list[int]) -> Tensor:
    """Rows of the `_NMS_TOPK` highest losses of each image, of equal ones the lower row first."""
    firsts = accumulate(sizes, initial=0)
    ranked = [torch.sort(of_image, descending=True, stable=True).indices for of_image in losses.split(sizes)]
    return torch.cat([first + rows[:_NMS_TOPK] for first, rows in zip(firsts, ranked)])


def _with_fields(instances: Instances, names: Iterable[str]) -> Instances:
    return Instances(instances.image_size, **{name: instances.get(name) for name in names})
