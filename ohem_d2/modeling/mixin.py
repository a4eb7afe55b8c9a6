"""Online hard example mining as a mixin for the RoI heads of Detectron2."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ..config import IgnoreRegionsOptions, OHEMOptions
from ..mining.rules import Budget
from .box_forward import StageFilter, is_detectron2s_sampler
from .candidates import as_sampled, label_candidates
from .cls_losses import with_cls_loss
from .ignoring import drop_ignored
from .naive import ZeroedEasyLosses
from .readonly_pass import CandidateLosses, candidate_losses, check_minable, name_not_finite
from .rules import build_rule, mine_candidates
from .statistics import LastMined, describe_mined, roi_sums, write_mining, write_samples


class OHEMMixin(StageFilter):
    """Trains RoI heads on their hard examples only: ``class Mine(OHEMMixin, TheirROIHeads)``.

    Mining is a filter in front of the parent's sampler. A read-only pass computes the loss of every proposal
    under the current weights; only those that the rule selects go to the parent, with a budget for all of
    them. State dict and inference are the parent's.

    The parent must derive from `StandardROIHeads`, `Res5ROIHeads` or `CascadeROIHeads`. Mask and keypoint
    heads train on the foreground among the selected RoIs.

    RoIs in ignore regions are no candidates (`ohem_d2.modeling.ignoring`), whether or not the heads mine.

    Source: Shrivastava, Gupta and Girshick, CVPR 2016.
    """

    @configurable
    def __init__(
        self,
        *,
        ohem: OHEMOptions | None = None,
        ignore_regions: IgnoreRegionsOptions | None = None,
        max_iter: int | None = None,
        **kwargs,
    ):
        """Build the parent.

        Args:
            ohem: how to mine; None: the defaults.
            ignore_regions: whether RoIs are ignored; None: the defaults.
            max_iter: iterations of the training, for rules that go with it; None: not known.
            kwargs: arguments of the parent.

        Raises:
            TypeError: the RoIs of the parent or of its box predictor cannot be ranked.
            KeyError: no such rule.
            ValueError: options that do not fit the rule or the parent.
        """
        super().__init__(**kwargs)
        self.ohem = ohem if ohem is not None else OHEMOptions()
        self.ignoring = ignore_regions if ignore_regions is not None else IgnoreRegionsOptions()
        self.max_iter = max_iter
        # Whether `last_mined` is kept, for the log.
        self.keeps_mined = False
        self.last_mined: LastMined | None = None
        # Set during `forward` only: the feature maps, which `label_and_sample_proposals` does not get.
        self._features: dict[str, Tensor] | None = None
        if self.is_mining:
            self._rule = build_rule(self.ohem)
            if self._rule.reads_losses:
                check_minable(self, self.ohem.rank_by, self._rule.reads_predictions)
            if self.ohem.naive and isinstance(self.box_predictor, nn.ModuleList):
                raise ValueError("MODEL.OHEM.NAIVE is True; valid for a cascade: False")

    @classmethod
    def from_config(cls, cfg, *args, **kwargs):
        parent = super().from_config(cfg, *args, **kwargs)
        if "box_predictor" in parent:
            parent["box_predictor"] = with_cls_loss(parent["box_predictor"], cfg)
        if "box_predictors" in parent:  # of a cascade
            parent["box_predictors"] = [with_cls_loss(x, cfg) for x in parent["box_predictors"]]
        return {
            **parent,
            "ohem": OHEMOptions.from_config(cfg),
            "ignore_regions": IgnoreRegionsOptions.from_config(cfg),
            "max_iter": cfg.SOLVER.MAX_ITER,
        }

    @property
    def is_mining(self) -> bool:
        return self.ohem.enabled is not False

    def forward(self, images, features, proposals, targets=None, *args, **kwargs):
        if not (self.training and self.is_mining):
            return super().forward(images, features, proposals, targets, *args, **kwargs)
        self._features = features
        try:
            with self._easy_losses():
                return super().forward(images, features, proposals, targets, *args, **kwargs)
        finally:
            self._features = None

    def filter_stage(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """Of a later stage of a cascade: the RoIs that are not ignored, by the matcher of the stage."""
        return drop_ignored(proposals, targets, self.proposal_matchers[stage], self.ignoring)

    def _easy_losses(self) -> AbstractContextManager:
        """A block that zeroes the losses of easy RoIs if naive; else there are none, and it does nothing."""
        if not self.ohem.naive:
            return nullcontext()
        return ZeroedEasyLosses(self.box_predictor, self._mine, self.ohem.rank_by)

    def __prepare_scriptable__(self) -> nn.Module:
        """Heads of the parent's class with these weights; ``torch.jit.script`` cannot compile ``super()``."""
        mro = type(self).__mro__
        parent = mro[mro.index(StageFilter) + 1]
        # With ``training`` annotated as a constant the compiler leaves out the code of training.
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
        """The hard proposals of each image, labelled as by the parent."""
        proposals = drop_ignored(proposals, targets, self.proposal_matcher, self.ignoring)
        if not self.is_mining:
            return super().label_and_sample_proposals(proposals, targets)
        if not proposals:
            return proposals
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        if not self.ohem.naive:
            names, hard = proposals[0].get_fields(), self._hard_candidates(proposals, targets)
            if self._replaces_sampler:
                return [as_sampled(*pair, names) for pair in zip(hard, targets)]
            proposals = [_with_fields(candidates, names) for candidates in hard]
        with self._sampling_all(max(map(len, proposals))):
            return super().label_and_sample_proposals(proposals, targets)

    @property
    def _replaces_sampler(self) -> bool:
        """Whether the parent's sampler is left out: Detectron2's would only match the hard RoIs again."""
        return not self.ohem.naive and is_detectron2s_sampler(super().label_and_sample_proposals)

    def _hard_candidates(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        candidates = label_candidates(self, proposals, targets)
        try:
            hard = self._mine(candidates, self._candidate_losses(candidates, targets, self.ohem))
        except FloatingPointError:
            # Half precision may have overflowed: compute again in float32.
            in_float32 = replace(self.ohem, readonly_dtype="float32")
            losses = self._candidate_losses(candidates, targets, in_float32)
            try:
                hard = self._mine(candidates, losses)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}: {name_not_finite(self._features, losses)}") from None
        return [c[rows] for c, rows in zip(candidates, hard)]

    def _candidate_losses(self, candidates, targets, options: OHEMOptions) -> CandidateLosses | None:
        """What the rule reads of them; None if it reads nothing."""
        if not self._rule.reads_losses:
            return None
        inputs = self, self._features, candidates, targets, options
        return candidate_losses(*inputs, with_predictions=self._rule.reads_predictions)

    def _mine(self, candidates: list[Instances], losses: CandidateLosses | None) -> list[Tensor]:
        """Select hard candidates; log figures.

        Returns:
            per image (H_i,) int64 rows of its hard candidates, by loss descending.
        """
        total = None if losses is None else losses.total
        measure = partial(roi_sums, total, candidates, self.num_classes)
        hard = mine_candidates(candidates, losses, self._rule, self._budget(), self.num_classes, measure)
        numbers = {"num_candidates": sum(map(len, candidates)), "num_survivors": hard.num_survivors}
        write_mining("ohem", {**hard.measured, **numbers}, len(candidates), hard.logged)
        if self._replaces_sampler:
            write_samples(hard.measured, len(candidates))
        if self.keeps_mined:
            self.last_mined = describe_mined(candidates, losses, hard.rows, self.num_classes)
        return hard.rows

    def _budget(self) -> Budget:
        """The budget of an image in this iteration."""
        return Budget(
            self.batch_size_per_image,
            self.positive_fraction,
            self.ohem.nms_thresh,
            self.ohem.nms_per_class,
            is_pooled=self.ohem.budget == "batch",
            progress=min(get_event_storage().iter / self.max_iter, 1.0) if self.max_iter else None,
        )

    @contextmanager
    def _sampling_all(self, num_proposals: int) -> Iterator[None]:
        """A block in which the parent's sampler takes all of `num_proposals` RoIs an image, and adds none."""
        saved = self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt
        self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = num_proposals, 1.0, False
        try:
            yield
        finally:
            self.batch_size_per_image, self.positive_fraction, self.proposal_append_gt = saved


def _with_fields(instances: Instances, names: Iterable[str]) -> Instances:
    return Instances(instances.image_size, **{name: instances.get(name) for name in names})
