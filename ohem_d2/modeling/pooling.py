"""RoI pooling in the read-only pass: the result of `ROIPooler` in chunks, with fewer synchronisations.

Shape letters: R = RoIs of all images, U = RoIs that are pooled, C = channels, P = resolution of the pooler.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import RoIPool

# What `_share_rois` packs into 63 bits: four coordinates in cells, in [-_CELLS, _CELLS), and the image.
_CELLS, _MAX_IMAGES = 2**13, 2**7


class PooledRoIs(NamedTuple):
    """Result of `pool_in_chunks`."""

    # Pooled features (n, C, P, P), U in all.
    chunks: Iterator[Tensor]
    # (R,) the RoI at each place of the chunks; None: in the order of the boxes.
    order: Tensor | None = None
    # (R,) the place of each RoI in the chunks, if RoIs of equal bins share one; None: each has its own.
    rows: Tensor | None = None


def pool_in_chunks(
    pooler: nn.Module, features: list[Tensor], boxes: list[Boxes], size: int, share: bool
) -> PooledRoIs:
    """Pool RoIs in float32, at most `size` at a time; those with equal bins only once.

    RoIPool rounds RoIs to cells of the feature map, so RoIs that differ by less have equal features
    (``DEDUP_BOXES`` of Fast R-CNN). With several levels the RoIs are sorted by level: host and device are
    synchronised once, for the numbers of RoIs of all levels, not once per level as in Detectron2, and a
    half-precision level is cast only while it is needed. Other poolers are called as they are.

    Args:
        pooler: the box pooler of the heads.
        features: the feature maps that it pools, of any floating type.
        boxes: the RoIs of each image.
        size: RoIs per chunk, >= 1.
        share: False: pool each RoI separately, since active dropout treats equal RoIs differently.

    """
    is_known = type(pooler) is ROIPooler and all(type(b) is Boxes for b in boxes)
    if not is_known or not sum(map(len, boxes)):
        features = [feature.float() for feature in features]
        return PooledRoIs(pooler(features, chunk) for chunk in split_boxes(boxes, size))
    rois, order, rows = _with_image(boxes), None, None
    num_per_level = [len(rois)]
    if len(pooler.level_poolers) > 1:
        order, num_per_level = _sort_by_level(pooler, boxes)
        rois = rois[order]
    elif share and isinstance(pooler.level_poolers[0], RoIPool) and len(boxes) <= _MAX_IMAGES:
        rois, rows = _share_rois(rois, pooler.level_poolers[0].spatial_scale)
        num_per_level = [len(rois)]
    return PooledRoIs(_pool(pooler, features, rois, num_per_level, size), order, rows)


def split_boxes(boxes: list, size: int) -> Iterator[list]:
    """Chunks of at most `size` of the RoIs of all images; each has one element per image, maybe empty."""
    ends = list(accumulate(map(len, boxes)))
    starts = [0, *ends[:-1]]
    for first in range(0, max(ends[-1], 1), size):
        yield [
            of_image[max(first - start, 0) : max(min(first + size, end) - start, 0)]
            for of_image, start, end in zip(boxes, starts, ends)
        ]


def _pool(
    pooler: ROIPooler, features: list[Tensor], rois: Tensor, num_per_level: list[int], size: int
) -> Iterator[Tensor]:
    parts: list[Tensor] = []
    first, room = 0, size
    for level_pooler, feature, num in zip(pooler.level_poolers, features, num_per_level):
        feature = feature.float() if num else feature
        end = first + num
        while first < end:
            part = rois[first : min(first + room, end)]
            parts.append(level_pooler(feature, part))
            first, room = first + len(part), room - len(part)
            if room == 0 or first == len(rois):
                yield parts[0] if len(parts) == 1 else torch.cat(parts)
                parts, room = [], size


def _sort_by_level(pooler: ROIPooler, boxes: list[Boxes]) -> tuple[Tensor, list[int]]:
    """The order of the RoIs by level, and the number of RoIs of each level."""
    levels = assign_boxes_to_levels(
        boxes, pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    # Not bincount: the size of its result needs another synchronisation.
    numbers = (levels == torch.arange(len(pooler.level_poolers), device=levels.device)[:, None]).sum(dim=1)
    return levels.argsort(), numbers.tolist()


def _with_image(boxes: list[Boxes]) -> Tensor:
    """(R, 5): index of the image in the batch, and XYXY_ABS."""
    return torch.cat([torch.nn.functional.pad(b.tensor, (1, 0), value=float(i)) for i, b in enumerate(boxes)])


def _share_rois(rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """One RoI for all those that RoIPool rounds to the same cells of a feature map.

    Args:
        rois: (R, 5) index of the image and XYXY_ABS.
        scale: of the feature map; in Detectron2 a power of two, so that scaling makes no rounding errors.

    Returns:
        (U, 5) RoIs on the borders of cells, and for each of the R its row in them.
    """
    cells = rois[:, 1:] * scale
    # Halves are rounded away from zero, as in C.
    cells = torch.where(cells < 0, cells - 0.5, cells + 0.5).trunc()
    # Image and cells in one integer: unique over rows is slow, and reported to fault on CUDA 13.
    packed = rois[:, 0].long()
    for column in cells.clamp(-_CELLS, _CELLS - 1).long().unbind(dim=1):
        packed = packed * (2 * _CELLS) + (column + _CELLS)
    unique, rows = packed.unique(return_inverse=True)
    first = torch.full_like(unique, len(rois)).scatter_reduce_(
        0, rows, torch.arange(len(rois), device=rois.device), "amin"
    )
    return torch.cat([rois[:, :1], cells / scale], dim=1)[first], rows
