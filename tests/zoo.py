"""The R-CNN configs of the installed Detectron2's model zoo, made tiny, and inputs that fit them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from ohem_d2 import add_ohem_config
from ohem_d2.utils.regions import TargetsWithRegions

FOLDER = Path(model_zoo.__file__).parent / "configs"
MINED = {
    "StandardROIHeads": "OHEMROIHeads",
    "Res5ROIHeads": "OHEMRes5ROIHeads",
    "CascadeROIHeads": "OHEMCascadeROIHeads",
}
# 32 channels everywhere, which GroupNorm's 32 groups divide.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_STD": [57.4, 57.1, 58.4],
    "MODEL.RESNETS.DEPTH": 50,  # numbers grow with each random layer under frozen BatchNorm
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (32, 32),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "TEST.AUG.MIN_SIZES": (64, 96),
}
HEIGHT, WIDTH = 64, 96
LEFT = (0, 0, WIDTH / 2, HEIGHT)  # an ignore region


@cache
def zoo_configs() -> dict[str, CfgNode]:
    """The config of every model with RoI heads, by its path in the zoo, without quick schedules."""
    files = [file for file in sorted(FOLDER.glob("*/*.yaml")) if not file.name.startswith("Base-")]
    names = [str(file.relative_to(FOLDER)) for file in files if file.parent.name != "quick_schedules"]
    configs = {name: read_zoo_config(name) for name in names}
    return {
        n: c for n, c in configs.items() if c.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "PanopticFPN")
    }


def read_zoo_config(name: str) -> CfgNode:
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(str(FOLDER / name), allow_unsafe=True)  # some have Python tuples
    return cfg


def family(cfg: CfgNode) -> tuple[Any, ...]:
    """What the code that a config runs depends on."""
    model = cfg.MODEL
    return (model.META_ARCHITECTURE, model.PROPOSAL_GENERATOR.NAME, model.BACKBONE.NAME, model.ROI_HEADS.NAME,
            model.MASK_ON, model.KEYPOINT_ON, model.RESNETS.RES5_DILATION)  # fmt: skip


def mined_tiny_cfg(name: str) -> CfgNode:
    """A config of the zoo with mined heads and little to compute."""
    cfg = zoo_configs()[name].clone()
    cfg.MODEL.ROI_HEADS.NAME = MINED[cfg.MODEL.ROI_HEADS.NAME]
    make_tiny(cfg)
    return cfg


def make_tiny(cfg: CfgNode) -> None:
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32 // cfg.MODEL.RESNETS.NUM_GROUPS
    cfg.merge_from_list([part for pair in TINY.items() for part in pair])


def needs_compiled_op(cfg: CfgNode) -> bool:
    """Whether training needs the compiled deformable convolution, which runs on CUDA alone."""
    return any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE)


def make_batch(cfg: CfgNode, num_images: int = 2, regions: Sequence = (LEFT,)) -> list[dict[str, Any]]:
    """Training inputs with all targets that a model of `cfg` asks for: three objects in each image.

    With ``MODEL.IGNORE_REGIONS.ENABLED`` each image has `regions`.
    """
    batch = [_make_input(cfg, torch.Generator().manual_seed(i)) for i in range(num_images)]
    if cfg.MODEL.get("IGNORE_REGIONS", {}).get("ENABLED"):
        for record in batch:
            fields = record["instances"].get_fields()
            boxes = Boxes(torch.tensor(regions, dtype=torch.float32).reshape(-1, 4))
            record["instances"] = TargetsWithRegions((HEIGHT, WIDTH), boxes, **fields)
    return batch


def _make_input(cfg: CfgNode, g: torch.Generator) -> dict[str, Any]:
    corners = torch.rand(3, 2, generator=g) * 30
    boxes = torch.cat([corners, corners + 20 + torch.rand(3, 2, generator=g) * 14], dim=1)
    record = {"image": torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=g, dtype=torch.uint8)}
    record["instances"] = _make_objects(cfg, boxes, g)
    if cfg.MODEL.LOAD_PROPOSALS:
        near = Boxes(boxes.repeat(8, 1) + torch.rand(24, 4, generator=g) * 12 - 6)
        near.clip((HEIGHT, WIDTH))
        record["proposals"] = Instances(
            (HEIGHT, WIDTH), proposal_boxes=near, objectness_logits=torch.zeros(24)
        )
    if cfg.MODEL.META_ARCHITECTURE == "PanopticFPN":
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        record["sem_seg"] = torch.randint(0, classes, (HEIGHT, WIDTH), generator=g)
    return record


def _make_objects(cfg: CfgNode, boxes: torch.Tensor, g: torch.Generator) -> Instances:
    objects = Instances((HEIGHT, WIDTH), gt_boxes=Boxes(boxes))
    objects.gt_classes = torch.arange(3) % cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if cfg.MODEL.MASK_ON:
        polygons = PolygonMasks([[b[[0, 1, 2, 1, 2, 3, 0, 3]].numpy()] for b in boxes])
        as_bits = cfg.INPUT.MASK_FORMAT == "bitmask"
        objects.gt_masks = BitMasks.from_polygon_masks(polygons, HEIGHT, WIDTH) if as_bits else polygons
    if cfg.MODEL.KEYPOINT_ON:
        places = torch.rand(3, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 2, generator=g)
        xy = boxes[:, None, :2] + places * (boxes[:, None, 2:] - boxes[:, None, :2])
        objects.gt_keypoints = Keypoints(torch.cat([xy, torch.full_like(xy[..., :1], 2)], dim=2))
    return objects
