"""RoI pooling in the read-only pass: the result of `ROIPooler` with fewer host-device synchronisations.

Shape letters: R = RoIs of all images, U = RoIs that are pooled, C = channels, P = resolution of the pooler.
"""

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import RoIPool


def pool_rois(
    pooler: ROIPooler, features: list[Tensor], boxes: list[Boxes], share: bool
) -> tuple[Tensor, Tensor | None]:
    """Pool RoIs; those with equal bins only once.

    RoIPool rounds RoIs to cells of the feature map, so RoIs that differ by less have equal features
    (``DEDUP_BOXES`` of Fast R-CNN). With several levels, host and device are synchronised once, for the
    numbers of RoIs of all levels, not once per level as in Detectron2. Other poolers are called as they are.

    Args:
        pooler: the box pooler of the heads.
        features: the feature maps that it pools.
        boxes: the RoIs of each image.
        share: False: pool each RoI separately, since active dropout treats equal RoIs differently.

    Returns:
        pooled features (U, C, P, P), and for each RoI its row in them, (R,). None for the latter: U is R, in
            the order of `boxes`.
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
    # Not bincount: the size of its result needs another synchronisation.
    numbers = (levels[:, None] == torch.arange(len(features), device=levels.device)).sum(dim=0)
    rows_of_levels = order.split(numbers.tolist())
    size = pooler.output_size
    output = features[0].new_empty(len(rois), features[0].shape[1], *size)
    for level_pooler, feature, rows in zip(pooler.level_poolers, features, rows_of_levels):
        output.index_copy_(0, rows, level_pooler(feature, rois[rows]))
    return output


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
    unique, rows = torch.cat([rois[:, :1], cells / scale], dim=1).unique(dim=0, return_inverse=True)
    return unique, rows
