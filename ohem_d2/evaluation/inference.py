"""Testing as in the paper (section 6.1): many scales, iterative box regression, box voting; and soft-NMS.

One image comes in several sizes. Boxes of `Instances` are always in coordinates of the unflipped image at the
size in ``image_size``; only `_View` deals with flips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, DatasetMapperTTA, GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import BoxVotingOptions, MultiScaleOptions, SoftNMSOptions
from .predictions import check_heads, class_predictions
from .soft_nms import soft_nms
from .voting import vote_boxes

Size = tuple[int, int]


def build_test_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """`model`, or an `RCNNWithTTA` of it if ``TEST`` enables ``AUG``, ``BOX_VOTING`` or ``SOFT_NMS``."""
    return RCNNWithTTA(cfg, model) if _is_needed(cfg) else model


def check_testing(cfg: CfgNode) -> None:
    """Check the settings of testing.

    Raises:
        KeyError: an unknown key, or a section that is missing.
        ValueError: a value out of its range, or settings that do not apply to the model.
    """
    if _is_needed(cfg):
        _check_model(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
        check_heads(ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME))


def _is_needed(cfg: CfgNode) -> bool:
    return any(o.from_config(cfg).enabled for o in (MultiScaleOptions, BoxVotingOptions, SoftNMSOptions))


def _check_model(architecture: type) -> None:
    if getattr(architecture, "inference", None) is not GeneralizedRCNN.inference:
        raise ValueError(
            "TEST.AUG, TEST.BOX_VOTING and TEST.SOFT_NMS are for models that infer as GeneralizedRCNN does; "
            f"{architecture.__qualname__} does not"
        )


@dataclass(frozen=True)
class _View:
    """The images of a batch at one scale, flipped or not, and their features."""

    images: ImageList
    features: dict[str, Tensor]
    flipped: bool

    @property
    def sizes(self) -> list[Size]:
        return [tuple(size) for size in self.images.image_sizes]

    def move(self, instances: list[Instances]) -> list[Instances]:
        """Boxes of unflipped images of any size, in this view; or boxes of this view, in unflipped images."""
        return [_move(x, size, self.flipped) for x, size in zip(instances, self.sizes)]


class RCNNWithTTA(nn.Module):
    """An R-CNN tested with all that ``TEST`` configures; inputs and outputs are those of the model.

    Replaces Detectron2's `GeneralizedRCNNWithTTA`, and supports precomputed proposals and keypoints too. With
    ``TEST.AUG`` the images come at their original size, with proposals in its coordinates (as from
    `ohem_d2.data.build_test_loader`), and are resized once for each scale; the features of all scales are in
    memory together. The unflipped scale closest to ``INPUT.MIN_SIZE_TEST`` is the reference: NMS and voting
    are in its coordinates, keypoints are predicted on it, and where the scales are combined by proposal, its
    RPN makes the proposals. Masks are averaged. The order of the scales does not matter.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        aug: MultiScaleOptions,
        box_voting: BoxVotingOptions,
        soft_nms: SoftNMSOptions,
        score_thresh: float,
        nms_thresh: float,
        topk: int,
    ):
        """Wrap `model`; ``RCNNWithTTA(cfg, model)`` takes all else from a config.

        Args:
            model: an R-CNN.
            aug: the scales.
            box_voting: the rounds of regression, and the vote.
            soft_nms: in place of NMS.
            score_thresh: lowest score of a detection.
            nms_thresh: IoU above which NMS drops a box; with voting, that of `box_voting` takes its place.
            topk: number of detections of an image.

        Raises:
            ValueError: settings that do not apply to the model; with a config, see `check_testing`.
        """
        super().__init__()
        model = model.module if isinstance(model, DistributedDataParallel) else model
        _check_model(type(model))
        check_heads(type(model.roi_heads))
        self.model, self.training = model, model.training
        self.voting, self.soft_nms, self.combine = box_voting, soft_nms, aug.combine
        self.mapper = _tta_mapper(aug) if aug.enabled else None
        self.score_thresh, self.topk = score_thresh, topk
        self.nms_thresh = box_voting.nms_thresh if box_voting.enabled else nms_thresh

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module):
        check_testing(cfg)
        return {
            "model": model,
            "aug": MultiScaleOptions.from_config(cfg),
            "box_voting": BoxVotingOptions.from_config(cfg),
            "soft_nms": SoftNMSOptions.from_config(cfg),
            "score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "topk": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Detect; inputs and outputs are those of `GeneralizedRCNN` in eval mode."""
        views = self._views(batched_inputs)
        if self.combine in ("detections", "candidates"):
            rounds = self._merge([self._rounds([view], batched_inputs) for view in views])
        else:
            rounds = self._rounds(views, batched_inputs)
        detections = self._other_heads(views, self._choose(rounds))
        outputs = []
        for x, found in zip(batched_inputs, detections):
            given = x["image"].shape[-2:] if self.mapper else found.image_size
            height, width = x.get("height", given[0]), x.get("width", given[1])
            outputs.append({"instances": detector_postprocess(found, height, width)})
        return outputs

    def _views(self, batched_inputs: list[dict]) -> list[_View]:
        """One view for each augmentation, the reference first."""
        if self.mapper is None:
            return [self._view(batched_inputs, flipped=False)]
        views = zip(*(self.mapper(_image_alone(x["image"])) for x in batched_inputs))
        return [self._view(inputs, _is_flipped(inputs[0])) for inputs in views]

    def _view(self, inputs: Sequence[dict], flipped: bool) -> _View:
        images = self.model.preprocess_image(inputs)
        return _View(images, self.model.backbone(images.tensor), flipped)

    def _proposals(self, view: _View, batched_inputs: list[dict]) -> list[Instances]:
        if self.model.proposal_generator is None:
            return [x["proposals"].to(self.model.device) for x in batched_inputs]
        return view.move(self.model.proposal_generator(view.images, view.features, None)[0])

    def _rounds(self, views: list[_View], batched_inputs: list[dict]) -> list[list[Instances]]:
        """Candidates of each round and image, by what `views` predict, at the size of the first."""
        sizes, proposals = views[0].sizes, self._proposals(views[0], batched_inputs)
        predictions = [self._predict(views, proposals, sizes)]
        for _ in range(self.voting.rounds - 1 if self.voting.enabled else 0):
            proposals = [_regressed(*x, size) for x, size in zip(predictions[-1], sizes)]
            predictions.append(self._predict(views, proposals, sizes))
        return [
            [_candidates(*x, size, self.score_thresh) for x, size in zip(of_round, sizes)]
            for of_round in predictions
        ]

    def _predict(
        self, views: list[_View], proposals: list[Instances], sizes: list[Size]
    ) -> list[tuple[Tensor, Tensor]]:
        """For each image the `class_predictions` of `proposals`, of all `views`, in an image of `sizes`."""
        of_views = []
        for view in views:
            boxes, scores = class_predictions(self.model.roi_heads, view.features, view.move(proposals))
            boxes = [_move_boxes(*x, view.flipped) for x in zip(boxes, view.sizes, sizes)]
            of_views.append(list(zip(boxes, scores)))
        combine = _best if self.combine == "max" else _mean
        return [combine(*map(torch.stack, zip(*of_image))) for of_image in zip(*of_views)]

    def _merge(self, views: list[list[list[Instances]]]) -> list[list[Instances]]:
        """Candidates of each round and image, of all views together, at the size of the first.

        With "detections" these are the final ones of each view, unless boxes vote or soft-NMS lowers scores.
        """
        is_final = self.combine == "detections" and not (self.voting.enabled or self.soft_nms.enabled)
        if len(views) > 1 and is_final:
            views = [[[self._suppress(x) for x in images] for images in rounds] for rounds in views]
        return [[_gather(of_image) for of_image in zip(*of_round)] for of_round in zip(*views)]

    def _choose(self, rounds: list[list[Instances]]) -> list[Instances]:
        """The detections, from the candidates of all rounds."""
        union = [Instances.cat(of_image) for of_image in zip(*rounds)]
        kept = [self._suppress(x) for x in union]
        if self.voting.enabled:
            self._vote(kept, union if self.voting.voters == "all" else rounds[-1])
        return kept

    def _vote(self, kept: list[Instances], voters: list[Instances]) -> None:
        (boxes, _, groups), of_voters = (_flat(x, self.model.roi_heads.num_classes) for x in (kept, voters))
        voted = vote_boxes(boxes, groups, *of_voters, self.voting.vote_thresh)
        for found, of_image in zip(kept, voted.split([len(x) for x in kept])):
            found.pred_boxes = Boxes(of_image)

    def _suppress(self, candidates: Instances) -> Instances:
        """The ``TEST.DETECTIONS_PER_IMAGE`` best of an image after NMS or soft-NMS."""
        boxes, scores, classes = candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes
        if self.soft_nms.enabled:
            keep, scores = soft_nms(boxes, scores, classes, self.soft_nms.sigma, self.score_thresh, self.topk)
        else:
            keep = batched_nms(boxes, scores, classes, self.nms_thresh)
            scores = scores[keep]
        kept = candidates[keep]
        kept.scores = scores
        return kept[: self.topk] if self.topk >= 0 else kept

    def _other_heads(self, views: list[_View], detections: list[Instances]) -> list[Instances]:
        """The detections, with masks averaged over the views and keypoints of the first view."""
        heads = self.model.roi_heads
        views = views if getattr(heads, "mask_on", False) else views[:1]
        results = [heads.forward_with_given_boxes(view.features, view.move(detections)) for view in views]
        for i, found in enumerate(results[0]):
            if found.has("pred_masks"):
                masks = [of_view[i].pred_masks for of_view in results]
                masks = [mask.flip(dims=[3]) if view.flipped else mask for view, mask in zip(views, masks)]
                found.pred_masks = torch.stack(masks).mean(dim=0)
        return results[0]


def _tta_mapper(aug: MultiScaleOptions) -> DatasetMapperTTA:
    """Resizes an image to the scales, sorted, that closest to the size of plain testing first."""
    sizes = sorted(set(aug.min_sizes), key=lambda size: (abs(size - aug.reference_size), size))
    return DatasetMapperTTA(min_sizes=sizes, max_size=aug.max_size, flip=aug.flip)


def _image_alone(image: Tensor) -> dict:
    return {"image": image.cpu(), "height": image.shape[1], "width": image.shape[2]}


def _is_flipped(inputs: dict) -> bool:
    return any(isinstance(t, HFlipTransform) for t in inputs["transforms"].transforms)


def _candidates(boxes: Tensor, scores: Tensor, size: Size, score_thresh: float) -> Instances:
    """Clipped boxes, scores and classes of the pairs of a RoI and a class scored above `score_thresh`."""
    valid = boxes.isfinite().flatten(1).all(dim=1) & scores.isfinite().all(dim=1)
    boxes, scores = boxes[valid], scores[valid, :-1]
    rois, classes = (scores > score_thresh).nonzero(as_tuple=True)
    found = Boxes(boxes[rois, classes if boxes.shape[1] > 1 else 0])
    found.clip(size)
    return Instances(size, pred_boxes=found, scores=scores[rois, classes], pred_classes=classes)


def _regressed(boxes: Tensor, scores: Tensor, size: Size) -> Instances:
    """RoIs of the next round: of each RoI the clipped box of its best class, unless that is empty."""
    best = scores[:, :-1].argmax(dim=1) if boxes.shape[1] > 1 else 0
    chosen = boxes[torch.arange(len(boxes), device=boxes.device), best]
    chosen = Boxes(chosen[chosen.isfinite().all(dim=1)])
    chosen.clip(size)
    return Instances(size, proposal_boxes=chosen[chosen.nonempty()])


def _flat(instances: list[Instances], num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and groups of a batch; a group is a class of an image."""
    boxes = torch.cat([x.pred_boxes.tensor for x in instances])
    groups = torch.cat([i * num_classes + x.pred_classes for i, x in enumerate(instances)])
    return boxes, torch.cat([x.scores for x in instances]), groups


def _mean(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over V views, of boxes (V, R, K or 1, 4) and scores (V, R, K + 1)."""
    return boxes.mean(dim=0), scores.mean(dim=0)


def _best(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """As `_mean`, but of each class the highest score, and the box of the view that has it.

    A box that all classes share is that of the view with the highest score of any class.
    """
    highest, view = scores.max(dim=0)  # (R, K + 1)
    if boxes.shape[2] == 1:
        view = scores[..., :-1].amax(dim=2).argmax(dim=0)[:, None]
    view = view[:, : boxes.shape[2], None].expand(-1, -1, 4)
    return boxes.gather(0, view[None])[0], highest


def _gather(of_image: Sequence[Instances]) -> Instances:
    """The candidates of several views of an image, at the size of the first."""
    return Instances.cat([_move(x, of_image[0].image_size) for x in of_image])


def _move(instances: Instances, size: Size, flip: bool = False) -> Instances:
    """A copy with ``pred_boxes`` (or else ``proposal_boxes``) in the image at another size, clipped."""
    field = "pred_boxes" if instances.has("pred_boxes") else "proposal_boxes"
    boxes = Boxes(_move_boxes(instances.get(field).tensor, instances.image_size, size, flip))
    boxes.clip(size)
    return Instances(size, **{**instances.get_fields(), field: boxes})


def _move_boxes(boxes: Tensor, source: Size, target: Size, flip: bool) -> Tensor:
    """Boxes (..., 4) of an image at size `source`, in that image at size `target`, flipped or not."""
    scale_y, scale_x = (new / old for new, old in zip(target, source))
    boxes = boxes * boxes.new_tensor([scale_x, scale_y] * 2)
    if not flip:
        return boxes
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack([target[1] - x2, y1, target[1] - x1, y2], dim=-1)
