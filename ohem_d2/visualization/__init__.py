"""Boxes drawn on images, and charts of proposal files and of training."""

from .loss_charts import plot_roi_losses
from .pictures import class_colours, draw_boxes, tile
from .proposal_charts import plot_inspections

__all__ = ["class_colours", "draw_boxes", "plot_inspections", "plot_roi_losses", "tile"]
