"""Pictures of what was mined and detected, and charts of proposals."""

from .pictures import draw_boxes, tile
from .proposal_charts import plot_inspections

__all__ = ["draw_boxes", "plot_inspections", "tile"]
