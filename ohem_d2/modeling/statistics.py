"""What was mined, in the event storage under ``ohem/``."""
from math import isfinite
from typing import List

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..mining import HardRoIs


def write_mining_statistics(losses: Tensor, candidates: List[Instances], hard: HardRoIs, num_classes: int) -> None:
    """Write the scalars of one iteration; one copy to the host for all of them.

    ``num_candidates``, ``num_survivors`` (of NMS) and ``num_selected`` are means per image. ``fg_fraction``
    and ``mean_fg_iou`` (IoU with the matched object) are over the selected RoIs. ``mean_loss`` is over all candidates
    (the paper, figure 3); ``easiest_selected_loss`` and ``hardest_dropped_loss`` are the border between the
    RoIs that are trained on and all others, duplicates included. What has no value in an iteration is left out.

    Args:
        losses: (R,) of the concatenated `candidates`.
        candidates: one `Instances` per image, with ``gt_classes`` and, to report it, ``gt_ious``.
        num_classes: K, the background label.
    """
    selected = torch.zeros_like(losses, dtype=torch.bool).index_fill_(0, hard.selected, True)
    foreground = selected & (torch.cat([c.gt_classes for c in candidates]) < num_classes)
    infinity = losses.new_full((1,), float("inf"))
    scalars = {
        "fg_fraction": foreground.sum() / selected.sum(),
        "mean_loss": losses.mean(),
        "easiest_selected_loss": torch.cat([losses[hard.selected], infinity]).min(),
        "hardest_dropped_loss": torch.cat([torch.where(selected, -infinity, losses), -infinity]).max(),
    }
    if candidates[0].has("gt_ious"):
        ious = torch.cat([c.gt_ious for c in candidates])
        scalars["mean_fg_iou"] = torch.where(foreground, ious, 0).sum() / foreground.sum()
    num_images = len(candidates)
    values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist()))
    values["num_candidates"] = len(losses) / num_images
    values["num_survivors"] = len(hard.survivors) / num_images
    values["num_selected"] = len(hard.selected) / num_images
    get_event_storage().put_scalars(**{f"ohem/{k}": v for k, v in values.items() if isfinite(v)})
