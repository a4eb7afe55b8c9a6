"""Detectron2's three families of RoI heads, mined."""

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, Res5ROIHeads, StandardROIHeads

from .mixin import OHEMMixin


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(OHEMMixin, StandardROIHeads):
    """Fast, Faster, Mask and Keypoint R-CNN with a box head of its own (FPN, DC5, VGG)."""


@ROI_HEADS_REGISTRY.register()
class OHEMRes5ROIHeads(OHEMMixin, Res5ROIHeads):
    """R-CNNs on C4 features, whose RoIs run through the fifth stage of the ResNet."""


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(OHEMMixin, CascadeROIHeads):
    """Cascade R-CNN.

    The loss of a RoI is the sum over the stages of what the cascade would incur for it. It is selected once and
    trained through all stages: a later stage sees only what the stages before it made of a RoI, so that a
    selection of its own would train it on boxes that no stage before it was trained to deliver.
    """
