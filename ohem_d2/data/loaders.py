"""
Data loaders of Detectron2, fed from :class:`Proposals` where ``MODEL.LOAD_PROPOSALS`` is on.

Detectron2's own way to attach proposals loses the first boxes of constant scores at the top-k cut, keeps a
copy in every dataset dict and answers a missing image by a bare KeyError. Here the dicts stay small and the
mapper looks the boxes up; transforms, clipping and the cut are Detectron2's.
"""

import logging
import os
from typing import Any, Iterable, Optional, Sequence

from detectron2.config import CfgNode, configurable
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import build_augmentation, check_metadata_consistency
from detectron2.structures import BoxMode
from detectron2.utils import comm

from .messages import name_some
from .proposals import Proposals, read_proposals
from .recall import summarize_proposals

__all__ = ["ProposalDatasetMapper", "build_labelled_loader", "build_test_loader", "build_train_loader"]

logger = logging.getLogger(__name__)

# Which of the mapper's Proposals holds the image: ids are unique within a data set only.
SOURCE_KEY = "proposal_source"


class ProposalDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper with proposals looked up by image id. It can be pickled, as spawned workers need.

    ``ProposalDatasetMapper(cfg, is_train, proposals=[...])``; ``cfg.MODEL.LOAD_PROPOSALS`` must be on.
    """

    @configurable
    def __init__(self, *args: Any, proposals: Sequence[Proposals], **kwargs: Any) -> None:
        """
        Args:
            proposals: one per data set; a dataset dict says which by its ``proposal_source`` (default 0).
            args, kwargs: as :class:`DatasetMapper`.
        """
        super().__init__(*args, **kwargs)
        self.proposals = proposals

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = dict(dataset_dict)
        proposals = self.proposals[dataset_dict.pop(SOURCE_KEY, 0)]
        boxes, scores = proposals[str(dataset_dict["image_id"])]
        dataset_dict["proposal_boxes"] = boxes
        dataset_dict["proposal_objectness_logits"] = scores
        dataset_dict["proposal_bbox_mode"] = BoxMode.XYXY_ABS
        return super().__call__(dataset_dict)


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
    """
    Detectron2's training loader of ``cfg.DATASETS.TRAIN``, with proposals if ``MODEL.LOAD_PROPOSALS``.

    The files are ``DATASETS.PROPOSAL_FILES_TRAIN``, one per data set, or where that is empty the
    ``proposal_file`` of each data set's metadata. The log says how many boxes there are and what they recall.

    Raises:
        FileNotFoundError, ValueError: no proposals for a data set or for some of its images, or a bad file.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return build_detection_train_loader(cfg)
    names, key = list(cfg.DATASETS.TRAIN), "PROPOSAL_FILES_TRAIN"
    files = [_proposal_file(cfg, name, names, key) for name in names]
    keypoint_cfg = cfg.MODEL.ROI_KEYPOINT_HEAD
    dicts, proposals = _load_datasets(
        names,
        files,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoint_cfg.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
    )
    mapper = ProposalDatasetMapper(cfg, is_train=True, proposals=proposals)
    return build_detection_train_loader(_without_proposals(cfg), mapper=mapper, dataset=dicts)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
    """
    Detectron2's test loader of one data set, with proposals if ``MODEL.LOAD_PROPOSALS``.

    The file is that of ``DATASETS.PROPOSAL_FILES_TEST`` at the place of the data set in ``DATASETS.TEST``, or
    where that list is empty or ``DATASETS.TEST`` lacks the data set, the ``proposal_file`` of its metadata.

    Raises:
        FileNotFoundError, ValueError: as :func:`build_train_loader`.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return build_detection_test_loader(cfg, dataset_name)
    file = _proposal_file(cfg, dataset_name, list(cfg.DATASETS.TEST), "PROPOSAL_FILES_TEST")
    dicts, proposals = _load_datasets([dataset_name], [file], filter_empty=False)
    mapper = ProposalDatasetMapper(cfg, is_train=False, proposals=proposals)
    return build_detection_test_loader(dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)


def build_labelled_loader(cfg: CfgNode, dataset_name: str, num_images: int) -> Iterable[list[dict[str, Any]]]:
    """
    The first ``num_images`` of a data set as for training, but in order, one by one and without augmentation.

    Raises:
        FileNotFoundError, ValueError: as :func:`build_train_loader`.
    """
    augmentations = build_augmentation(cfg, is_train=False)
    if cfg.MODEL.LOAD_PROPOSALS:
        split = "TRAIN" if dataset_name in cfg.DATASETS.TRAIN else "TEST"
        file = _proposal_file(cfg, dataset_name, list(cfg.DATASETS[split]), f"PROPOSAL_FILES_{split}")
        dicts, proposals = _load_datasets([dataset_name], [file], filter_empty=False)
        mapper = ProposalDatasetMapper(cfg, is_train=True, augmentations=augmentations, proposals=proposals)
    else:
        dicts = get_detection_dataset_dicts(dataset_name, filter_empty=False)
        mapper = DatasetMapper(cfg, is_train=True, augmentations=augmentations)
    return build_detection_test_loader(dicts[:num_images], mapper=mapper, num_workers=0)


def _without_proposals(cfg: CfgNode) -> CfgNode:
    """A copy by which Detectron2 builds a loader without looking for proposal files itself."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.LOAD_PROPOSALS = False
    return cfg


def _proposal_file(cfg: CfgNode, name: str, names: list[str], key: str) -> str:
    """The proposal file of a data set, from ``cfg.DATASETS[key]`` (parallel to ``names``) or its metadata."""
    configured = cfg.DATASETS[key]
    if configured and len(configured) != len(names):
        raise ValueError(
            f"DATASETS.{key} has {len(configured)} files for {len(names)} data sets: {', '.join(names)}"
        )
    if configured and name in names:
        return configured[names.index(name)]
    file = MetadataCatalog.get(name).get("proposal_file")
    if file is None:
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS is on but data set {name!r} has no proposal file: give it in "
            f"DATASETS.{key}, or as `proposals` of its catalogue entry (metadata `proposal_file`)"
        )
    return file


def _load_datasets(
    names: Sequence[str], files: Sequence[str], **kwargs: Any
) -> tuple[list[dict[str, Any]], list[Proposals]]:
    """The dataset dicts of all data sets, tagged with their place in the list of Proposals, and that list."""
    all_dicts, all_proposals = [], []
    for source, (name, file) in enumerate(zip(names, files)):
        proposals = read_proposals(file)
        dicts = get_detection_dataset_dicts(name, **kwargs)
        _check_coverage(dicts, proposals, name, file)
        if comm.is_main_process():
            _log_statistics(dicts, proposals, name, file)
        all_dicts += [{**record, SOURCE_KEY: source} for record in dicts]
        all_proposals.append(proposals)
    if all(MetadataCatalog.get(name).get("thing_classes") for name in names):
        check_metadata_consistency("thing_classes", names)
    return all_dicts, all_proposals


def _check_coverage(dicts: list[dict[str, Any]], proposals: Proposals, name: str, file: str) -> None:
    ids = [str(record["image_id"]) for record in dicts]
    missing = [image_id for image_id in ids if image_id not in proposals]
    if missing:
        raise ValueError(
            f"{file}: no proposals for {len(missing)} of {len(ids)} images of data set {name!r}: "
            f"{name_some(missing)}{_other_form(missing[0], proposals)}"
        )


def _other_form(image_id: str, proposals: Proposals) -> str:
    """A hint, if the file knows the image by an id of another form."""

    def bare(text: str) -> str:
        return os.path.splitext(os.path.basename(text))[0].lstrip("0")

    other: Optional[str] = next((known for known in proposals if bare(known) == bare(image_id)), None)
    return f" (the file has {other!r}; ids are compared as strings)" if other is not None else ""


def _log_statistics(dicts: list[dict[str, Any]], proposals: Proposals, name: str, file: str) -> None:
    statistics = summarize_proposals(dicts, proposals)
    logger.info("%s: %s (%s)", name, statistics, file)
    if statistics.num_empty:
        empty = [record["image_id"] for record in dicts if not len(proposals[str(record["image_id"])][0])]
        logger.warning("%s: %d images have no proposal at all: %s", file, len(empty), name_some(empty))
    if statistics.num_outside:
        logger.warning("%s: %d boxes lie outside their image and are dropped", file, statistics.num_outside)
