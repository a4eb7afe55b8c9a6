"""Faster R-CNN R50-FPN on COCO, mined: Detectron2's own config with other RoI heads."""

from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config

from ohem_d2 import OHEMOptions, OHEMROIHeads

dataloader = get_config("common/data/coco.py").dataloader
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
model = get_config("common/models/mask_rcnn_fpn.py").model
optimizer = get_config("common/optim.py").SGD
train = get_config("common/train.py").train

model.roi_heads._target_ = OHEMROIHeads
model.roi_heads.ohem = L(OHEMOptions)(nms_thresh=0.7)
model.roi_heads.batch_size_per_image = 128
for key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(key)

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.seed = 0
