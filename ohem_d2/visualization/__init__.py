"""Boxes drawn on images, and charts of proposal files and of training."""

from .annotated import annotated_files, draw_detections
from .loss_charts import plot_roi_losses
from .pictures import class_colours, draw_boxes, tile
from .proposal_charts import plot_inspections

__all__ = [
    "annotated_files",
    "class_colours",
    "draw_boxes",
    "draw_detections",
    "plot_inspections",
    "plot_roi_losses",
    "tile",
]
