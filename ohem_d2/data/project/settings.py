"""Configs that fit a data set; each choice has its reason beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .statistics import Statistics

__all__ = ["BASES", "ProjectData", "cpu_config", "gpu_config"]

# Network of torchvision whose weights are given -> config of the small model on its features.
BASES = {
    "resnet18": "Base-FasterRCNN-small-ResNet18.yaml",
    "squeezenet1_0": "Base-FasterRCNN-small-SqueezeNet.yaml",
}

_FROM_SCRATCH = """\
# Made by tools/new_project.py for {folder}:
# a small Fast R-CNN on proposals of Selective Search, trained from scratch in minutes on two CPU cores.
# Without ImageNet features an RPN learns slowly: on the drawn images of datasets/prepare_demo.py, with equal
# settings, Fast R-CNN reaches an AP of 41 in 1,000 iterations, Faster R-CNN one of 29 (one run each).
_BASE_: ["{configs}/Base-FastRCNN-small.yaml", "{configs}/sampling/ohem.yaml"]
MODEL:
"""
_ON_FEATURES = """\
# Made by tools/new_project.py for {folder}:
# a small Faster R-CNN on ImageNet features of {network}, trained in minutes on two CPU cores.
_BASE_: ["{configs}/{base}", "{configs}/sampling/ohem.yaml"]
MODEL:
  WEIGHTS: "{weights}"
  ANCHOR_GENERATOR:
    # From 10% to 90% of the sizes of objects, in pixels of the resized image.
    SIZES: [{anchors}]
"""
_GPU = """\
# Made by tools/new_project.py for {folder}:
# Faster R-CNN, ResNet-50 with FPN, for a GPU. Detectron2 downloads its ImageNet weights.
_BASE_: "{configs}/COCO-Detection/faster_rcnn_R_50_FPN_1x_ohem.yaml"
MODEL:
"""
_COMMON = """\
  ROI_HEADS:
    NUM_CLASSES: {num_classes}
    # The budget b: one image in ten has {crowded:.0f} objects or more. Taking 3 foreground RoIs for each that
    # are no duplicates, b is twice those or more, and at least 64, lest background is not trained.
    BATCH_SIZE_PER_IMAGE: {budget}
DATASETS:
  CATALOG: ["{project}/catalog.yaml"]
  TRAIN: ["{train}"]
  TEST: ["{test}"]
INPUT:
  # The short side. At {side}, 9 in 10 objects of each class have {pixels:.0f} pixels a side or more.
  # {bounds}
  MIN_SIZE_TRAIN: {train_sides}
  MIN_SIZE_TEST: {side}
  # {aspect:.2f} times that: 19 in 20 images are no longer.
  MAX_SIZE_TRAIN: {longest}
  MAX_SIZE_TEST: {longest}
SOLVER:
  IMS_PER_BATCH: {batch}
  # {epochs:.1f} passes over {num_train} images{limits}.
  MAX_ITER: {iterations}
  STEPS: {steps}
  WARMUP_ITERS: {warmup}
  CHECKPOINT_PERIOD: {period}
{rate}{empty}OUTPUT_DIR: "{project}/{output}"
"""
_IGNORES = """\
  # Objects marked difficult and crowds are in the data: what lies in them is neither object nor background.
  IGNORE_REGIONS:
    ENABLED: True
"""
# An RPN that can ignore, too, with Detectron2's own sample of anchors.
_RPN_IGNORES = """\
  PROPOSAL_GENERATOR:
    NAME: OHEMRPN
  OHEM:
    RPN:
      ENABLED: False
"""
_WITHOUT_OBJECTS = """\
DATALOADER:
  # {number} training images have no objects: they are background. True leaves them out.
  FILTER_EMPTY_ANNOTATIONS: False
"""
_GPU_RATE = """\
  # 0.02 for 16 images, in proportion.
  BASE_LR: 0.005
"""


@dataclass(frozen=True)
class ProjectData:
    """What the configs are fitted to.

    `train` and `test` are registered names, `statistics` of training; `ignores`: it has regions to ignore;
    `num_empty`: images without objects.
    """

    folder: Path
    project: Path
    num_classes: int
    train: str
    test: str
    statistics: Statistics
    ignores: bool = False
    num_empty: int = 0


def cpu_config(data: ProjectData, configs: Path, network: str = "") -> str:
    """YAML of a small model: Faster R-CNN on ImageNet features of `network`, a key of `BASES`, or Fast R-CNN.

    `configs` is the folder of this project's configs.
    """
    side = _side(data.statistics, 24, 240, 400)
    if network:
        weights, anchors = data.project / "weights.pth", _anchors(data.statistics, side)
        on_features = {"network": network, "base": BASES[network], "weights": weights, "anchors": anchors}
        head = _ON_FEATURES.format(folder=data.folder, configs=configs, **on_features)
    else:
        head = _FROM_SCRATCH.format(folder=data.folder, configs=configs)
    head += _ignoring(data, rpn=bool(network))
    schedule = _schedule(len(data.statistics.boxes_per_image), 2, 10, (300, 1000), 100)
    bounds = "For objects of 24 pixels (three cells of the features); 240 to 400, at most twice the image."
    return head + _common(data, side, [side], bounds, schedule, "", "output")


def gpu_config(data: ProjectData, configs: Path) -> str:
    """YAML of a Faster R-CNN with ResNet-50 and FPN; `configs` as in `cpu_config`."""
    side = _side(data.statistics, 32, 480, 1200)
    sides = [round(side * share / 16) * 16 for share in (0.8, 0.9, 1)]
    head = _GPU.format(folder=data.folder, configs=configs) + _ignoring(data, rpn=True)
    schedule = _schedule(len(data.statistics.boxes_per_image), 4, 30, (1000, 90000), 1000)
    bounds = "For objects of 32 pixels (the smallest anchor); 480 to 1200, at most twice the image."
    return head + _common(data, side, sides, bounds, schedule, _GPU_RATE, "output_gpu")


def _ignoring(data: ProjectData, rpn: bool) -> str:
    return _IGNORES + _RPN_IGNORES * rpn if data.ignores else ""


def _common(
    data: ProjectData,
    side: int,
    sides: list[int],
    bounds: str,
    schedule: dict[str, Any],
    rate: str,
    output: str,
) -> str:
    statistics = data.statistics
    crowded, aspect = np.percentile(statistics.boxes_per_image, 90), np.percentile(statistics.aspects, 95)
    return _COMMON.format(
        num_classes=data.num_classes,
        crowded=crowded,
        budget=_budget(crowded),
        project=data.project,
        train=data.train,
        test=data.test,
        pixels=statistics.small_object * side,
        side=side,
        bounds=bounds,
        train_sides=sides,
        aspect=aspect,
        longest=int(np.ceil(side * aspect)),
        num_train=len(statistics.boxes_per_image),
        rate=rate,
        empty=_WITHOUT_OBJECTS.format(number=data.num_empty) if data.num_empty else "",
        output=output,
        **schedule,
    )


def _side(statistics: Statistics, pixels: int, lowest: int, highest: int) -> int:
    """Short side of the resized image at which the small objects of each class have `pixels` a side.

    Within bounds; an image is enlarged to twice its size at most.
    """
    side = np.clip(pixels / statistics.small_object, lowest, highest)
    return max(16, round(min(side, 2 * np.median(statistics.short_sides)) / 16) * 16)


def _anchors(statistics: Statistics, side: int) -> list[int]:
    """Four sizes in equal ratios over the middle 80% of the objects, over a factor of 4 at least."""
    low, high = np.percentile(statistics.object_sizes, [10, 90]) * side
    middle, half = np.sqrt(low * high), max(2.0, np.sqrt(high / low))
    return [max(8, round(size)) for size in np.geomspace(middle / half, middle * half, 4)]


def _budget(crowded: float) -> int:
    """A power of two that is at least 6 for each object of a crowded image, from 64 to 512."""
    return int(np.clip(2 ** np.ceil(np.log2(max(6 * crowded, 1))), 64, 512))


def _schedule(
    num_images: int, batch: int, epochs: int, bounds: tuple[int, int], warmup: int
) -> dict[str, Any]:
    iterations = int(np.clip(round(epochs * num_images / batch, -1), *bounds))
    return {
        "batch": batch,
        "epochs": iterations * batch / num_images,
        "limits": f", within {bounds[0]} and {bounds[1]} iterations",
        "iterations": iterations,
        "steps": [iterations * 3 // 4],
        "warmup": min(warmup, iterations // 5),
        "period": max(100, iterations // 4),
    }
