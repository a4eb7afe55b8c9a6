"""Dataset dicts of registered data sets, and which images without objects are among them."""

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, get_detection_dataset_dicts

from .boxes import with_valid_boxes
from .registered import is_background, require_registered

__all__ = ["load_dataset_dicts"]

logger = logging.getLogger(__name__)

_KEEP = (
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS False (in a Python config, filter_empty=False) trains on them as "
    "background"
)


def load_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, min_keypoints: int = 0, **kwargs: Any
) -> list[dict[str, Any]]:
    """Detectron2's ``get_detection_dataset_dicts`` with boxes that can be trained on, and with background.

    The images of data sets of background (``format: images`` of a catalogue) come last. They are kept, as
    they were listed to train without objects; `filter_empty` and `min_keypoints` are for the labelled ones.

    Args:
        names: of data sets.
        filter_empty: leave out labelled images without objects, crowds not counted; a line in the log says
            how many.
        min_keypoints: leave out labelled images with fewer visible keypoints.
        **kwargs: of Detectron2's function.

    Raises:
        ValueError: a data set is not registered, or no image is left; see also `with_valid_boxes`.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        require_registered(name)
    labelled = [name for name in names if not is_background(name)]
    dicts: list[dict[str, Any]] = []
    if labelled:
        options = {"filter_empty": False, "min_keypoints": min_keypoints, **kwargs}
        found = get_detection_dataset_dicts(labelled, **options)
        if not isinstance(found, list):  # map-style data sets, joined
            return found
        dicts = with_valid_boxes(found, ", ".join(labelled))
    if filter_empty:
        dicts = _with_objects(dicts, ", ".join(labelled))
    background = [record for name in names if is_background(name) for record in DatasetCatalog.get(name)]
    if not dicts and not background:
        raise ValueError(f"{', '.join(names)}: no image has an object; {_KEEP}")
    return dicts + background


def _with_objects(dicts: list[dict[str, Any]], names: str) -> list[dict[str, Any]]:
    """Those with an annotation that is no crowd, and those that know of no annotations."""
    kept = [r for r in dicts if "annotations" not in r or any(not a.get("iscrowd") for a in r["annotations"])]
    if len(kept) < len(dicts):
        left_out = len(dicts) - len(kept)
        logger.info(
            "%s: %d of %d images have no object and are left out; %s", names, left_out, len(dicts), _KEEP
        )
    return kept
