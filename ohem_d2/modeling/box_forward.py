"""From RoIs to class scores and box deltas, for each of Detectron2's families of RoI heads.

This is the only file that calls private methods of these heads.

Shape letters: R = RoIs of all images.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.rotated_fast_rcnn import RROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from .ignoring import find_ignored, ignoring_of
from .pooling import pool_in_chunks

# RoIs that are pooled at a time where the caller does not say.
_ALL = 2**31

# From a predictor, its predictions and the labels of the RoIs to smaller tensors.
Reduce = Callable[[nn.Module, tuple[Tensor, Tensor], Tensor], tuple[Tensor, ...]]


class BoxStage(NamedTuple):
    """The predictions of one stage. Only cascades have more than one."""

    predictor: nn.Module
    # Output of ``predictor``: class scores and box deltas; or what `Reduce` makes of it.
    predictions: tuple[Tensor, ...]
    # The RoIs of the stage; those of the later stages of a cascade with targets are labelled.
    proposals: list[Instances]
    # (R,) factor of the loss of each RoI. In a cascade with targets 0 if an earlier stage made the box empty
    # or moved it into an ignore region, NaN if one made it non-finite (half precision can overflow), else 1.
    # None: 1 for all.
    weights: Tensor | None = None


def box_forward(
    heads: ROIHeads,
    features: dict[str, Tensor],
    proposals: list[Instances],
    targets: list[Instances] | None = None,
    size: int = _ALL,
    reduce: Reduce | None = None,
) -> Iterator[BoxStage]:
    """Run the box head and its predictor on RoIs, stage by stage.

    Args:
        heads: of one of Detectron2's families, in eval mode but for dropout layers.
        features: the feature maps, as for ``heads.forward``.
        proposals: one `Instances` per image with ``proposal_boxes``.
        targets: the objects of each image; the RoIs of the later stages of a cascade are then labelled, each
            by the matcher of its stage. None: as in inference.
        size: RoIs that go through pooler, head and predictor at a time.
        reduce: applied to the predictions of each chunk, so that those of all RoIs never exist together; its
            second result must be deltas. None: predictions of all RoIs at once, as they are.

    Raises:
        TypeError: see `find_box_forward`.
    """
    return find_box_forward(type(heads))(heads, features, proposals, targets, _Runner(size, reduce))


def find_box_forward(heads: type) -> Callable[..., Iterator[BoxStage]]:
    """The function that runs heads of this class.

    Raises:
        TypeError: heads of no known family, or for rotated boxes.
    """
    if not issubclass(heads, RROIHeads):
        for family, forward in _FAMILIES.items():
            if issubclass(heads, family):
                return forward
    raise TypeError(
        f"{heads.__qualname__} derives from none of StandardROIHeads, Res5ROIHeads, CascadeROIHeads, "
        "or predicts rotated boxes"
    )


def has_own_forward(heads: type) -> bool:
    """Whether heads of this class have a ``_forward_box`` of their own, which `box_forward` does not run."""
    family = next(family for family in _FAMILIES if issubclass(heads, family))
    name = "_forward_box"  # `Res5ROIHeads` have none
    return getattr(heads, name, None) is not getattr(family, name, None)


def box_predictors(heads: ROIHeads) -> list[nn.Module]:
    """The predictor of each stage."""
    predictor = heads.box_predictor
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]


def is_detectron2s_sampler(label_and_sample_proposals: Callable) -> bool:
    """Whether a bound method of RoI heads is Detectron2's own, which draws by Detectron2's own rule."""
    heads = type(label_and_sample_proposals.__self__)
    is_own = label_and_sample_proposals.__func__ is ROIHeads.label_and_sample_proposals
    return is_own and heads._sample_proposals is ROIHeads._sample_proposals


def box_forward_standard(
    heads: StandardROIHeads, features, proposals, targets, run: "_Runner"
) -> Iterator[BoxStage]:
    """Standard heads: pooler, box head, predictor."""
    maps = [features[f] for f in heads.box_in_features]
    predictions = run(heads.box_pooler, heads.box_head, heads.box_predictor, maps, proposals)
    yield BoxStage(heads.box_predictor, predictions, proposals)


def box_forward_res5(heads: Res5ROIHeads, features, proposals, targets, run: "_Runner") -> Iterator[BoxStage]:
    """Heads on C4 features: pooler, fifth stage of the ResNet, mean over the cells, predictor."""
    maps = [features[f] for f in heads.in_features]

    def transform(maps: list[Tensor], boxes: list) -> Tensor:
        return heads._shared_roi_transform([x.float() for x in maps], boxes)

    is_parents = _is_parents(heads, Res5ROIHeads, "_shared_roi_transform")
    pooler, head = (heads.pooler, heads.res5) if is_parents else (transform, nn.Identity())
    predictions = run(pooler, nn.Sequential(head, _Mean()), heads.box_predictor, maps, proposals)
    yield BoxStage(heads.box_predictor, predictions, proposals)


def box_forward_cascade(
    heads: CascadeROIHeads, features, proposals, targets: list[Instances] | None, run: "_Runner"
) -> Iterator[BoxStage]:
    """Cascades: each stage runs on the regressed boxes of the stage before."""
    maps, sizes = [features[f] for f in heads.box_in_features], [p.image_size for p in proposals]
    weights, stage = None, None
    for number, predictor in enumerate(heads.box_predictor):
        if stage is not None:
            predictions = stage.predictions[:2] if run.reduce else stage.predictions
            boxes = stage.predictor.predict_boxes(predictions, stage.proposals)
            if targets is None:
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
            else:
                # Detectron2 would fail an assertion on non-finite boxes; here their loss becomes NaN.
                finite = torch.cat([b.isfinite().all(dim=1) for b in boxes])
                boxes = [b.nan_to_num(0, 0, 0) for b in boxes]
                proposals = heads._create_proposals_from_boxes(boxes, sizes)
                weights = _next_weights(weights, finite, proposals)
                matcher = heads.proposal_matchers[number]
                ignored = find_ignored(proposals, targets, matcher, ignoring_of(heads))
                weights = _zero_where(ignored, weights, proposals)
                proposals = heads._match_and_label_boxes(proposals, number, targets)
        if _is_parents(heads, CascadeROIHeads, "_run_stage"):
            predictions = run(heads.box_pooler, heads.box_head[number], predictor, maps, proposals)
        else:
            predictions = heads._run_stage([x.float() for x in maps], proposals, number)
            predictions = run.reduced(predictor, predictions, proposals)
        stage = BoxStage(predictor, predictions, proposals, weights)
        yield stage


class StageFilter:
    """A base of RoI heads; if they are a cascade, `filter_stage` filters what its later stages train on."""

    def filter_stage(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """The RoIs to train on, of the regressed boxes of the stage before."""
        raise NotImplementedError

    def _match_and_label_boxes(self, proposals, stage, targets):
        if self.training:  # the read-only pass needs all
            proposals = self.filter_stage(proposals, stage, targets)
        return super()._match_and_label_boxes(proposals, stage, targets)


class _Mean(nn.Module):
    """Mean over the cells of a RoI, (R, C, H, W) -> (R, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])


class _Runner(NamedTuple):
    """Runs a stage; its fields are the arguments of `box_forward`."""

    size: int
    reduce: Reduce | None

    def __call__(
        self,
        pooler: Callable[..., Tensor],
        head: nn.Module,
        predictor: nn.Module,
        maps: list[Tensor],
        proposals: list[Instances],
    ) -> tuple[Tensor, ...]:
        """Pool RoIs and run head, predictor and `reduce` on them, in chunks; in the order of the RoIs."""
        has_dropout = any(m.training for m in head.modules())  # all else is in eval mode
        boxes = [p.proposal_boxes for p in proposals]
        chunks, order, rows = pool_in_chunks(pooler, maps, boxes, self.size, share=not has_dropout)
        if self.reduce is None:  # predictions of any kind
            (pooled,) = _in_order(_cat([(pooled,) for pooled in chunks]), order)
            box_features = head(pooled)
            return predictor(box_features if rows is None else box_features[rows])
        if rows is not None:  # RoIs that share features can differ in their labels
            predictions = _cat([predictor(head(pooled)) for pooled in chunks])
            return self.reduced(predictor, tuple(x[rows] for x in predictions), proposals)
        labels = _labels(proposals)
        labels, parts = labels if order is None else labels[order], []
        for pooled in chunks:
            of_chunk, labels = labels[: len(pooled)], labels[len(pooled) :]
            parts.append(self.reduce(predictor, predictor(head(pooled)), of_chunk))
        return _in_order(_cat(parts), order)

    def reduced(
        self, predictor: nn.Module, predictions: tuple[Tensor, ...], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """`reduce` of the predictions of all RoIs, if there is one."""
        return self.reduce(predictor, predictions, _labels(proposals)) if self.reduce else predictions


def _cat(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts)))


def _in_order(tensors: tuple[Tensor, ...], order: Tensor | None) -> tuple[Tensor, ...]:
    if order is None:
        return tensors
    return tuple(torch.empty_like(x).index_copy_(0, order, x) for x in tensors)


def _labels(proposals: list[Instances]) -> Tensor:
    return torch.cat([p.gt_classes for p in proposals])


def _is_parents(heads: ROIHeads, family: type, method: str) -> bool:
    return getattr(type(heads), method) is getattr(family, method)


def _next_weights(weights: Tensor | None, finite: Tensor, proposals: list[Instances]) -> Tensor:
    """``BoxStage.weights`` of a stage: the weights of its own boxes times those of the stage before."""
    nonempty = torch.cat([p.proposal_boxes.nonempty() for p in proposals])
    own = torch.where(finite, nonempty.float(), float("nan"))
    return own if weights is None else weights * own


def _zero_where(ignored: list[Tensor | None], weights: Tensor, proposals: list[Instances]) -> Tensor:
    """`weights` (R,), but 0 for the RoIs that are ignored."""
    if all(rows is None for rows in ignored):
        return weights
    parts = weights.split([len(p) for p in proposals])
    return torch.cat([w if rows is None else w.masked_fill(rows, 0) for w, rows in zip(parts, ignored)])


# Class of Detectron2 -> its function; a subclass comes before its base.
_FAMILIES = {
    CascadeROIHeads: box_forward_cascade,
    Res5ROIHeads: box_forward_res5,
    StandardROIHeads: box_forward_standard,
}
