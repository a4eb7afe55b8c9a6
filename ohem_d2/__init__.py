"""Online hard example mining (Shrivastava, Gupta and Girshick, CVPR 2016) for Detectron2.

Importing the package registers its RoI heads with Detectron2.
"""
try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "ohem_d2 needs Detectron2, which the package index does not have under that name: run "
        "`python tools/install_detectron2.py` of this project, or build it from https://github.com/facebookresearch/detectron2."
    ) from error

from .config import OHEMOptions, add_ohem_config
from .modeling import OHEMCascadeROIHeads, OHEMMixin, OHEMRes5ROIHeads, OHEMROIHeads, roi_losses

__version__ = "0.1.0"

__all__ = [
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMOptions",
    "OHEMRes5ROIHeads",
    "OHEMROIHeads",
    "add_ohem_config",
    "roi_losses",
]
