"""Selection of the hard RoIs of a mini-batch (the paper, section 4).

Shape letters: R = candidate RoIs of all images, S = survivors of NMS, H = selected ("hard") RoIs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rules.base import Budget, Candidates, CandidatesWithLosses
from .suppression import suppress_duplicates

# Number of RoIs of an image, those of highest loss, that go into NMS at first; twice the budget if that is
# more. Its time grows with the square of their number. The survivors among them are the same as if all went
# in, since a RoI is suppressed only by RoIs of higher loss.
NMS_TOPK = 256

# Before the names of a rule's scalars, which may be those of `measure` too.
_OF_RULE = "rule: "


class RankedRoIs(NamedTuple):
    """Result of `rank_hard_rois`, on the device of the RoIs; indices are int64, into the R candidates."""

    # (S,) the survivors: first the H selected, grouped by image id ascending, in an image by loss descending.
    order: Tensor
    is_selected: Tensor  # (S,) bool: H times True, then False
    survivors: Tensor  # (S,) by loss descending over all images
    num_not_finite: Tensor  # () int64, number of infinite or NaN losses among the R

    @property
    def num_selected(self) -> Tensor:
        """() int64, H."""
        return self.is_selected.sum()


class HardRoIs(NamedTuple):
    """Result of `mine_hard_rois`."""

    rows: list[Tensor]  # per image (H_i,) int64, indices into the RoIs of the image, by loss descending
    num_survivors: int | None  # of NMS, in all images together; None: not counted
    measured: dict[str, float]  # the scalars of `measure`
    logged: dict[str, float] = {}  # those of the rule


@torch.no_grad()
def select_hard_rois(
    losses: Tensor,
    boxes: Tensor,
    image_ids: Tensor,
    num_per_image: int,
    nms_thresh: float | None = 0.7,
    class_ids: Tensor | None = None,
    *,
    num_images: int | None = None,
) -> Tensor:
    """Indices of the RoIs to train on: those of highest loss that are not duplicates of each other.

    Within each image, take the RoI of highest loss, drop the others whose IoU with it is above `nms_thresh`,
    repeat; then keep the `num_per_image` survivors of highest loss. Fewer survivors: all of them, no padding.
    Of equal losses the lower index comes first, so the same inputs select the same RoIs on every run.
    Source: Shrivastava, Gupta and Girshick, CVPR 2016, section 4.

    Args:
        losses: (R,) floating point, finite.
        boxes: (R, 4) floating point, XYXY_ABS in pixels of their image.
        image_ids: (R,) integer >= 0, in any order.
        num_per_image: budget of one image, >= 1 (b = B / N of the paper).
        nms_thresh: IoU in [0, 1] above which a RoI is a duplicate; None or 1: no de-duplication.
        class_ids: (R,) integer >= 0; only RoIs of equal class suppress each other (the authors' released
            code). None: RoIs of an image suppress each other whatever their class (the paper).
        num_images: pool the budget: select the `num_per_image` * `num_images` survivors of highest loss of
            the whole batch (the authors' released code). None: one budget per image.

    Returns:
        (H,) int64 indices into R, grouped by image id ascending, within an image by loss descending. Empty
        input: empty.

    Raises:
        ValueError: a shape, dtype or range that does not fit. Ids are not looked at, which would take a
            synchronisation.
        FloatingPointError: a non-finite loss; names the images.
    """
    ranked = rank_hard_rois(
        losses, boxes, image_ids, num_per_image, nms_thresh, class_ids, num_images=num_images
    )
    num_not_finite, num_selected = torch.stack([ranked.num_not_finite, ranked.num_selected]).tolist()
    _require_finite(num_not_finite, losses, image_ids)
    return ranked.order[:num_selected]


@torch.no_grad()
def mine_hard_rois(
    losses: Tensor,
    boxes: Tensor,
    num_rois: Sequence[int],
    num_per_image: int,
    nms_thresh: float | None = 0.7,
    class_ids: Tensor | None = None,
    *,
    pool_budget: bool = False,
    measure: Callable[[RankedRoIs], Mapping[str, Tensor]] = lambda ranked: {},
) -> HardRoIs:
    """`select_hard_rois` for a training loop, where the RoIs are concatenated image by image.

    After NMS, host and device are synchronised once: the sizes of the selection and the scalars of `measure`
    are copied together.

    Args:
        losses: (R,), see `select_hard_rois`; likewise `boxes`, `num_per_image`, `nms_thresh` and `class_ids`.
        boxes: (R, 4).
        num_rois: number of RoIs of each image, in order; their sum is R.
        num_per_image: budget of one image.
        nms_thresh: IoU above which a RoI is a duplicate.
        class_ids: (R,) or None.
        pool_budget: select the `num_per_image` * N hardest of all N images together.
        measure: a function from the ranking to named scalars on the device, such as figures to log. If NMS
            is repeated with more RoIs, it is called again, and the last result counts.

    Raises:
        ValueError: a shape, dtype or range that does not fit.
        FloatingPointError: a non-finite loss; names the images by their index.
    """
    if not num_rois or sum(num_rois) != losses.numel():
        raise ValueError(f"num_rois must be one number per image, of sum {losses.numel()}, got {num_rois}")
    image_ids = torch.cat([losses.new_full((n,), i, dtype=torch.long) for i, n in enumerate(num_rois)])
    num_images = len(num_rois)

    def rank(rows: Tensor | None) -> RankedRoIs:
        """Rank the RoIs of `rows`, or all."""
        pooled = num_images if pool_budget else None
        if rows is None:
            arguments = losses, boxes, image_ids, num_per_image, nms_thresh, class_ids
            return rank_hard_rois(*arguments, num_images=pooled)
        classes = None if class_ids is None else class_ids[rows]
        arguments = losses[rows], boxes[rows], image_ids[rows], num_per_image, nms_thresh, classes
        ranked = rank_hard_rois(*arguments, num_images=pooled)
        order, survivors = rows[ranked.order], rows[ranked.survivors]
        return RankedRoIs(order, ranked.is_selected, survivors, _count_not_finite(losses))

    # Of a pooled budget, any number of RoIs can go to one image.
    topk, has_nms = max(NMS_TOPK, 2 * num_per_image), nms_thresh is not None and nms_thresh < 1
    is_cut = max(num_rois) > topk and has_nms and not pool_budget
    read = partial(_read, losses=losses, image_ids=image_ids, num_rois=num_rois, measure=measure)
    hard = read(rank(_hardest_of_each_image(losses, num_rois, topk) if is_cut else None))
    if is_cut and any(n > topk and len(r) < num_per_image for n, r in zip(num_rois, hard.rows)):
        hard = read(rank(None))  # too few survive
    return hard


@torch.no_grad()
def mine_by_rule(
    rois: Candidates,
    budget: Budget,
    rule: Callable[..., Tensor | tuple[Tensor, Mapping[str, Tensor]]],
    measure: Callable[[RankedRoIs], Mapping[str, Tensor]] = lambda ranked: {},
) -> HardRoIs:
    """`mine_hard_rois` by another rule.

    After the rule, host and device are synchronised once.

    Args:
        rois: the candidates, of the class that the rule reads.
        budget: of an image.
        rule: one of `ohem_d2.mining.rules`, or of that form, with its parameters bound.
        measure: see `mine_hard_rois`.

    Returns:
        the selection; rows of an image are by loss descending, without losses by index.

    Raises:
        ValueError: a parameter or a mask of the rule that does not fit.
        FloatingPointError: a non-finite loss; names the images by their index.
    """
    mask, scalars = check_selection(rule(rois, budget), rois)
    losses = rois.losses if isinstance(rois, CandidatesWithLosses) else torch.zeros_like(rois.ious)
    order = torch.sort(losses, descending=True, stable=True).indices
    order = order[torch.sort(rois.image_ids[order], stable=True).indices]
    order = order[torch.sort((~mask[order]).byte(), stable=True).indices]
    ranked = RankedRoIs(order, mask[order], order, _count_not_finite(losses))
    own = {f"{_OF_RULE}{name}": value for name, value in scalars.items()}
    hard = _read(ranked, losses, rois.image_ids, rois.num_rois, lambda r: {**measure(r), **own})
    logged = {name: hard.measured.pop(key) for name, key in zip(scalars, own) if key in hard.measured}
    return HardRoIs(hard.rows, None, hard.measured, logged)


def check_selection(selection: Any, rois: Candidates) -> tuple[Tensor, dict[str, Tensor]]:
    """What a rule returned of `rois`: the mask, and the scalars on the device.

    Raises:
        ValueError: neither a mask (R,) bool, nor a pair of one and a mapping from names to numbers.
    """
    is_pair = isinstance(selection, tuple) and len(selection) == 2
    mask, scalars = selection if is_pair else (selection, {})
    is_mask = isinstance(mask, Tensor) and mask.shape == rois.labels.shape and mask.dtype == torch.bool
    if not is_mask or not isinstance(scalars, Mapping):
        got = f"a pair of {_describe(mask)} and {_describe(scalars)}" if is_pair else _describe(selection)
        valid = f"{tuple(rois.labels.shape)} bool, or a pair of it and a dict of scalars"
        raise ValueError(f"a rule must return {valid}, got {got}")
    as_scalar = partial(torch.as_tensor, dtype=torch.float32, device=mask.device)
    return mask, {name: as_scalar(value).reshape(()) for name, value in scalars.items()}


def _read(
    ranked: RankedRoIs,
    losses: Tensor,
    image_ids: Tensor,
    num_rois: Sequence[int],
    measure: Callable[[RankedRoIs], Mapping[str, Tensor]],
) -> HardRoIs:
    """Copy the sizes of a selection and the scalars of `measure` to the host, at once."""
    scalars = measure(ranked) if len(losses) else {}
    counts = image_ids.new_zeros(len(num_rois))
    counts.scatter_add_(0, image_ids[ranked.order], ranked.is_selected.long())
    on_device = [ranked.num_not_finite[None], counts]
    if scalars:
        on_device.append(torch.stack(list(scalars.values())))
    num_not_finite, *values = torch.cat(on_device).tolist()
    _require_finite(int(num_not_finite), losses, image_ids)
    sizes, measured = [int(n) for n in values[: len(num_rois)]], map(float, values[len(num_rois) :])
    selected, firsts = ranked.order[: sum(sizes)].split(sizes), accumulate(num_rois, initial=0)
    rows = [of_image - first for of_image, first in zip(selected, firsts)]
    return HardRoIs(rows, len(ranked.survivors), dict(zip(scalars, measured)))


@torch.no_grad()
def rank_hard_rois(
    losses: Tensor,
    boxes: Tensor,
    image_ids: Tensor,
    num_per_image: int,
    nms_thresh: float | None = 0.7,
    class_ids: Tensor | None = None,
    *,
    num_images: int | None = None,
) -> RankedRoIs:
    """`select_hard_rois` without copying the result to the host; non-finite losses are counted, not refused.

    On CUDA, only NMS synchronises host and device.
    """
    _check_arguments(losses, boxes, image_ids, num_per_image, nms_thresh, class_ids, num_images)
    image_ids, class_ids = image_ids.long(), None if class_ids is None else class_ids.long()
    if nms_thresh is None or nms_thresh == 1:
        survivors = torch.sort(losses, descending=True, stable=True).indices
    else:
        groups = image_ids if class_ids is None else _joint_ids(image_ids, class_ids)
        survivors = suppress_duplicates(losses, boxes, groups, nms_thresh)
    grouped = torch.sort(image_ids[survivors], stable=True).indices  # into the survivors
    if num_images is None:
        over_budget = _rank_in_image(image_ids[survivors[grouped]]) >= num_per_image
    else:
        over_budget = grouped >= num_per_image * num_images
    over_budget, in_budget_first = torch.sort(over_budget.byte(), stable=True)
    order = survivors[grouped[in_budget_first]]
    return RankedRoIs(order, over_budget == 0, survivors, _count_not_finite(losses))


def _count_not_finite(losses: Tensor) -> Tensor:
    return (~torch.isfinite(losses)).sum()


def _require_finite(num_not_finite: int, losses: Tensor, image_ids: Tensor) -> None:
    if num_not_finite:
        images = torch.unique(image_ids[~torch.isfinite(losses)]).tolist()
        raise FloatingPointError(
            f"{num_not_finite} of {len(losses)} losses are not finite, in image(s) {images} of the batch"
        )


def _hardest_of_each_image(losses: Tensor, num_rois: Sequence[int], topk: int) -> Tensor:
    """Rows of the `topk` highest losses of each image; of equal losses the lower row comes first."""
    firsts = accumulate(num_rois, initial=0)
    ranked = [torch.sort(x, descending=True, stable=True).indices for x in losses.split(list(num_rois))]
    return torch.cat([first + rows[:topk] for first, rows in zip(firsts, ranked)])


def _joint_ids(image_ids: Tensor, class_ids: Tensor) -> Tensor:
    """One id per pair of image and class."""
    num_classes = class_ids.max() + 1 if class_ids.numel() > 0 else 1
    return image_ids * num_classes + class_ids


def _rank_in_image(grouped_ids: Tensor) -> Tensor:
    """0, 1, 2, ... for each run of equal ids; `grouped_ids` is sorted."""
    places = torch.arange(len(grouped_ids), device=grouped_ids.device)
    return places - torch.searchsorted(grouped_ids, grouped_ids)


def _check_arguments(
    losses: Tensor,
    boxes: Tensor,
    image_ids: Tensor,
    num_per_image: int,
    nms_thresh: float | None,
    class_ids: Tensor | None,
    num_images: int | None,
) -> None:
    num_rois = losses.shape[0] if losses.dim() == 1 else None
    if num_rois is None or not losses.is_floating_point():
        raise ValueError(f"losses must be (R,) floating point, got {_describe(losses)}")
    if boxes.shape != (num_rois, 4) or not boxes.is_floating_point():
        raise ValueError(f"boxes must be ({num_rois}, 4) floating point, got {_describe(boxes)}")
    for name, ids in (("image_ids", image_ids), ("class_ids", class_ids)):
        if ids is not None and (
            ids.shape != (num_rois,) or ids.is_floating_point() or ids.dtype == torch.bool
        ):
            raise ValueError(f"{name} must be ({num_rois},) integer, got {_describe(ids)}")
    for name, number in (("num_per_image", num_per_image), ("num_images", num_images)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{name} must be an integer >= 1, got {number!r}")
    if nms_thresh is not None and not 0 <= nms_thresh <= 1:
        raise ValueError(f"nms_thresh must be None or in [0, 1], got {nms_thresh!r}")


def _describe(value: Any) -> str:
    is_tensor = isinstance(value, Tensor)
    return f"{tuple(value.shape)} {value.dtype}" if is_tensor else type(value).__name__
