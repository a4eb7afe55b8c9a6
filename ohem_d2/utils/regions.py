"""Objects of an image together with its ignore regions: what the mapper makes and the heads read."""

from typing import Any

import torch
from detectron2.structures import Boxes, Instances


class TargetsWithRegions(Instances):
    """The objects of an image, and ``ignore_regions``: `Boxes` (M, 4) XYXY_ABS, M >= 0.

    Fields of `Instances` have one element per object, so the regions are an attribute. It goes along to
    another device, unless it is empty, and with a selection of the objects.
    """

    def __init__(self, image_size: tuple[int, int], ignore_regions: Boxes, **fields: Any):
        super().__init__(image_size, **fields)
        self._ignore_regions = ignore_regions

    @property
    def ignore_regions(self) -> Boxes:
        return self._ignore_regions

    def to(self, *args: Any, **kwargs: Any) -> "TargetsWithRegions":
        regions = self._ignore_regions
        # No regions are not copied: that would synchronise host and device for nothing.
        regions = regions.to(*args, **kwargs) if len(regions) else regions
        return self._with(super().to(*args, **kwargs), regions)

    def __getitem__(self, item: Any) -> "TargetsWithRegions":
        return self._with(super().__getitem__(item), self._ignore_regions)

    @staticmethod
    def _with(objects: Instances, regions: Boxes) -> "TargetsWithRegions":
        return TargetsWithRegions(objects.image_size, regions, **objects.get_fields())


def regions_of(targets: Instances) -> Boxes:
    """The ignore regions of an image: `Boxes` (M, 4); none where `targets` carry none."""
    return targets.ignore_regions if isinstance(targets, TargetsWithRegions) else Boxes(torch.zeros(0, 4))
