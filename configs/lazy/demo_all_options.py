"""As demo_faster_rcnn_ohem.py, with all that a YAML config can set of training and testing.

Every value can be overridden: ``test.box_voting.enabled=False train.accumulate=1``.
"""

from ohem_d2.config import BoxVotingOptions, MultiScaleOptions, RoILossOptions, SoftNMSOptions

from .demo_faster_rcnn_ohem import L, dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

train.accumulate = 2  # batches per iteration
train.roi_loss = L(RoILossOptions)(period=50, num_images=16)

dataloader.evaluator.evaluators = ["voc07", "voc12", "coco"]
test = dict(
    aug=L(MultiScaleOptions)(
        enabled=True, min_sizes=[128, 160, 192], max_size=256, reference_size=160, combine="candidates"
    ),
    box_voting=L(BoxVotingOptions)(enabled=True),
    soft_nms=L(SoftNMSOptions)(enabled=False, sigma=0.5),
)
