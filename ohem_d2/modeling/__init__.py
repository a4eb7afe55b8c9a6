"""Detectron2 glue: RoI heads that train on hard examples."""
from .candidates import inspect_candidates
from .mixin import OHEMMixin
from .roi_heads import OHEMCascadeROIHeads, OHEMRes5ROIHeads, OHEMROIHeads
from .roi_losses import roi_losses

__all__ = ["OHEMCascadeROIHeads", "OHEMMixin", "OHEMRes5ROIHeads", "OHEMROIHeads", "inspect_candidates", "roi_losses"]
