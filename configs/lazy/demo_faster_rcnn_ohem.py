"""A Faster R-CNN for the demo data (datasets/prepare_demo.py), which a CPU trains in about a minute."""

from detectron2.layers import ShapeSpec

from ohem_d2.evaluation import build_evaluator

from .faster_rcnn_R_50_FPN_ohem import L, dataloader, lr_multiplier, model, optimizer, train

# ResNet-18, FPN of 32 channels, from scratch.
model.backbone.bottom_up.stages.update(depth=18, norm="BN")
model.backbone.bottom_up.stages.pop("stride_in_1x1")
model.backbone.bottom_up.stem.norm = "BN"
model.backbone.out_channels = model.proposal_generator.head.in_channels = 32
model.proposal_generator.update(pre_nms_topk=(500, 200), post_nms_topk=(200, 100))
model.proposal_generator.anchor_generator.sizes = [[16], [24], [32], [48], [64]]
model.roi_heads.update(num_classes=5, batch_size_per_image=32)
model.roi_heads.box_head.update(input_shape=ShapeSpec(channels=32, height=7, width=7), fc_dims=[128])
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=128)
model.pixel_std = [57.4, 57.1, 58.4]

dataloader.catalogs = ["datasets/demo/catalog.yaml"]
dataloader.train.dataset.names = "demo_train"
dataloader.train.mapper.augmentations[0].update(short_edge_length=(160,), max_size=200)
dataloader.train.update(total_batch_size=2, num_workers=0)
dataloader.test.dataset.names = "demo_test"
dataloader.test.mapper.augmentations[0].update(short_edge_length=160, max_size=200)
dataloader.test.num_workers = 0
dataloader.evaluator = L(build_evaluator)(
    dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
)

optimizer.lr = 0.01
lr_multiplier.warmup_length = 0.1
train.update(init_checkpoint="", max_iter=100, eval_period=100, device="cpu")
train.checkpointer.period = 50
