"""Figures of mining, for the event storage under ``ohem/``; only the log depends on them.

Shape letters: R = candidate RoIs of all images.
"""

from collections.abc import Mapping
from itertools import accumulate
from math import isfinite, nan
from types import MappingProxyType
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..mining import RankedRoIs
from .readonly_pass import CandidateLosses


def selection_sums(
    losses: Tensor | None,
    selected: Tensor,
    foreground: Tensor,
    candidates: Tensor | None = None,
    ious: Tensor | None = None,
) -> dict[str, Tensor]:
    """What `write_mining` makes figures of, as scalars on the device; few launches.

    Args:
        losses: of any shape, not empty; None: not known.
        selected: bool, of that shape, like all that follow.
        foreground: whether it is an object.
        candidates: bool, what could be selected; None: all.
        ious: IoU with the matched object; None: not known.
    """
    hard_foreground, infinity = selected & foreground, float("inf")
    sums = {"num_selected": selected, "num_fg": hard_foreground}
    sums["num_candidates_fg"] = foreground if candidates is None else foreground & candidates
    if ious is not None:
        sums["fg_iou"] = ious * hard_foreground
    if losses is None:
        return dict(zip(sums, torch.stack([x.flatten().float() for x in sums.values()]).sum(dim=1)))
    sums.update(loss=losses, selected_loss=losses * selected)
    dropped = losses.masked_fill(selected, -infinity)
    if candidates is not None:
        sums.update(loss=losses * candidates, num_candidates=candidates)
        dropped = dropped.masked_fill(~candidates, -infinity)
    total = torch.stack([x.flatten().float() for x in sums.values()]).sum(dim=1)
    return {
        **dict(zip(sums, total)),
        "easiest_selected_loss": losses.masked_fill(~selected, infinity).min(),
        "hardest_dropped_loss": dropped.max(),
    }


def roi_sums(
    losses: Tensor | None, candidates: list[Instances], num_classes: int, ranked: RankedRoIs
) -> dict[str, Tensor]:
    """`selection_sums` of RoIs.

    Args:
        losses: (R,), in the order of the concatenated `candidates`; None: not known.
        candidates: one `Instances` per image, with ``gt_classes`` and, for their mean, ``gt_ious``.
        num_classes: the background label.
        ranked: the selection.
    """
    labels = torch.cat([c.gt_classes for c in candidates])
    selected = torch.zeros_like(labels, dtype=torch.bool).scatter_(0, ranked.order, ranked.is_selected)
    foreground = labels < num_classes
    has_ious = candidates[0].has("gt_ious")
    ious = torch.cat([c.gt_ious for c in candidates]) if has_ious else None
    return selection_sums(losses, selected, foreground, ious=ious)


class LastMined(NamedTuple):
    """The RoIs that were mined of the images of a batch."""

    # (H, 9) float32 on the device: box (XYXY_ABS in pixels of the network's input), label, index of the
    # object in the image (-1: background), IoU with it, loss of classification and of the box (NaN: none).
    rois: Tensor
    num_rois: list[int]  # of each image; their sum is H
    sizes: list[tuple[int, int]]  # of each image as the network sees it: height and width


def describe_mined(
    candidates: list[Instances], losses: CandidateLosses | None, rows: list[Tensor], num_classes: int
) -> LastMined:
    """What the log records of a selection; nothing is copied to the host.

    Args:
        candidates: one `Instances` per image, of `label_candidates`.
        losses: of the concatenated candidates; None: of a rule that reads none.
        rows: per image (H_i,) int64, into its candidates.
        num_classes: the background label.
    """
    firsts = accumulate(map(len, candidates), initial=0)
    chosen = torch.cat([first + r for first, r in zip(firsts, rows)])
    boxes = torch.cat([c.proposal_boxes.tensor for c in candidates])
    labels = torch.cat([c.gt_classes for c in candidates])
    ious = torch.cat([c.gt_ious for c in candidates])
    objects = torch.cat([c.gt_matches if c.has("gt_matches") else c.gt_classes for c in candidates])
    objects = torch.where(labels < num_classes, objects, -1)
    unknown = torch.full_like(ious, nan)
    terms = (unknown, unknown) if losses is None else (losses.cls, losses.box)
    columns = [x.float() for x in (*boxes.unbind(dim=1), labels, objects, ious, *terms)]
    rois = torch.stack([x[chosen] for x in columns], dim=1)
    return LastMined(rois, [len(r) for r in rows], [c.image_size for c in candidates])


def write_mining(
    prefix: str,
    sums: Mapping[str, float],
    num_images: int,
    more: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Write the figures of one iteration to the event storage.

    - ``num_candidates``, ``num_survivors``, ``num_selected``: mean number per image. NMS looks at the hardest
      candidates alone unless too few of them survive; survivors are counted among those.
    - ``fg_fraction``, ``mean_fg_iou``: over the selected RoIs; fraction of foreground, and mean IoU of the
      foreground with the matched objects.
    - ``candidates_fg_fraction``: over all candidates.
    - ``mean_loss``: over all candidates (the paper, figure 3); ``mean_selected_loss``: over the selected.
    - ``easiest_selected_loss``, ``hardest_dropped_loss``: lowest loss of the selected RoIs, and highest loss
      of the others, duplicates included.

    A figure without a value in an iteration, such as a mean over no RoIs, is not written.

    Args:
        prefix: "ohem", or "ohem/" and what was mined.
        sums: of `selection_sums`, with ``num_candidates`` and ``num_survivors``; all images together.
        num_images: in the batch.
        more: figures that are written as they are; one that has the name of another is left out.
    """
    numbers = ("num_candidates", "num_survivors", "num_selected")
    counted = {name: sums.get(name, 0) for name in numbers}
    figures = {name: number / num_images for name, number in counted.items() if number is not None}
    ratios = {
        "fg_fraction": ("num_fg", "num_selected"),
        "candidates_fg_fraction": ("num_candidates_fg", "num_candidates"),
        "mean_loss": ("loss", "num_candidates"),
        "mean_selected_loss": ("selected_loss", "num_selected"),
        "mean_fg_iou": ("fg_iou", "num_fg"),
    }
    figures.update({name: sums[a] / sums[b] for name, (a, b) in ratios.items() if a in sums and sums.get(b)})
    for name in ("easiest_selected_loss", "hardest_dropped_loss"):
        if isfinite(sums.get(name, nan)):
            figures[name] = sums[name]
    figures = {**more, **figures}
    get_event_storage().put_scalars(**{f"{prefix}/{name}": value for name, value in figures.items()})


def write_samples(sums: Mapping[str, float], num_images: int) -> None:
    """Write the figures of Detectron2's sampler: mean numbers of foreground and background RoIs per image."""
    foreground, selected = (sums.get(name, 0) / num_images for name in ("num_fg", "num_selected"))
    storage = get_event_storage()
    storage.put_scalar("roi_head/num_fg_samples", foreground)
    storage.put_scalar("roi_head/num_bg_samples", selected - foreground)
