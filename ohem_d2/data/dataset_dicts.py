"""Dataset dicts of registered data sets, and which images without objects are among them."""

import logging
from collections.abc import Sequence
from typing import Any

from detectron2.data import DatasetCatalog, get_detection_dataset_dicts
from torch.utils.data import ConcatDataset, Dataset

from ..utils.messages import one_line
from .boxes import with_valid_boxes
from .registered import annotation_file, is_background, missing_files_explained, require_registered

__all__ = ["load_dataset_dicts", "require_objects"]

logger = logging.getLogger(__name__)

_KEEP = (
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS False (in a Python config, filter_empty=False) trains on them as "
    "background"
)


def load_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, min_keypoints: int = 0, **kwargs: Any
) -> list[dict[str, Any]] | Dataset:
    """Detectron2's ``get_detection_dataset_dicts`` with boxes that can be trained on, and with background.

    The images of data sets of background (``format: images`` of a catalogue) come last. They are kept, as
    they were listed to train without objects; `filter_empty` and `min_keypoints` are for the labelled ones.

    Args:
        names: of data sets.
        filter_empty: leave out labelled images without objects, crowds not counted; a line in the log says
            how many.
        min_keypoints: leave out labelled images with fewer visible keypoints.
        **kwargs: of Detectron2's function.

    Returns:
        the dicts; a `Dataset` of them where the data sets are map-style ones, of which none is left out.

    Raises:
        ValueError: a data set is not registered, or no image is left; see also `with_valid_boxes`.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ValueError("no data set is named (DATASETS.TRAIN is empty)")
    for name in names:
        require_registered(name)
    labelled = [name for name in names if not is_background(name)]
    background = [record for name in names if is_background(name) for record in DatasetCatalog.get(name)]
    dicts: list[dict[str, Any]] = []
    if labelled:
        options = {"filter_empty": False, "min_keypoints": min_keypoints, **kwargs}
        try:
            with missing_files_explained(", ".join(labelled)):
                found = get_detection_dataset_dicts(labelled, **options)
        except AssertionError as error:  # nothing is left, or a category is unknown
            raise ValueError(f"{_name_files(labelled)}: {one_line(error)}") from None
        if not isinstance(found, list):  # map-style data sets, joined
            return ConcatDataset([found, background]) if background else found
        dicts = with_valid_boxes(found, ", ".join(labelled))
    if filter_empty:
        dicts = _with_objects(dicts, ", ".join(labelled))
    if not dicts and not background:
        raise ValueError(f"{_name_files(names)}: no image has an object; {_KEEP}")
    return dicts + background


def require_objects(dicts: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Raise ValueError, with the files of the data sets, unless some image has an object to train on."""
    annotations = (annotation for record in dicts for annotation in record.get("annotations", ()))
    if all(annotation.get("iscrowd", 0) for annotation in annotations):
        raise ValueError(f"{_name_files(names)}: none of {len(dicts)} images has an object to train on")


def _name_files(names: Sequence[str]) -> str:
    files = {name: annotation_file(name) for name in names}
    return ", ".join(f"data set {name!r}" + (f" ({file})" if file else "") for name, file in files.items())


def _with_objects(dicts: list[dict[str, Any]], names: str) -> list[dict[str, Any]]:
    """Those with an annotation that is no crowd, and those that know of no annotations."""
    kept = [r for r in dicts if "annotations" not in r or any(not a.get("iscrowd") for a in r["annotations"])]
    if len(kept) < len(dicts):
        left_out = len(dicts) - len(kept)
        logger.info(
            "%s: %d of %d images have no object and are left out; %s", names, left_out, len(dicts), _KEEP
        )
    return kept
