"""RoI pooling of the read-only pass: what `ROIPooler` gives, with less work and fewer waits of the host.

Shape letters: R RoIs of N images, U of them with bins of their own.
"""

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import RoIPool


def pool_rois(
    pooler: ROIPooler, features: list[Tensor], boxes: list[Boxes], share: bool
) -> tuple[Tensor, Tensor | None]:
    """Pool RoIs; those of equal bins once.

    RoIPool rounds a RoI to cells of the feature map, so that RoIs which differ by less are the same to the head
    (`DEDUP_BOXES` of Fast R-CNN). On several levels the RoIs are sorted by level, and the host waits once for how
    many each has, where Detectron2 waits at each level. Poolers of other classes are called as they are.

    Args:
        pooler: of the heads.
        features: its feature maps.
        boxes: of each image.
        share: False pools each RoI for itself, as dropout needs, which treats equal RoIs differently.

    Returns:
        pooled features (U, C, P, P), and for each RoI its row in them, (R,); None: U is R, in the order of `boxes`.
    """
    if type(pooler) is not ROIPooler or not all(type(b) is Boxes for b in boxes) or not sum(map(len, boxes)):
        return pooler(features, boxes), None
    if len(pooler.level_poolers) > 1:
        return _pool_levels(pooler, features, boxes), None
    level_pooler = pooler.level_poolers[0]
    if share and isinstance(level_pooler, RoIPool):
        rois, rows = _share_rois(_with_image(boxes), level_pooler.spatial_scale)
        return level_pooler(features[0], rois), rows
    return level_pooler(features[0], _with_image(boxes)), None


def _pool_levels(pooler: ROIPooler, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
    levels = assign_boxes_to_levels(
        boxes, pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    order, rois = levels.argsort(), _with_image(boxes)
    # Not by bincount, for whose size the host would wait as well.
    numbers = (levels[:, None] == torch.arange(len(features), device=levels.device)).sum(dim=0)
    rows_of_levels = order.split(numbers.tolist())
    size = pooler.output_size
    output = features[0].new_empty(len(rois), features[0].shape[1], *size)
    for level_pooler, feature, rows in zip(pooler.level_poolers, features, rows_of_levels):
        output.index_copy_(0, rows, level_pooler(feature, rois[rows]))
    return output


def _with_image(boxes: list[Boxes]) -> Tensor:
    """(R, 5): the place of the image in the batch, and XYXY_ABS."""
    return torch.cat([torch.nn.functional.pad(b.tensor, (1, 0), value=float(i)) for i, b in enumerate(boxes)])


def _share_rois(rois: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """One RoI for all that RoIPool rounds to the same cells of a feature map.

    Args:
        rois: (R, 5) image and XYXY_ABS.
        scale: of the feature map; a power of two in Detectron2, so that no rounding error comes in.

    Returns:
        (U, 5) RoIs on the borders of cells, and for each of the R its row in them.
    """
    cells = rois[:, 1:] * scale
    cells = torch.where(cells < 0, cells - 0.5, cells + 0.5).trunc()  # halves go away from zero, as in C
    unique, rows = torch.cat([rois[:, :1], cells / scale], dim=1).unique(dim=0, return_inverse=True)
    return unique, rows
