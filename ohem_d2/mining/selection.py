"""Selection of the hard RoIs of a mini-batch (the paper, section 4).

Shape letters: R candidate RoIs of all images, S survivors of NMS, H selected ("hard") RoIs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .suppression import suppress_duplicates


class RankedRoIs(NamedTuple):
    """Result of `rank_hard_rois`; indices are int64, into the R candidates. The host knows S, but not yet H."""

    order: (
        Tensor  # (S,) first the H selected, grouped by image id ascending, within an image by loss descending
    )
    num_selected: Tensor  # () int64, H
    survivors: Tensor  # (S,) what NMS kept, by loss descending over all images

    @property
    def is_selected(self) -> Tensor:
        """(S,) bool, of `order`."""
        return torch.arange(len(self.order), device=self.order.device) < self.num_selected


@torch.no_grad()
def select_hard_rois(
    losses: Tensor,
    boxes: Tensor,
    image_ids: Tensor,
    num_per_image: int,
    nms_thresh: float | None = 0.7,
    class_ids: Tensor | None = None,
    *,
    num_images: int | None = None,
) -> Tensor:
    """Indices of the RoIs to train on: the ones of highest loss that are not duplicates of each other.

    Within each image, take the RoI of highest loss, drop the others whose IoU with it is above `nms_thresh`,
    repeat; then keep the `num_per_image` survivors of highest loss. Fewer survivors: all of them, no padding.
    Of equal losses the lower index comes first, so that the same inputs select the same RoIs on every run.
    Source: Shrivastava, Gupta and Girshick, CVPR 2016, section 4.

    Args:
        losses: (R,) floating point, finite.
        boxes: (R, 4) floating point, XYXY_ABS in pixels of their image.
        image_ids: (R,) integer >= 0, in any order.
        num_per_image: budget of one image, >= 1 (b = B / N of the paper).
        nms_thresh: IoU in [0, 1] above which a RoI is a duplicate; None: no de-duplication.
        class_ids: (R,) integer >= 0; only RoIs of equal class suppress each other (the authors' released
            code). None: any two RoIs of an image do (the paper).
        num_images: pool the budget: select the `num_per_image` * `num_images` survivors of highest loss of
            the whole batch (the authors' released code). None: a budget for each image.

    Returns:
        (H,) int64 indices into R, grouped by image id ascending, within an image by loss descending. Empty
        input: empty.

    Raises:
        ValueError: a shape, dtype or range that does not fit.
        FloatingPointError: a loss that is not finite; names the images.
    """
    ranked = rank_hard_rois(
        losses, boxes, image_ids, num_per_image, nms_thresh, class_ids, num_images=num_images
    )
    num_not_finite, num_selected = torch.stack([count_not_finite(losses), ranked.num_selected]).tolist()
    check_finite(num_not_finite, losses, image_ids)
    return ranked.order[:num_selected]


@torch.no_grad()
def rank_hard_rois(
    losses: Tensor,
    boxes: Tensor,
    image_ids: Tensor,
    num_per_image: int,
    nms_thresh: float | None = 0.7,
    class_ids: Tensor | None = None,
    *,
    num_images: int | None = None,
) -> RankedRoIs:
    """As `select_hard_rois`, for callers that have more to read from the device than the number of the selected.

    On CUDA the host waits in NMS alone. Losses are not checked: see `count_not_finite` and `check_finite`.
    """
    _check_arguments(losses, boxes, image_ids, num_per_image, nms_thresh, class_ids, num_images)
    if nms_thresh is None:
        survivors = torch.sort(losses, descending=True, stable=True).indices
    else:
        groups = image_ids if class_ids is None else _joint_ids(image_ids, class_ids)
        survivors = suppress_duplicates(losses, boxes, groups, nms_thresh)
    grouped = torch.sort(image_ids[survivors], stable=True).indices  # places among the survivors
    if num_images is None:
        over_budget = _rank_in_image(image_ids[survivors[grouped]]) >= num_per_image
    else:
        over_budget = grouped >= num_per_image * num_images
    in_budget_first = torch.sort(over_budget.byte(), stable=True).indices
    return RankedRoIs(survivors[grouped[in_budget_first]], (~over_budget).sum(), survivors)


def count_not_finite(losses: Tensor) -> Tensor:
    """() int64, on the device of `losses`."""
    return (~torch.isfinite(losses)).sum()


def check_finite(num_not_finite: int, losses: Tensor, image_ids: Tensor) -> None:
    """Raise FloatingPointError naming the images, unless `count_not_finite` was 0."""
    if num_not_finite:
        images = torch.unique(image_ids[~torch.isfinite(losses)]).tolist()
        raise FloatingPointError(
            f"{num_not_finite} of {len(losses)} RoI losses are not finite, in image(s) {images} of the batch"
        )


def _joint_ids(image_ids: Tensor, class_ids: Tensor) -> Tensor:
    num_classes = class_ids.max() + 1 if class_ids.numel() > 0 else 1
    return image_ids * num_classes + class_ids


def _rank_in_image(grouped_ids: Tensor) -> Tensor:
    return torch.arange(len(grouped_ids), device=grouped_ids.device) - torch.searchsorted(
        grouped_ids, grouped_ids
    )


def _check_arguments(losses, boxes, image_ids, num_per_image, nms_thresh, class_ids, num_images) -> None:
    num_rois = losses.shape[0] if losses.dim() == 1 else None
    if num_rois is None or not losses.is_floating_point():
        raise ValueError(f"losses must be (R,) floating point, got {_describe(losses)}")
    if boxes.shape != (num_rois, 4) or not boxes.is_floating_point():
        raise ValueError(f"boxes must be ({num_rois}, 4) floating point, got {_describe(boxes)}")
    for name, ids in (("image_ids", image_ids), ("class_ids", class_ids)):
        if ids is not None and (
            ids.shape != (num_rois,) or ids.is_floating_point() or ids.dtype == torch.bool
        ):
            raise ValueError(f"{name} must be ({num_rois},) integer, got {_describe(ids)}")
    for name, number in (("num_per_image", num_per_image), ("num_images", num_images)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{name} must be an integer >= 1, got {number!r}")
    if nms_thresh is not None and not 0 <= nms_thresh <= 1:
        raise ValueError(f"nms_thresh must be None or in [0, 1], got {nms_thresh!r}")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"
