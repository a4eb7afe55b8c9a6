"""The read-only pass: what the current weights make of the candidate RoIs.

Shape letters: R = candidate RoIs of all images, K = foreground classes. Label K is the background.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from ..config import OHEMOptions
from ..mining import read_only
from .box_forward import BoxStage, box_forward, box_predictors, find_box_forward, has_own_forward
from .pooling import split_boxes
from .roi_losses import (
    check_rankable,
    decode_boxes,
    federated_class_weights,
    rank_terms,
    reduce_predictions,
    reduced_terms,
    roi_terms,
)

logger = logging.getLogger(__name__)

# If MODEL.OHEM.READONLY_CHUNK is 0, the read-only pass takes as many RoIs at a time as the training pass,
# which needs more memory for each; but at least this many, to keep a GPU busy.
_LEAST_CHUNK = 256

# A chunk of no more RoIs is not halved where CUDA runs out of memory: it is not what takes the memory.
_SMALLEST_CHUNK = 16

# Heads whose chunk was halved, and the RoIs at a time that their memory has been enough for.
_fitting_chunks: "WeakKeyDictionary[ROIHeads, int]" = WeakKeyDictionary()


class CandidateLosses(NamedTuple):
    """Of every candidate, in the order of the concatenated candidates; float32."""

    total: Tensor  # (R,) what is ranked by (``MODEL.OHEM.RANK_BY``)
    cls: Tensor  # (R,) >= 0, summed over the stages of a cascade, like `box`
    box: Tensor  # (R,) >= 0; 0 for background, and where the predictor has its own ``roi_losses``
    # Of the last stage, if they were asked for: (R,) highest probability of a foreground class, and (R, 4)
    # XYXY_ABS the box of the label's class, of a background RoI that of the highest probability.
    scores: Tensor | None = None
    decoded: Tensor | None = None
    classes: Tensor | None = None  # (R,) int64 in [0, K), that of `scores`


def candidate_losses(
    heads: ROIHeads,
    features: dict[str, Tensor],
    candidates: list[Instances],
    targets: list[Instances],
    options: OHEMOptions,
    with_predictions: bool = False,
) -> CandidateLosses:
    """Losses of every candidate under the current weights, in a read-only pass.

    Args:
        heads: of one of Detectron2's families, mined or not; their state does not change.
        features: the feature maps, as for ``heads.forward``.
        candidates: from `label_candidates`.
        targets: the objects of each image; a cascade matches them again at each stage.
        options: ranking, precision, chunk and dropout of the pass.
        with_predictions: whether scores and boxes are returned too; not of predictors with their own
            ``roi_losses``, whose predictions can be anything.

    Where CUDA runs out of memory, the pass begins again with chunks of half the size, with the same random
    numbers. Later passes of these heads keep the size that was small enough.

    Raises:
        TypeError: heads of no known family, or a predictor with a loss that is not known.
        torch.cuda.OutOfMemoryError: the memory is too small for a few RoIs.
    """
    device = next(iter(features.values())).device
    num_rois = sum(map(len, candidates))
    if num_rois == 0:
        none = torch.zeros(0, device=device)
        return CandidateLosses(none, none, none, none, none.view(0, 4), none.long())
    wanted = options.readonly_chunk or max(_LEAST_CHUNK, heads.batch_size_per_image * len(candidates))
    size = min(wanted, num_rois, _fitting_chunks.get(heads, wanted))
    run = partial(_losses_in_chunks, heads, features, candidates, targets, options, with_predictions)
    losses, fitting = _run_in_fitting_chunks(run, size)
    if fitting < size:
        _fitting_chunks[heads] = fitting
        logger.warning(
            "CUDA ran out of memory in the read-only pass with %d RoIs at a time: from now on it takes %d "
            "(MODEL.OHEM.READONLY_CHUNK)", size, fitting,
        )  # fmt: skip
    return losses


def _run_in_fitting_chunks(run: Callable[[int], CandidateLosses], size: int) -> tuple[CandidateLosses, int]:
    """The result of `run`, which takes the size of its chunks, and the size that fitted into memory."""
    while True:
        try:
            return run(size), size
        except torch.cuda.OutOfMemoryError as error:
            if size <= _SMALLEST_CHUNK:
                raise torch.cuda.OutOfMemoryError(
                    f"the read-only pass runs out of memory with {size} RoIs at a time: lower "
                    f"SOLVER.IMS_PER_BATCH or the size of the images; {error}"
                ) from None
        size = max(size // 2, _SMALLEST_CHUNK)  # here the error, whose frames hold tensors, is gone


def _losses_in_chunks(
    heads: ROIHeads,
    features: dict[str, Tensor],
    candidates: list[Instances],
    targets: list[Instances],
    options: OHEMOptions,
    with_predictions: bool,
    size: int,
) -> CandidateLosses:
    """`candidate_losses` with `size` RoIs at a time."""
    device = next(iter(features.values())).device
    features = {name: features[name].detach() for name in heads.in_features}
    with EventStorage(), read_only(heads, options.readonly_dropout, device):
        with _precision(options.readonly_dtype, device):
            if any(hasattr(predictor, "roi_losses") for predictor in box_predictors(heads)):
                chunks = split_boxes(candidates, size)
                parts = [_sum_stages(box_forward(heads, features, x, targets), roi_terms) for x in chunks]
                cls, box = map(torch.cat, zip(*parts))
                return CandidateLosses(rank_terms(cls, box, options.rank_by), cls, box)
            weights = _drawn_class_weights(heads, candidates, targets)
            reduce = partial(reduce_predictions, class_weights=weights, with_scores=with_predictions)
            stages = list(box_forward(heads, features, candidates, targets, size, reduce))
            cls, box = _sum_stages(stages, reduced_terms)
            total = rank_terms(cls, box, options.rank_by)
            if not with_predictions:
                return CandidateLosses(total, cls, box)
            predictor, (_, deltas, scores, classes), proposals, _ = stages[-1]
            decoded = decode_boxes(predictor, deltas, proposals)
            return CandidateLosses(total, cls, box, scores, decoded, classes)


def _sum_stages(
    stages: Iterable[BoxStage], terms_of: Callable[..., tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """(R,) losses of each RoI, of both terms, summed over the stages."""
    terms = None
    for stage in stages:
        of_stage = terms_of(stage.predictor, stage.predictions, stage.proposals)
        if stage.weights is not None:
            of_stage = tuple(torch.where(stage.weights == 0, 0.0, x * stage.weights) for x in of_stage)
        terms = of_stage if terms is None else (terms[0] + of_stage[0], terms[1] + of_stage[1])
    return terms


def name_not_finite(features: dict[str, Tensor], losses: CandidateLosses) -> str:
    """The feature maps and terms of the loss that are not finite; host and device are synchronised."""
    parts = {"feature map " + name: feature for name, feature in features.items()}
    parts |= {"classification loss": losses.cls, "box loss": losses.box}
    return ", ".join(name for name, values in parts.items() if not values.isfinite().all())


def check_minable(heads: ROIHeads, rank_by: str, with_predictions: bool = False) -> None:
    """Check that `candidate_losses` has what a rule reads of the RoIs of `heads`.

    Raises:
        TypeError: their losses are not known, or predictions that can be anything; says what to do.
        ValueError: they cannot be ranked by `rank_by`.
    """
    try:
        find_box_forward(type(heads))
    except TypeError as error:
        raise TypeError(f"these RoI heads cannot be mined: {error}") from None
    if has_own_forward(type(heads)):
        logger.warning(
            "%s has its own _forward_box; RoIs are ranked by what pooler, box head and predictor give",
            type(heads).__name__,
        )  # fmt: skip
    for predictor in box_predictors(heads):
        check_rankable(predictor, rank_by)
        if with_predictions and hasattr(predictor, "roi_losses"):
            name = type(predictor).__name__
            raise TypeError(
                f"the rule reads scores and boxes, which are not known of {name} with its own `roi_losses`"
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
