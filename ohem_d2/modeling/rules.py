"""Mining rules by name, and the selection of hard candidates by one of them.

Shape letters: R = candidate RoIs of all images.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import NamedTuple, get_type_hints

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.registry import Registry
from torch import Tensor

from ..config import OHEMOptions
from ..mining import HardRoIs, RankedRoIs, check_selection, mine_by_rule, mine_hard_rois
from ..mining.rules import (
    RULES,
    Budget,
    Candidates,
    CandidatesWithLosses,
    CandidatesWithPredictions,
    hardest,
)
from .readonly_pass import CandidateLosses

MINING_RULES = Registry("MINING_RULES")
MINING_RULES.__doc__ = """Mining rules that ``MODEL.OHEM.RULE`` names, see `ohem_d2.mining.rules`.

    @MINING_RULES.register()
    def mine(rois: CandidatesWithLosses, budget: Budget, *, parameter: float = 0.5) -> Tensor:
        "The mask (R,) bool of the RoIs to train on."
"""
for _rule in RULES:
    MINING_RULES.register(_rule)


class MiningRule(NamedTuple):
    """A rule with its parameters."""

    select: Callable[..., Tensor | tuple[Tensor, Mapping[str, Tensor]]]
    reads: type[Candidates]  # the class of candidates that it takes

    @property
    def reads_losses(self) -> bool:
        return issubclass(self.reads, CandidatesWithLosses)

    @property
    def reads_predictions(self) -> bool:
        return issubclass(self.reads, CandidatesWithPredictions)


def build_rule(options: OHEMOptions) -> MiningRule:
    """The rule of ``MODEL.OHEM.RULE`` with the parameters of ``MODEL.OHEM.RULE_ARGS``, checked.

    Raises:
        KeyError: no rule of that name.
        ValueError: an unknown parameter, a value that the rule refuses, or a setting that it does not have.
        TypeError: what is registered is no rule.
    """
    names = [name for name, _ in MINING_RULES]
    if options.rule not in names:
        raise KeyError(f"MODEL.OHEM.RULE is {options.rule!r}; valid: {', '.join(names)}")
    function = MINING_RULES.get(options.rule)
    reads = next(iter(get_type_hints(function).values()), None)
    if not (isinstance(reads, type) and issubclass(reads, Candidates)):
        valid = "Candidates, CandidatesWithLosses or CandidatesWithPredictions of ohem_d2.mining.rules"
        raise TypeError(f"rule {options.rule}: its first argument is annotated with {reads}; valid: {valid}")
    if function is not hardest:
        for key, value, valid in (("BUDGET", options.budget, "image"), ("NAIVE", options.naive, False)):
            if value != valid:
                raise ValueError(
                    f"MODEL.OHEM.{key} is {value!r}; valid for the rule {options.rule}: {valid!r}"
                )
    rule = MiningRule(_with_parameters(function, options), reads)
    none = _no_candidates(rule)
    try:
        selection = rule.select(none, Budget(1, progress=0.0))
    except (ValueError, TypeError) as error:
        raise ValueError(f"MODEL.OHEM.RULE_ARGS of {options.rule}: {error}") from None
    check_selection(selection, none)
    return rule


def _with_parameters(function: Callable, options: OHEMOptions) -> Callable:
    parameters, values = {name.upper(): name for name in list(signature(function).parameters)[2:]}, {}
    for name, value in options.rule_args.items():
        if value is None:
            continue
        if name.upper() not in parameters:
            valid = f"valid: {', '.join(parameters)}" if parameters else "it has none"
            raise ValueError(
                f"MODEL.OHEM.RULE_ARGS has {name!r}, no parameter of {options.rule}; {valid}. The value None "
                "takes back what another config sets"
            )
        values[parameters[name.upper()]] = value
    return partial(function, **values)


def mine_candidates(
    candidates: list[Instances],
    losses: CandidateLosses | None,
    rule: MiningRule,
    budget: Budget,
    num_classes: int,
    measure: Callable[[RankedRoIs], Mapping[str, Tensor]] = lambda ranked: {},
) -> HardRoIs:
    """Select the hard candidates.

    Args:
        candidates: from `label_candidates`.
        losses: from `candidate_losses`; None for a rule that reads none.
        rule: from `build_rule`.
        budget: of an image, with the settings of NMS.
        num_classes: the background label.
        measure: see `ohem_d2.mining.mine_hard_rois`.

    Raises:
        FloatingPointError: a non-finite loss; names the images by their index.
    """
    if rule.select.func is not hardest:
        rois = _join(candidates, losses, rule, num_classes)
        return mine_by_rule(rois, budget, rule.select, measure)
    return mine_hard_rois(
        losses.total,
        torch.cat([c.proposal_boxes.tensor for c in candidates]),
        [len(c) for c in candidates],
        budget.num_per_image,
        budget.nms_thresh,
        torch.cat([c.gt_classes for c in candidates]) if budget.nms_per_class else None,
        pool_budget=budget.is_pooled,
        measure=measure,
    )


def _join(
    candidates: list[Instances], losses: CandidateLosses | None, rule: MiningRule, num_classes: int
) -> Candidates:
    """The candidates of all images as what `rule` reads."""
    labels = [c.gt_classes for c in candidates]
    of_rule = {
        "boxes": torch.cat([c.proposal_boxes.tensor for c in candidates]),
        "labels": torch.cat(labels),
        "ious": torch.cat([c.gt_ious for c in candidates]),
        "objects": torch.cat([c.gt_matches if c.has("gt_matches") else 0 * c.gt_classes for c in candidates]),
        "object_boxes": torch.cat([c.gt_boxes.tensor for c in candidates]),
        "image_ids": torch.cat([torch.full_like(of_image, i) for i, of_image in enumerate(labels)]),
        "num_rois": [len(c) for c in candidates],
        "num_classes": num_classes,
    }
    if rule.reads_losses:  # copies: what a rule writes into them is not in the log
        terms = torch.stack([losses.total, losses.cls, losses.box]).unbind()
        of_rule.update(zip(("losses", "cls_losses", "box_losses"), terms))
    if rule.reads_predictions:
        of_rule.update(scores=losses.scores, decoded=losses.decoded)
    return rule.reads(**of_rule)


def _no_candidates(rule: MiningRule) -> Candidates:
    """Of one image without proposals, on which a rule checks its parameters."""
    none, boxes = torch.zeros(0), Boxes(torch.zeros(0, 4))
    image = Instances((1, 1), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=none.long(), gt_ious=none)
    return _join([image], CandidateLosses(none, none, none, none, boxes.tensor), rule, 1)
