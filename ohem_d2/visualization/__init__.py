"""Boxes drawn on images, and charts of proposal files."""

from .pictures import draw_boxes, tile
from .proposal_charts import plot_inspections

__all__ = ["draw_boxes", "plot_inspections", "tile"]
