"""Third-party proposal formats; the first that matches a file reads it."""

from .base import Entry, Format, RawProposals
from .coco_json import COCO_JSON
from .matlab import MATLAB
from .npz import NPZ
from .pickles import DETECTRON2, MMDETECTION, write_detectron2

__all__ = ["FORMATS", "Entry", "Format", "RawProposals", "write_detectron2"]

FORMATS: dict[str, Format] = {form.name: form for form in (MATLAB, NPZ, COCO_JSON, DETECTRON2, MMDETECTION)}
