"""What every mining rule gets and what it is built from.

Shape letters: R = candidate RoIs of all images, K = foreground classes. Label K is the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from ..suppression import suppress_duplicates

_LARGEST = 1e300  # of the parameters of rules, which must be finite


@dataclass(frozen=True)
class Candidates:
    """The candidate RoIs of N images, concatenated image by image; all tensors on one device."""

    boxes: Tensor  # (R, 4) float, XYXY_ABS: the proposals
    labels: Tensor  # (R,) int64 in [0, K]
    ious: Tensor  # (R,) float in [0, 1]: with the object of highest IoU; 0 without objects
    objects: Tensor  # (R,) int64 >= 0: its index in the image; arbitrary without objects
    object_boxes: Tensor  # (R, 4) float, XYXY_ABS: its box; arbitrary without objects
    image_ids: Tensor  # (R,) int64 in [0, N), ascending
    num_rois: Sequence[int]  # of each image, in order; their sum is R
    num_classes: int  # K

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.num_rois)

    @property
    def is_foreground(self) -> Tensor:
        """(R,) bool."""
        return self.labels < self.num_classes

    @property
    def object_ids(self) -> Tensor:
        """(R,) int64 >= 0: one for each object of the batch; arbitrary without objects."""
        most = self.objects.max() + 1 if len(self.objects) else 1
        return self.image_ids * most + self.objects


@dataclass(frozen=True)
class CandidatesWithLosses(Candidates):
    """`Candidates` and their losses under the current weights, each (R,) float32, >= 0."""

    losses: Tensor  # what is ranked by (``MODEL.OHEM.RANK_BY``)
    cls_losses: Tensor
    box_losses: Tensor  # 0 for background


@dataclass(frozen=True)
class CandidatesWithPredictions(CandidatesWithLosses):
    """`CandidatesWithLosses` and what the current weights predict for them."""

    scores: Tensor  # (R,) float32 in [0, 1]: highest probability of a foreground class
    # (R, 4) float32, XYXY_ABS: the box of the label's class, or of a background RoI that of `scores`.
    decoded: Tensor


@dataclass(frozen=True)
class Budget:
    """How many RoIs a rule may select, and the settings that rules share."""

    # RoIs of one image, >= 1 (b = B / N of the paper; ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``).
    num_per_image: int
    # Share of foreground in [0, 1] that is not exceeded (``MODEL.ROI_HEADS.POSITIVE_FRACTION``).
    positive_fraction: float = 0.25
    # IoU in [0, 1] above which the RoI of lower loss is a duplicate; 1: none is (``MODEL.OHEM.NMS_THRESH``).
    nms_thresh: float = 0.7
    # Whether only RoIs of the same label can be duplicates (``MODEL.OHEM.NMS_PER_CLASS``).
    nms_per_class: bool = False
    # Whether the budgets of all images are one, for the hardest of the batch (``MODEL.OHEM.BUDGET``). Only
    # the rule of the paper has it.
    is_pooled: bool = False
    # Iterations that are done, as a share of all, in [0, 1]; None: not known.
    progress: float | None = None
    # Of the device, for what is drawn; None: the global one.
    generator: torch.Generator | None = None

    @property
    def num_foreground(self) -> int:
        """Foreground RoIs of one image at most, rounded down, as Detectron2's sampler does."""
        return int(self.num_per_image * self.positive_fraction)


def top_of_groups(keys: Tensor, groups: Tensor, eligible: Tensor, num: int | Tensor) -> Tensor:
    """The rows of highest key in each group. Nothing is copied to the host.

    Args:
        keys: (R,) floating point; of equal keys the lower row comes first.
        groups: (R,) int64 in [0, G).
        eligible: (R,) bool; other rows are left out.
        num: rows of a group at most, or (G,) of each group.

    Returns:
        (R,) bool.
    """
    chosen = rank_in_groups(keys, groups, eligible) < (num[groups] if isinstance(num, Tensor) else num)
    return chosen & eligible


def rank_in_groups(keys: Tensor, groups: Tensor, eligible: Tensor) -> Tensor:
    """(R,) int64: 0 for the eligible row of highest key in its group, 1 for the next, and so on.

    Rows that are not eligible have the ranks after the others. The arguments are those of `top_of_groups`.
    """
    order = torch.sort(keys, descending=True, stable=True).indices
    order = order[torch.sort((~eligible[order]).byte(), stable=True).indices]
    order = order[torch.sort(groups[order], stable=True).indices]
    grouped = groups[order]
    ranks = torch.arange(len(order), device=order.device) - torch.searchsorted(grouped, grouped)
    return torch.empty_like(ranks).scatter_(0, order, ranks)


def draw_of_groups(groups: Tensor, eligible: Tensor, num: int | Tensor, budget: Budget) -> Tensor:
    """Rows drawn at random, without replacement, from each group; see `top_of_groups`."""
    return top_of_groups(random_keys(groups, budget), groups, eligible, num)


def random_keys(like: Tensor, budget: Budget) -> Tensor:
    """(R,) float64 in [0, 1), drawn on the device of `like` (R,)."""
    return torch.rand(len(like), generator=budget.generator, device=like.device, dtype=torch.float64)


def count_in_images(mask: Tensor, rois: Candidates) -> Tensor:
    """(N,) int64: the rows of each image for which `mask` (R,) is true."""
    return torch.zeros(rois.num_images, dtype=torch.long, device=mask.device).scatter_add_(
        0, rois.image_ids, mask.long()
    )


def fill_with_background(rois: Candidates, foreground: Tensor, budget: Budget, keys: Tensor) -> Tensor:
    """`foreground` and, for what is left of the budget, the background of highest `keys`; all (R,)."""
    left = budget.num_per_image - count_in_images(foreground, rois)
    return foreground | top_of_groups(keys, rois.image_ids, ~rois.is_foreground, left)


def draw_foreground(rois: Candidates, budget: Budget) -> Tensor:
    """(R,) bool: foreground drawn at random up to its share, as Detectron2's sampler does."""
    return draw_of_groups(rois.image_ids, rois.is_foreground, budget.num_foreground, budget)


def drop_duplicates(rois: CandidatesWithLosses, budget: Budget) -> Tensor:
    """(R,) bool: the survivors of NMS in each image, the loss as score (the paper, section 4.2)."""
    if budget.nms_thresh == 1:
        return torch.ones_like(rois.labels, dtype=torch.bool)
    groups = rois.image_ids
    if budget.nms_per_class:
        groups = groups * (rois.num_classes + 1) + rois.labels
    kept = suppress_duplicates(rois.losses, rois.boxes, groups, budget.nms_thresh)
    return torch.zeros_like(rois.labels, dtype=torch.bool).index_fill_(0, kept, True)


def require_number(
    name: str, value: object, least: float, most: float = inf, is_integer: bool = False
) -> None:
    """Raise ValueError, with the parameter's `name`, unless `value` is a number in [`least`, `most`]."""
    kind, valid = ("an integer", int) if is_integer else ("a number", (int, float))
    if not isinstance(value, valid) or isinstance(value, bool) or not least <= value <= min(most, _LARGEST):
        span = f">= {least}" if most == inf else f"in [{least}, {most}]"
        raise ValueError(f"{name} is {value!r}; valid: {kind} {span}")
