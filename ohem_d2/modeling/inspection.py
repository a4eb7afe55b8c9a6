"""Candidate RoIs and their losses outside training."""

from dataclasses import replace

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import box_iou

from ..config import OHEMOptions
from ..mining import HardRoIs
from ..mining.rules import Budget
from .box_forward import box_predictors
from .candidates import label_candidates
from .ignoring import drop_ignored, ignoring_of
from .readonly_pass import CandidateLosses, candidate_losses
from .rules import build_rule, mine_candidates

# Of the candidates, for those of `CandidateLosses`.
_FIELDS = ("losses", "cls_losses", "box_losses", "scores", "decoded", "classes")


@torch.no_grad()
def inspect_candidates(
    model: GeneralizedRCNN, batched_inputs: list[dict], options: OHEMOptions | None = None
) -> list[Instances]:
    """The candidate RoIs of training images and their losses, outside training.

    Args:
        model: in eval mode; its heads are of one of Detectron2's families, mined or not. What they ignore is
            no candidate.
        batched_inputs: as for training: with ``instances`` and, without a proposal generator, ``proposals``.
        options: how to rank the candidates, but always in float32; None: the defaults.

    Returns:
        one `Instances` per image, as from `label_candidates`, in pixels of the network's input, with those
        of `CandidateLosses` as ``losses`` (what is ranked by), ``cls_losses``, ``box_losses``, ``scores``,
        ``decoded`` and ``classes``; the last three are missing where a predictor has its own ``roi_losses``.
    """
    images = model.preprocess_image(batched_inputs)
    features = model.backbone(images.tensor)
    targets = [x["instances"].to(model.device) for x in batched_inputs]
    if model.proposal_generator is not None:
        proposals, _ = model.proposal_generator(images, features, None)
    else:
        proposals = [x["proposals"].to(model.device) for x in batched_inputs]
    heads = model.roi_heads
    proposals = drop_ignored(proposals, targets, heads.proposal_matcher, ignoring_of(heads))
    if heads.proposal_append_gt:
        proposals = add_ground_truth_to_proposals(targets, proposals)
    candidates = label_candidates(heads, proposals, targets)
    options = replace(options or OHEMOptions(), readonly_dtype="float32")
    known = not any(hasattr(predictor, "roi_losses") for predictor in box_predictors(heads))
    losses = candidate_losses(heads, features, candidates, targets, options, with_predictions=known)
    sizes = [len(c) for c in candidates]
    for name, values in zip(_FIELDS, losses):
        if values is not None:
            for of_image, values_of_image in zip(candidates, values.split(sizes)):
                of_image.set(name, values_of_image)
    return candidates


def mine_inspected(
    candidates: list[Instances],
    options: OHEMOptions,
    num_per_image: int,
    positive_fraction: float,
    num_classes: int,
    **settings,
) -> HardRoIs:
    """Which candidates would be mined.

    Args:
        candidates: from `inspect_candidates` with the same `options`.
        options: the rule, NMS and the scope of the budget.
        num_per_image: budget of an image.
        positive_fraction: share of foreground, for rules that have one.
        num_classes: the background label.
        settings: of `Budget`, such as ``progress``.
    """
    fields = [torch.cat([c.get(n) for c in candidates]) for n in _FIELDS if candidates[0].has(n)]
    pooled = options.budget == "batch"
    settings = {"nms_thresh": options.nms_thresh, "nms_per_class": options.nms_per_class, **settings}
    budget = Budget(num_per_image, positive_fraction, is_pooled=pooled, **settings)
    return mine_candidates(candidates, CandidateLosses(*fields), build_rule(options), budget, num_classes)


def dropped_duplicates(
    candidates: Instances, hard: Tensor, options: OHEMOptions, num_per_image: int
) -> tuple[Tensor, Tensor]:
    """The duplicates that would be mined without NMS.

    Args:
        candidates: (R,) of one image, from `inspect_candidates`.
        hard: (H,) int64, the mined rows, from `mine_inspected` for this image.
        options: NMS.
        num_per_image: budget of an image.

    Returns:
        (D,) int64 rows among the `num_per_image` of highest loss, by loss descending, and (D,) int64 for each
        the mined row of highest IoU whose loss is as high or higher, and whose IoU is above the threshold.
    """
    hardest = torch.sort(candidates.losses, descending=True, stable=True).indices[:num_per_image]
    left = hardest[~torch.isin(hardest, hard)]
    if not len(hard):
        return left[:0], left[:0]
    boxes, losses, labels = candidates.proposal_boxes.tensor, candidates.losses, candidates.gt_classes
    ious = box_iou(boxes[left], boxes[hard]) * (losses[left][:, None] <= losses[hard])
    if options.nms_per_class:
        ious = ious * (labels[left][:, None] == labels[hard])
    highest, of = ious.max(dim=1)
    is_duplicate = highest > options.nms_thresh
    return left[is_duplicate], hard[of[is_duplicate]]


def sample_at_random(candidates: Instances, num: int, positive_fraction: float, num_classes: int) -> Tensor:
    """(S,) int64 rows that Detectron2's sampler draws of candidates of one image; the same on each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = candidates.gt_classes.cpu()
        return torch.cat(subsample_labels(labels, num, positive_fraction, num_classes))
