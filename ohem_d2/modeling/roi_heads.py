"""Detectron2's three families of RoI heads, mined."""

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, Res5ROIHeads, StandardROIHeads

from .mixin import OHEMMixin


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(OHEMMixin, StandardROIHeads):
    """Fast, Faster, Mask and Keypoint R-CNN with a separate box head (FPN, DC5, VGG)."""


@ROI_HEADS_REGISTRY.register()
class OHEMRes5ROIHeads(OHEMMixin, Res5ROIHeads):
    """R-CNNs on C4 features, whose box head is the fifth stage of the ResNet."""


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(OHEMMixin, CascadeROIHeads):
    """Cascade R-CNN.

    The loss of a RoI is the sum of its losses in all stages. RoIs are selected once, for all stages: a later
    stage runs on the regressed boxes of the stage before, so with a selection per stage it would train on
    boxes of RoIs that the earlier stages do not train on.
    """
