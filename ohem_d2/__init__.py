"""Online hard example mining (Shrivastava, Gupta and Girshick, CVPR 2016) for Detectron2.

Importing the package registers its RoI heads, proposal network and one-stage detector with Detectron2, and the data
sets of the paper that Detectron2 lacks.
"""
__version__ = "0.1.0"

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "ohem_d2 needs Detectron2, which the package index does not have under that name: run "
        "`python tools/install_detectron2.py` of this project, or build it from https://github.com/facebookresearch/detectron2."
    ) from error

from .config import OHEMOptions, OHEMRetinaNetOptions, OHEMRPNOptions, add_ohem_config
from .data.builtin import register_builtin
from .modeling import (
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMRetinaNet,
    OHEMRetinaNetMixin,
    OHEMROIHeads,
    OHEMRPN,
    OHEMRPNMixin,
    roi_losses,
)

register_builtin()

__all__ = [
    "OHEMCascadeROIHeads",
    "OHEMMixin",
    "OHEMOptions",
    "OHEMRPN",
    "OHEMRPNMixin",
    "OHEMRPNOptions",
    "OHEMRes5ROIHeads",
    "OHEMROIHeads",
    "OHEMRetinaNet",
    "OHEMRetinaNetMixin",
    "OHEMRetinaNetOptions",
    "add_ohem_config",
    "roi_losses",
]
