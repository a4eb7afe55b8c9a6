"""Figures of what was mined, in the event storage under ``ohem/``; nothing but the log depends on them.

Shape letters: R candidate RoIs or anchors of all images.
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

    ``num_selected`` is a sum over the images. ``fg_fraction`` and ``mean_fg_iou`` (IoU with the matched object) are
    over the selected RoIs. ``mean_loss`` is over all candidates (the paper, figure 3); ``easiest_selected_loss`` and
    ``hardest_dropped_loss`` are the border between the RoIs that are trained on and all others, duplicates included.
    NaN or infinite: has no value.

    Args:
        losses: (R,) of the concatenated `candidates`.
        candidates: one `Instances` per image, with ``gt_classes`` and, to report it, ``gt_ious``.
        num_classes: K, the background label.
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
    """The figures of `roi_scalars` that need no RoIs.

    Args:
        losses: of any shape.
        selected: bool, of that shape; likewise `foreground`.
        foreground: whether it is an object.
        candidates: what could be selected; None: all.
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
    """Write the figures of one iteration to the event storage, numbers of RoIs as means per image.

    Args:
        prefix: "ohem", or "ohem/" and what was mined.
        scalars: names that begin with "num_" are sums over the images. What is not finite is left out.
        num_images: of the batch.
    """
    per_image = {k: v / num_images if k.startswith("num_") else v for k, v in scalars.items()}
    get_event_storage().put_scalars(**{f"{prefix}/{k}": v for k, v in per_image.items() if isfinite(v)})
