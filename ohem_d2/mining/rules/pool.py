"""Rule: background drawn from a pool of hard ones."""

from torch import Tensor

from .base import (
    Budget,
    CandidatesWithLosses,
    count_in_images,
    draw_foreground,
    draw_of_groups,
    drop_duplicates,
    require_number,
    top_of_groups,
)


def pool(rois: CandidatesWithLosses, budget: Budget, *, pool_size: float = 10.0) -> Tensor:
    """Foreground drawn from all, background drawn from the hardest.

    Foreground takes POSITIVE_FRACTION of the budget at most. For the n RoIs that are left, background is
    drawn from the `pool_size` * n survivors of highest loss: hard, but not always the very hardest, which are
    often wrong labels.

    Args:
        rois: the candidates.
        budget: of an image.
        pool_size: size of the pool by the number that is drawn from it, >= 1; 1: the hardest.

    Source: HardNegativeSampler of nnDetection (Baumgartner et al., MICCAI 2021) and of MONAI.
    """
    require_number("pool_size", pool_size, 1)
    images, foreground = rois.image_ids, draw_foreground(rois, budget)
    left = budget.num_per_image - count_in_images(foreground, rois)
    background = drop_duplicates(rois, budget) & ~rois.is_foreground
    in_pool = (left * pool_size).clamp(max=len(rois.labels)).long()
    hard = top_of_groups(rois.losses, images, background, in_pool)
    return foreground | draw_of_groups(images, hard, left, budget)
