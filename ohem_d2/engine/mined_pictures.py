"""Pictures of what is mined, while a model trains."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine.hooks import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from ..config import OHEMOptions
from ..modeling import inspect_candidates
from ..modeling.inspection import dropped_duplicates, mine_inspected
from ..visualization.mined import RoIBoxes, draw_mined

__all__ = ["NUM_IMAGES", "MinedPictures"]

NUM_IMAGES = 4
# RoIs that are drawn of an image, and the width of a picture at least, so that texts fit in.
_NUM_ROIS, _MIN_WIDTH = 12, 480


class MinedPictures(HookBase):
    """Puts pictures of the hardest RoIs of some training images into the event storage, for TensorBoard.

    Of each image the hardest that would be mined, without augmentation, and dashed the duplicates of them
    that NMS drops. Drawn alike for mined and plain heads, in eval mode, by the main process. Training is not
    affected.
    """

    def __init__(
        self,
        options: OHEMOptions,
        class_names: Iterable[str],
        build_loader: Callable[[], Iterable[list[dict]]],
    ):
        """Draw every `options.vis_period` iterations.

        Args:
            options: how is mined.
            class_names: in the order of their labels; empty: labels are numbers.
            build_loader: of the training images, which the main process alone builds.
        """
        self._options = options
        self._names = list(class_names)
        self._loader = build_loader() if comm.is_main_process() else ()

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._options.vis_period:
            return
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its processes
            for x in (x for batch in self._loader for x in batch):
                picture = self._draw(x)
                self.trainer.storage.put_image(f"mined/{x['image_id']}", picture.transpose(2, 0, 1))

    def _draw(self, x: dict) -> np.ndarray:
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        if not isinstance(model, GeneralizedRCNN):
            raise TypeError(
                f"MODEL.OHEM.VIS_PERIOD draws RoIs of a GeneralizedRCNN, not {type(model).__name__}"
            )
        model.eval()
        try:
            inspected = inspect_candidates(model, [x], self._options)
        finally:
            model.train()
        heads = model.roi_heads
        names = self._names or [str(label) for label in range(heads.num_classes)]
        budget = heads.batch_size_per_image
        settings = {
            "progress": (self.trainer.iter + 1) / self.trainer.max_iter,
            "generator": torch.Generator(model.device).manual_seed(0),  # not that of the training
        }
        share = heads.positive_fraction
        mined = mine_inspected(inspected, self._options, budget, share, heads.num_classes, **settings)
        hard = mined.rows[0].to("cpu")
        candidates = inspected[0].to("cpu")
        dropped, of = dropped_duplicates(candidates, hard, self._options, budget)
        hard = hard[:_NUM_ROIS]
        image, zoom = _enlarged(convert_image_to_rgb(x["image"].permute(1, 2, 0), model.input_format))
        shown = (hard, dropped[torch.isin(of, hard)])
        return draw_mined(image, *(_boxes(candidates[rows], zoom) for rows in shown), names, _NUM_ROIS)


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """An image (H, W, 3) uint8 that is at least `_MIN_WIDTH` wide, and how many times as large it is now."""
    zoom = math.ceil(_MIN_WIDTH / image.shape[1])
    return np.asarray(Image.fromarray(image).resize([zoom * side for side in image.shape[1::-1]])), zoom


def _boxes(rois: Instances, zoom: int) -> RoIBoxes:
    losses = rois.cls_losses.tolist(), rois.box_losses.tolist()
    return RoIBoxes(rois.proposal_boxes.tensor.numpy() * zoom, rois.gt_classes.tolist(), *losses)
