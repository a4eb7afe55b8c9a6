"""The mapper that hands on ignore regions: annotations with ``iscrowd``, which Detectron2's deletes."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, BoxMode

from ..config import IgnoreRegionsOptions
from ..utils.images import require_readable
from ..utils.regions import TargetsWithRegions

__all__ = ["RegionDatasetMapper"]


class RegionDatasetMapper(DatasetMapper):
    """Detectron2's mapper, which hands on the ignore regions of an image: its annotations with ``iscrowd`` 1.

    Their boxes are transformed and clipped as those of objects (a rotated box becomes the upright one around
    it), and ``instances`` is a `TargetsWithRegions`. The objects and the random state are Detectron2's. In
    Python configs it takes the place of ``DatasetMapper``.
    """

    @configurable
    def __init__(self, *args: Any, keep_regions: bool = True, **kwargs: Any) -> None:
        """Extend `DatasetMapper`, whose arguments come first.

        Args:
            keep_regions: False: the regions are deleted, as by Detectron2.
            *args: of `DatasetMapper`.
            **kwargs: of `DatasetMapper`.
        """
        super().__init__(*args, **kwargs)
        self.keep_regions = keep_regions

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        options = IgnoreRegionsOptions.from_config(cfg)
        return {**super().from_config(cfg, is_train), "keep_regions": options.enabled}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As Detectron2's; an image that cannot be read is an `UnreadableImageError`."""
        try:
            return super().__call__(dataset_dict)
        except Exception:
            require_readable(dataset_dict["file_name"], self.image_format)
            raise

    def _transform_annotations(self, dataset_dict, transforms, image_shape) -> None:
        regions = [a for a in dataset_dict["annotations"] if a.get("iscrowd", 0)]
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if self.keep_regions:
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in regions]
            boxes = transforms.apply_box(np.array(boxes, np.float64).reshape(-1, 4))
            boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
            boxes.clip(image_shape)
            objects = dataset_dict["instances"]
            dataset_dict["instances"] = TargetsWithRegions(
                image_shape, boxes[boxes.nonempty()], **objects.get_fields()
            )
