"""Rule: a share of the budget mined, the rest drawn."""

from dataclasses import replace

from torch import Tensor

from .base import (
    Budget,
    CandidatesWithLosses,
    count_in_images,
    draw_of_groups,
    drop_duplicates,
    require_number,
    top_of_groups,
)


def mixed(rois: CandidatesWithLosses, budget: Budget, *, start: float = 0.0, end: float = 1.0) -> Tensor:
    """The hardest for a share of the budget, the rest drawn as Detectron2's sampler draws.

    The share goes linearly from `start` to `end` over the training, so that mining can begin when the losses
    say more than noise.

    Args:
        rois: the candidates.
        budget: of an image.
        start: share in [0, 1] of the budget that is mined in the first iteration.
        end: share at the end of the training, which the last iteration comes near.

    Source: selective backpropagation, Jiang et al., arXiv 1910.00762, as scheduled in MosaicML's Composer.
    """
    require_number("start", start, 0, 1)
    require_number("end", end, 0, 1)
    if budget.progress is None:
        raise ValueError("the rule goes with the training: give the RoI heads its iterations as `max_iter`")
    num_mined = round(budget.num_per_image * (start + (end - start) * budget.progress))
    images, foreground = rois.image_ids, rois.is_foreground
    mined = top_of_groups(rois.losses, images, drop_duplicates(rois, budget), num_mined)
    rest = replace(budget, num_per_image=budget.num_per_image - num_mined)
    drawn = draw_of_groups(images, foreground & ~mined, rest.num_foreground, budget)
    left = rest.num_per_image - count_in_images(drawn, rois)
    return mined | drawn | draw_of_groups(images, ~foreground & ~mined, left, budget)
