"""Candidate RoIs: their labels, the read-only pass that computes their losses, and their selection.

Shape letters: R = candidate RoIs of all images, K = foreground classes. Label K is the background.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor

from ..config import OHEMOptions
from ..mining import HardRoIs, RankedRoIs, mine_hard_rois, read_only
from .box_forward import BoxStage, box_forward, box_predictors, find_box_forward
from .ignoring import drop_ignored, ignoring_of
from .matching import match_labels
from .pooling import split_boxes
from .roi_losses import (
    check_rankable,
    federated_class_weights,
    ranking_losses,
    reduce_predictions,
    reduced_losses,
)

# If MODEL.OHEM.READONLY_CHUNK is 0, the read-only pass takes as many RoIs at a time as the training pass,
# which needs more memory for each; but at least this many, to keep a GPU busy.
_LEAST_CHUNK = 256


def label_candidates(
    heads: ROIHeads, proposals: list[Instances], targets: list[Instances]
) -> list[Instances]:
    """Match proposals with objects by the matcher of `heads`; drop those labelled -1 (ignore).

    Args:
        heads: any RoI heads.
        proposals: one `Instances` per image with ``proposal_boxes``.
        targets: one `Instances` per image with ``gt_boxes`` and ``gt_classes``.

    Returns:
        one `Instances` per image: the candidates, with all fields of the proposals, ``gt_classes`` in [0, K],
        ``gt_boxes`` (the object of highest IoU; arbitrary for background), ``gt_ious`` with it and, if there
        are objects, ``gt_matches``, its index.
    """
    matcher = heads.proposal_matcher
    labelled = [_match(matcher, heads.num_classes, *pair) for pair in zip(proposals, targets)]
    if -1 in matcher.labels:
        labelled = [candidates[candidates.gt_classes != -1] for candidates in labelled]
    return labelled


def _match(matcher: Matcher, num_classes: int, proposals: Instances, targets: Instances) -> Instances:
    labelled = Instances(proposals.image_size, **proposals.get_fields())
    device = proposals.proposal_boxes.device
    if len(targets) > 0:
        ious = pairwise_iou(targets.gt_boxes, proposals.proposal_boxes)  # (objects, R)
        labelled.gt_ious, labelled.gt_matches = ious.max(dim=0)
        labels = match_labels(matcher, ious, labelled.gt_ious)
        classes = torch.where(labels == 0, num_classes, targets.gt_classes[labelled.gt_matches])
        labelled.gt_classes = torch.where(labels == -1, -1, classes)
        labelled.gt_boxes = targets.gt_boxes[labelled.gt_matches]
    else:
        labelled.gt_ious = torch.zeros(len(proposals), device=device)
        labelled.gt_classes = torch.full((len(proposals),), num_classes, device=device)
        labelled.gt_boxes = proposals.proposal_boxes
    return labelled


def as_sampled(candidates: Instances, targets: Instances, names: Iterable[str]) -> Instances:
    """Candidates as Detectron2's sampler returns proposals: labelled, with the fields of the matched objects.

    Args:
        candidates: of `label_candidates`.
        targets: the objects of the image, with any ``gt_*`` fields.
        names: the fields of the proposals.
    """
    sampled = Instances(candidates.image_size, **{name: candidates.get(name) for name in names})
    sampled.gt_classes = candidates.gt_classes
    if len(targets) > 0:
        for name, value in targets.get_fields().items():
            if name.startswith("gt_") and not sampled.has(name):
                sampled.set(name, value[candidates.gt_matches])
    return sampled


def candidate_losses(
    heads: ROIHeads,
    features: dict[str, Tensor],
    candidates: list[Instances],
    targets: list[Instances],
    options: OHEMOptions,
) -> Tensor:
    """Loss of every candidate under the current weights, in a read-only pass.

    Args:
        heads: of one of Detectron2's families, mined or not; their state does not change.
        features: the feature maps, as for ``heads.forward``.
        candidates: from `label_candidates`.
        targets: the objects of each image; a cascade matches them again at each stage.
        options: ranking, precision, chunk and dropout of the pass.

    Returns:
        (R,) float32, in the order of the concatenated `candidates`.

    Raises:
        TypeError: heads of no known family, or a predictor with a loss that is not known.
    """
    device = next(iter(features.values())).device
    num_rois = sum(map(len, candidates))
    if num_rois == 0:
        return torch.zeros(0, device=device)
    size = options.readonly_chunk or max(_LEAST_CHUNK, heads.batch_size_per_image * len(candidates))
    features = {name: features[name].detach() for name in heads.in_features}
    with EventStorage(), read_only(heads, options.readonly_dropout, device):
        with _precision(options.readonly_dtype, device):
            if any(hasattr(predictor, "roi_losses") for predictor in box_predictors(heads)):
                chunks = split_boxes(candidates, size)
                losses = [_own_losses(box_forward(heads, features, x, targets), options) for x in chunks]
                return torch.cat(losses)
            weights = _drawn_class_weights(heads, candidates, targets)
            reduce = partial(reduce_predictions, class_weights=weights)
            stages = box_forward(heads, features, candidates, targets, size, reduce)
            return _sum_stages(stages, partial(reduced_losses, rank_by=options.rank_by))


def _own_losses(stages: Iterable[BoxStage], options: OHEMOptions) -> Tensor:
    """(R,) losses by predictors with a method ``roi_losses``, whose predictions can be anything."""
    return _sum_stages(stages, partial(ranking_losses, rank_by=options.rank_by))


def _sum_stages(stages: Iterable[BoxStage], rank: Callable[..., Tensor]) -> Tensor:
    """(R,) loss of each RoI, summed over the stages."""
    total: Tensor | float = 0.0
    for stage in stages:
        losses = rank(stage.predictor, stage.predictions, stage.proposals)
        if stage.weights is not None:
            losses = torch.where(stage.weights == 0, 0.0, losses * stage.weights)
        total = total + losses
    return total


def check_minable(heads: ROIHeads) -> None:
    """Raise TypeError, with what to do, unless `candidate_losses` can rank the RoIs of `heads`."""
    try:
        find_box_forward(type(heads))
    except TypeError as error:
        raise TypeError(f"these RoI heads cannot be mined: {error}") from None
    for predictor in box_predictors(heads):
        check_rankable(predictor)


def mine_candidates(
    candidates: list[Instances],
    losses: Tensor,
    num_per_image: int,
    options: OHEMOptions,
    measure: Callable[[RankedRoIs], Mapping[str, Tensor]] = lambda ranked: {},
) -> HardRoIs:
    """Select the hard candidates.

    Args:
        candidates: from `label_candidates`.
        losses: (R,) from `candidate_losses`.
        num_per_image: budget of one image.
        options: threshold and scope of NMS; whether the budget is pooled.
        measure: see `ohem_d2.mining.mine_hard_rois`.

    Raises:
        FloatingPointError: a non-finite loss; names the images by their index.
    """
    return mine_hard_rois(
        losses,
        torch.cat([c.proposal_boxes.tensor for c in candidates]),
        [len(c) for c in candidates],
        num_per_image,
        options.nms_thresh,
        torch.cat([c.gt_classes for c in candidates]) if options.nms_per_class else None,
        pool_budget=options.budget == "batch",
        measure=measure,
    )


def _drawn_class_weights(heads: ROIHeads, candidates, targets) -> Tensor | None:
    labels = torch.cat([x.gt_classes for x in [*candidates, *targets]])
    return federated_class_weights(box_predictors(heads)[0], labels)


@contextmanager
def _precision(name: str, device: torch.device) -> Iterator[None]:
    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, name)
    # Autocast caches weights that it has cast. One cast inside this pass has no gradient, one cast outside
    # can have another type: neither may be used on the other side.
    torch.clear_autocast_cache()
    try:
        if dtype is torch.float32:
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            with torch.autocast(device.type, dtype=dtype):
                yield
    finally:
        torch.clear_autocast_cache()


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
        one `Instances` per image, as from `label_candidates`, in pixels of the network's input; ``losses``
        (R_i,) are added.
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
    losses = candidate_losses(heads, features, candidates, targets, options)
    for of_image, losses_of_image in zip(candidates, losses.split([len(c) for c in candidates])):
        of_image.losses = losses_of_image
    return candidates
