"""Online hard example mining for any RoI heads of Detectron2."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config import OHEMOptions
from .candidates import candidate_losses, check_minable, label_candidates, mine_candidates
from .naive import ZeroedEasyLosses
from .statistics import roi_scalars, write_scalars


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
        # The feature maps, for the length of `forward`: `label_and_sample_proposals`, which that calls, gets none.
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
            with self._easy_losses():
                return super().forward(images, features, proposals, targets)
        finally:
            self._features = None

    def _easy_losses(self) -> AbstractContextManager:
        """What happens to easy RoIs in the parent's forward: nothing, since it gets hard ones alone, unless naive."""
        if not self.ohem.naive:
            return nullcontext()
        return ZeroedEasyLosses(self.box_predictor, self._mine, self.ohem.rank_by)

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
        """Select by `losses` (R,), which are in the order of the concatenated candidates, and log what was selected.

        Returns:
            per image the (H_i,) int64 rows of its hard candidates, by loss descending.
        """
        measure = partial(roi_scalars, losses, candidates, self.num_classes)
        hard = mine_candidates(candidates, losses, self.batch_size_per_image, self.ohem, measure)
        numbers = {"num_candidates": len(losses), "num_survivors": hard.num_survivors}
        write_scalars("ohem", {**hard.measured, **numbers}, len(candidates))
        return hard.rows

    @contextmanager
    def _sampling_all(self, num_proposals: int) -> Iterator[None]:
        """Inside, the parent's sampler takes all of up to `num_proposals` proposals per image, and adds none."""
        saved = self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt
        self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = num_proposals, 1.0, False
        try:
            yield
        finally:
            self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = saved


def _with_fields(instances: Instances, names: Iterable[str]) -> Instances:
    return Instances(instances.image_size, **{name: instances.get(name) for name in names})
