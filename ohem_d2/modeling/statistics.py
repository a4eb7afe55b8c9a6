"""Figures of mining, for the event storage under ``ohem/``; only the log depends on them.

Shape letters: R = candidate RoIs of all images.
"""

from collections.abc import Mapping
from math import isfinite

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..mining import RankedRoIs


def roi_scalars(
    losses: Tensor, candidates: list[Instances], num_classes: int, ranked: RankedRoIs
) -> dict[str, Tensor]:
    """Figures of mined RoIs, as scalars on the device.

    - ``num_selected``: in all images together.
    - ``fg_fraction``, ``mean_fg_iou``: over the selected RoIs; fraction of foreground, and mean IoU of the
      foreground with the matched objects.
    - ``mean_loss``: over all candidates (the paper, figure 3).
    - ``easiest_selected_loss``, ``hardest_dropped_loss``: lowest loss of the selected RoIs, and highest loss
      of the others, duplicates included.

    A figure without a value, such as a mean over no RoIs, is NaN or infinite.

    Args:
        losses: (R,), in the order of the concatenated `candidates`.
        candidates: one `Instances` per image, with ``gt_classes`` and, for ``mean_fg_iou``, ``gt_ious``.
        num_classes: the background label.
        ranked: the selection.
    """
    selected = torch.zeros_like(losses, dtype=torch.bool).scatter_(0, ranked.order, ranked.is_selected)
    foreground = torch.cat([c.gt_classes for c in candidates]) < num_classes
    scalars = selection_scalars(losses, selected, foreground)
    if candidates[0].has("gt_ious"):
        ious, hard_foreground = torch.cat([c.gt_ious for c in candidates]), foreground & selected
        scalars["mean_fg_iou"] = torch.where(hard_foreground, ious, 0).sum() / hard_foreground.sum()
    return scalars


def selection_scalars(
    losses: Tensor, selected: Tensor, foreground: Tensor, candidates: Tensor | None = None
) -> dict[str, Tensor]:
    """The figures of `roi_scalars` that need only tensors, here of one shape: all but ``mean_fg_iou``.

    Args:
        losses: of any shape.
        selected: bool.
        foreground: bool.
        candidates: bool; None: all.
    """
    dropped, mean, infinity = ~selected, losses.mean(), losses.new_full((1,), float("inf"))
    if candidates is not None:
        dropped, mean = dropped & candidates, torch.where(candidates, losses, 0).sum() / candidates.sum()
    return {
        "num_selected": selected.sum(),
        "fg_fraction": (foreground & selected).sum() / selected.sum(),
        "mean_loss": mean,
        "easiest_selected_loss": torch.cat(
            [torch.where(selected, losses, infinity).flatten(), infinity]
        ).min(),
        "hardest_dropped_loss": torch.cat(
            [torch.where(dropped, losses, -infinity).flatten(), -infinity]
        ).max(),
    }


def write_scalars(prefix: str, scalars: Mapping[str, float], num_images: int) -> None:
    """Write the figures of one iteration to the event storage.

    Args:
        prefix: of the names in the event storage: "ohem", or "ohem/" and the name of the anchor detector.
        scalars: sums over the images, whose names begin with "num_", are written as means per image.
            Non-finite values are left out.
        num_images: number of images in the batch.
    """
    per_image = {k: v / num_images if k.startswith("num_") else v for k, v in scalars.items()}
    get_event_storage().put_scalars(**{f"{prefix}/{k}": v for k, v in per_image.items() if isfinite(v)})
