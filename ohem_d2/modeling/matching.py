"""Labels of boxes by Detectron2's matcher, without a synchronisation of host and device."""

import torch
from detectron2.modeling.matcher import Matcher
from torch import Tensor


def match_labels(matcher: Matcher, ious: Tensor, best: Tensor) -> Tensor:
    """The labels that a matcher gives.

    For Detectron2's own class they are computed here, without its assertion on `ious`, which synchronises
    host and device.

    Args:
        matcher: of RoI heads.
        ious: (objects, R).
        best: (R,) the highest of each column.

    Returns:
        (R,) int8: 1 object, 0 background, -1 ignore.
    """
    if type(matcher) is not Matcher or matcher.allow_low_quality_matches:
        return matcher(ious)[1]
    labels = torch.ones_like(best, dtype=torch.int8)
    for label, low, high in zip(matcher.labels, matcher.thresholds[:-1], matcher.thresholds[1:]):
        labels = torch.where((best >= low) & (best < high), label, labels)
    return labels
