"""What was mined, in the event storage under ``ohem/``."""

from collections.abc import Hashable
from math import isfinite
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..mining import RankedRoIs, count_not_finite


class MiningStatistics(NamedTuple):
    """What the host learns of one iteration."""

    scalars: dict[str, float]
    num_selected: list[int]  # of each image
    num_not_finite: int  # losses


def read_mining_statistics(
    losses: Tensor, candidates: list[Instances], ranked: RankedRoIs, num_classes: int
) -> MiningStatistics:
    """All that the host needs of a selection, in one copy.

    Args:
        losses: (R,) of the concatenated `candidates`.
        candidates: one `Instances` per image, with ``gt_classes`` and, to report it, ``gt_ious``.
        num_classes: K, the background label.
    """
    selected = torch.zeros_like(losses, dtype=torch.bool).scatter_(0, ranked.order, ranked.is_selected)
    foreground = torch.cat([c.gt_classes for c in candidates]) < num_classes
    scalars = _scalars(losses, selected, foreground)
    if candidates[0].has("gt_ious"):
        ious, hard_foreground = torch.cat([c.gt_ious for c in candidates]), foreground & selected
        scalars["mean_fg_iou"] = torch.where(hard_foreground, ious, 0).sum() / hard_foreground.sum()
    num_selected = {
        i: of_image.sum() for i, of_image in enumerate(selected.split([len(c) for c in candidates]))
    }
    values = _to_host({**scalars, **num_selected, "not finite": count_not_finite(losses)})
    counts = [int(values[i]) for i in num_selected]
    return MiningStatistics({name: values[name] for name in scalars}, counts, int(values["not finite"]))


def write_mining_statistics(
    statistics: MiningStatistics, candidates: list[Instances], num_survivors: int
) -> None:
    """Write the scalars of one iteration.

    ``num_candidates``, ``num_survivors`` (of NMS) and ``num_selected`` are means per image. ``fg_fraction``
    and ``mean_fg_iou`` (IoU with the matched object) are over the selected RoIs. ``mean_loss`` is over all candidates
    (the paper, figure 3); ``easiest_selected_loss`` and ``hardest_dropped_loss`` are the border between the
    RoIs that are trained on and all others, duplicates included. What has no value in an iteration is left out.
    """
    _write("ohem", statistics.scalars, sum(map(len, candidates)), num_survivors, len(candidates))


def write_anchor_statistics(
    prefix: str, losses: Tensor, candidates: Tensor, foreground: Tensor, selected: Tensor, num_survivors: int
) -> None:
    """As `write_mining_statistics`, for the R anchors of each of N images; there is no ``mean_fg_iou``.

    Args:
        prefix: takes the place of "ohem".
        losses: (N, R).
        candidates, foreground, selected: (N, R) bool.
        num_survivors: of NMS, whose input are the candidates of highest loss; all images together.
    """
    losses, selected, foreground = losses[candidates], selected[candidates], foreground[candidates]
    _write(
        prefix, _to_host(_scalars(losses, selected, foreground)), len(losses), num_survivors, len(candidates)
    )


def _scalars(losses: Tensor, selected: Tensor, foreground: Tensor) -> dict[str, Tensor]:
    infinity = losses.new_full((1,), float("inf"))
    return {
        "num_selected": selected.sum(),
        "fg_fraction": (foreground & selected).sum() / selected.sum(),
        "mean_loss": losses.mean(),
        "easiest_selected_loss": torch.cat([torch.where(selected, losses, infinity), infinity]).min(),
        "hardest_dropped_loss": torch.cat([torch.where(selected, -infinity, losses), -infinity]).max(),
    }


def _to_host(scalars: dict[Hashable, Tensor]) -> dict[Hashable, float]:
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist()))


def _write(
    prefix: str, values: dict[str, float], num_candidates: int, num_survivors: int, num_images: int
) -> None:
    values = {**values, "num_candidates": num_candidates, "num_survivors": num_survivors}
    for name in ("num_candidates", "num_survivors", "num_selected"):
        values[name] /= num_images
    get_event_storage().put_scalars(**{f"{prefix}/{k}": v for k, v in values.items() if isfinite(v)})
