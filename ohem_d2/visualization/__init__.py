"""Pictures of what was mined and detected."""
from .pictures import draw_boxes, tile

__all__ = ["draw_boxes", "tile"]
