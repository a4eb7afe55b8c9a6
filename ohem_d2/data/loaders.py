"""Detectron2's data loaders with proposals from `Proposals`, where ``MODEL.LOAD_PROPOSALS`` is on.

Where all scores are equal, Detectron2's own loading drops the first boxes at the top-k cut; it also stores
all boxes in the dataset dicts and raises a bare KeyError for a missing image. Here the dicts stay small and
the mapper looks the boxes up; transforms, clipping and top-k are Detectron2's.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.build import _train_loader_from_config
from detectron2.data.detection_utils import build_augmentation, check_metadata_consistency
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ..config import DataLoaderOptions, DatasetOptions
from ..proposals import Proposals, read_proposals
from ..proposals.reading import Paths, name_paths
from ..proposals.recall import ground_truth_boxes, summarize_proposals
from ..utils.images import UnreadableImageError, require_readable
from ..utils.messages import name_some, other_form
from ..utils.seeding import seed_generators
from .dataset_dicts import load_dataset_dicts, require_objects
from .difficult import training_config
from .regions import RegionDatasetMapper
from .registered import is_background, require_registered
from .resumable import ResumableLoader
from .workers import WatchedLoader

__all__ = [
    "ProposalDatasetMapper",
    "build_labelled_loader",
    "build_test_loader",
    "build_test_mapper",
    "build_train_loader",
    "training_proposals",
]

logger = logging.getLogger(__name__)

# Index of the mapper's Proposals that has the image: ids are unique only within a data set.
SOURCE_KEY = "proposal_source"

# Number of images, evenly spread over a data set, on which the recall in the log is measured.
_MEASURED_IMAGES = 2000


class ProposalDatasetMapper(RegionDatasetMapper):
    """Detectron2's mapper with ignore regions, and proposals looked up by image id.

    ``ProposalDatasetMapper(cfg, is_train, proposals=[...])`` makes one; ``cfg.MODEL.LOAD_PROPOSALS`` must be
    on. It can be pickled for spawned workers.
    """

    @configurable
    def __init__(
        self, *args: Any, proposals: Sequence[Proposals], fill: str | None = None, **kwargs: Any
    ) -> None:
        """Extend `RegionDatasetMapper`, whose arguments come first.

        Args:
            proposals: one per data set; a dataset dict gives the index as ``proposal_source`` (default 0).
            fill: boxes of an image without proposals: "ground_truth" or "nothing"; None: an image that the
                proposals lack is a KeyError.
            *args: of `RegionDatasetMapper`.
            **kwargs: of `RegionDatasetMapper`.
        """
        super().__init__(*args, **kwargs)
        self.proposals, self.fill = proposals, fill

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        dataset_dict = dict(dataset_dict)
        proposals = self.proposals[dataset_dict.pop(SOURCE_KEY, 0)]
        boxes, scores = self._look_up(proposals, dataset_dict)
        dataset_dict["proposal_boxes"] = boxes
        dataset_dict["proposal_objectness_logits"] = scores
        dataset_dict["proposal_bbox_mode"] = BoxMode.XYXY_ABS
        return super().__call__(dataset_dict)

    def _look_up(self, proposals: Proposals, dataset_dict: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        image_id = str(dataset_dict["image_id"])
        if self.fill is None or proposals.count(image_id):
            return proposals[image_id]
        boxes = ground_truth_boxes(dataset_dict if self.fill == "ground_truth" else {})
        return boxes.astype(np.float32), np.zeros(len(boxes), np.float32)


def build_train_loader(cfg: CfgNode) -> ResumableLoader:
    """The training loader of ``cfg.DATASETS.TRAIN``, with proposals if ``MODEL.LOAD_PROPOSALS``.

    The files are ``DATASETS.PROPOSAL_FILES_TRAIN``, one per data set, or, if that is empty, the
    ``proposal_file`` of each data set's metadata. In place of a file there can be a pattern or a list, as
    for `read_proposals`. The log gives the number of boxes and their recall.
    ``DATASETS.VOC_DIFFICULT`` and ``MODEL.IGNORE_REGIONS.ENABLED`` apply. Boxes without area or outside their
    image are dropped, those that reach beyond it are clipped, with a warning. Of images without objects,
    `load_dataset_dicts` says which are trained on.

    Raises:
        FileNotFoundError: a proposal file does not exist.
        ValueError: no proposals for a data set or for some of its images, a bad file, an annotated box with
            a number that is not finite, or no object in any image.
    """
    cfg = training_config(cfg)
    names = list(cfg.DATASETS.TRAIN)
    min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    options = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, "min_keypoints": min_keypoints}
    if not cfg.MODEL.LOAD_PROPOSALS:
        mapper, dicts = RegionDatasetMapper(cfg, is_train=True), load_dataset_dicts(names, **options)
        require_objects(dicts, names)
        return _resumable(cfg, mapper=mapper, dataset=dicts)
    dicts, proposals = _load_datasets(names, training_proposals(cfg), _may_miss(cfg), **options)
    require_objects(dicts, names)
    mapper = ProposalDatasetMapper(cfg, is_train=True, proposals=proposals, fill=_fill(cfg))
    return _resumable(_without_proposals(cfg), mapper=mapper, dataset=dicts)


def training_proposals(cfg: CfgNode) -> list[str]:
    """The proposal file of each of ``cfg.DATASETS.TRAIN``; a ValueError if one has none."""
    names = list(cfg.DATASETS.TRAIN)
    return [_proposal_file(cfg, name, names, "PROPOSAL_FILES_TRAIN") for name in names]


def _resumable(cfg: CfgNode, **kwargs: Any) -> ResumableLoader:
    """The loader that Detectron2 builds from `cfg` and `kwargs`, with a sampler that the seed determines."""
    arguments = _train_loader_from_config(cfg, sampler=(), **kwargs)
    arguments["dataset"] = dicts = DatasetFromList(arguments["dataset"], copy=False)
    options = {"mapper": arguments["mapper"], "dataset": dicts}

    def seeded_sampler(seed: int) -> Iterable[int]:
        seed_generators(seed)  # from which Detectron2's samplers draw their own
        return _train_loader_from_config(cfg, **options)["sampler"]

    arguments.update(
        sampler=seeded_sampler,
        timeout=DataLoaderOptions.from_config(cfg).timeout,
        skips_unreadable=DatasetOptions.from_config(cfg).unreadable_images == "skip",
    )
    return ResumableLoader(**arguments, seed=max(cfg.SEED, 0))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
    """Detectron2's test loader of one data set, with proposals if ``MODEL.LOAD_PROPOSALS``.

    The file is the one in ``DATASETS.PROPOSAL_FILES_TEST`` at the index of the data set in ``DATASETS.TEST``;
    if that list is empty or ``DATASETS.TEST`` lacks the data set, the ``proposal_file`` of its metadata. With
    ``TEST.AUG`` images and proposals keep their own size: each scale of the test resizes them once. Errors
    are those of `build_train_loader`.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        file = _proposal_file(cfg, dataset_name, list(cfg.DATASETS.TEST), "PROPOSAL_FILES_TEST")
        dicts, proposals = _load_datasets([dataset_name], [file], filter_empty=False)
        mapper = build_test_mapper(cfg, ProposalDatasetMapper, proposals=proposals)
        loader = build_detection_test_loader(dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)
    else:
        loader = build_detection_test_loader(cfg, dataset_name, mapper=build_test_mapper(cfg))
    return WatchedLoader.of(loader, DataLoaderOptions.from_config(cfg).timeout)


def build_test_mapper(cfg: CfgNode, cls: type = RegionDatasetMapper, **kwargs: Any) -> DatasetMapper:
    """A mapper of class `cls` for testing; with ``TEST.AUG`` it leaves images and proposals at their size."""
    options = {"augmentations": []} if cfg.TEST.AUG.ENABLED else {}
    return cls(cfg, False, **options, **kwargs)


def build_labelled_loader(
    cfg: CfgNode,
    dataset_names: str | Sequence[str],
    num_images: int,
    spread: bool = False,
    image_ids: Sequence[str] | None = None,
) -> Iterable[list[dict[str, Any]]]:
    """Images of data sets with annotations, in order, one by one and without augmentation.

    Their ignore regions are handed on, whatever ``MODEL.IGNORE_REGIONS`` says.
    Proposals are found as by `build_train_loader` or, for data sets that are not in ``DATASETS.TRAIN``, as by
    `build_test_loader`; errors are the same, and a ValueError for an unknown one of `image_ids`.

    Args:
        cfg: the config.
        dataset_names: one or several, which follow one another.
        num_images: fewer if the data sets have fewer.
        spread: take images evenly spread over all data sets, not the first ones.
        image_ids: take these, in their order, in place of `num_images`.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    for name in names:
        require_registered(name)
    options = {"augmentations": build_augmentation(cfg, is_train=False), "keep_regions": True}
    split = "TRAIN" if set(names) <= set(cfg.DATASETS.TRAIN) else "TEST"
    if split == "TRAIN":
        places, cfg = [cfg.DATASETS.TRAIN.index(name) for name in names], training_config(cfg)
        names = [cfg.DATASETS.TRAIN[place] for place in places]
    if cfg.MODEL.LOAD_PROPOSALS:
        listed, key = list(cfg.DATASETS[split]), f"PROPOSAL_FILES_{split}"
        files = [_proposal_file(cfg, name, listed, key) for name in names]
        dicts, proposals = _load_datasets(names, files, _may_miss(cfg), filter_empty=False)
        options |= {"proposals": proposals, "fill": _fill(cfg)}
        mapper = ProposalDatasetMapper(cfg, is_train=True, **options)
    else:
        dicts = load_dataset_dicts(names, filter_empty=False)
        mapper = RegionDatasetMapper(cfg, is_train=True, **options)
    chosen = spread_evenly(dicts, num_images) if spread else dicts[:num_images]
    if image_ids is not None:
        chosen = _of_ids(dicts, image_ids, ", ".join(names))
    if DatasetOptions.from_config(cfg).unreadable_images == "skip":
        chosen = [record for record in chosen if _is_readable(record, cfg.INPUT.FORMAT)]
    return one_by_one(chosen, mapper)


def _is_readable(record: dict[str, Any], image_format: str) -> bool:
    try:
        require_readable(record["file_name"], image_format)
    except UnreadableImageError as error:
        logger.warning("%s; left out", error)
        return False
    return True


def one_by_one(dicts: Sequence[dict[str, Any]], mapper: Callable[[dict], dict]) -> Iterable[list[dict]]:
    """All images in order; Detectron2's test loader has each of several processes take its share of them."""
    return build_detection_test_loader(dicts, mapper=mapper, sampler=range(len(dicts)), num_workers=0)


def spread_evenly(dicts: Sequence[dict[str, Any]], num_images: int) -> list[dict[str, Any]]:
    """`num_images` of the images of one or several data sets, or all if there are fewer."""
    num_images = min(num_images, len(dicts))
    return [dicts[i * len(dicts) // num_images] for i in range(num_images)]


def _of_ids(dicts: list[dict[str, Any]], image_ids: Sequence[str], name: str) -> list[dict[str, Any]]:
    by_id = {str(record["image_id"]): record for record in dicts}
    unknown = [image_id for image_id in image_ids if image_id not in by_id]
    if unknown:
        hint = other_form(unknown[0], by_id)
        raise ValueError(f"{len(unknown)} images are not in {name}: {name_some(unknown)}{hint}")
    return [by_id[image_id] for image_id in image_ids]


def _without_proposals(cfg: CfgNode) -> CfgNode:
    """A copy with which Detectron2 builds a loader without reading proposal files itself."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.LOAD_PROPOSALS = False
    return cfg


def _proposal_file(cfg: CfgNode, name: str, names: list[str], key: str) -> Paths:
    """The proposals of a data set, from ``cfg.DATASETS[key]`` (parallel to `names`) or its metadata."""
    configured = cfg.DATASETS[key]
    if configured and len(configured) != len(names):
        raise ValueError(
            f"DATASETS.{key} has {len(configured)} files for {len(names)} data sets: {', '.join(names)}; "
            "several files of one data set are a pattern, or a tuple of their own"
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
    names: Sequence[str], files: Sequence[Paths], may_miss: bool = False, **kwargs: Any
) -> tuple[list[dict[str, Any]], list[Proposals]]:
    """The dataset dicts of all data sets, each with the index of its `Proposals`, and the list of these."""
    all_dicts, all_proposals = [], []
    for source, (name, path) in enumerate(zip(names, files)):
        proposals, file = read_proposals(path), name_paths(path)
        dicts = load_dataset_dicts([name], **kwargs)
        _check_coverage(dicts, proposals, name, file, may_miss)
        if comm.is_main_process():
            _log_statistics(dicts, proposals, name, file)
        all_dicts += [{**record, SOURCE_KEY: source} for record in dicts]
        all_proposals.append(proposals)
    labelled = [name for name in names if not is_background(name)]
    if all(MetadataCatalog.get(name).get("thing_classes") for name in labelled):
        check_metadata_consistency("thing_classes", labelled)
    return all_dicts, all_proposals


def _may_miss(cfg: CfgNode) -> bool:
    """Whether images of a training set may lack proposals."""
    return DatasetOptions.from_config(cfg).proposals_missing == "ground_truth"


def _fill(cfg: CfgNode) -> str | None:
    """What images without proposals get from the mapper: nothing, if the heads append the ground truth."""
    if not _may_miss(cfg):
        return None
    return "nothing" if cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT else "ground_truth"


def _check_coverage(
    dicts: list[dict[str, Any]], proposals: Proposals, name: str, file: str, may_miss: bool
) -> None:
    ids = [str(record["image_id"]) for record in dicts]
    missing = [image_id for image_id in ids if image_id not in proposals]
    if not missing:
        return
    message = (
        f"{file}: no proposals for {len(missing)} of {len(ids)} images of data set {name!r}: "
        f"{name_some(missing)}{other_form(missing[0], proposals)}"
    )
    if not may_miss or len(missing) == len(ids):
        raise ValueError(message)
    logger.warning("%s; they are trained on their ground truth alone", message)


def _log_statistics(dicts: list[dict[str, Any]], proposals: Proposals, name: str, file: str) -> None:
    statistics = summarize_proposals(dicts, proposals, _MEASURED_IMAGES)
    logger.info("%s: %s (%s)", name, statistics, file)
    if statistics.num_empty:
        empty = [record["image_id"] for record in dicts if not proposals.count(str(record["image_id"]))]
        logger.warning("%s: %d images have no proposal at all: %s", file, len(empty), name_some(empty))
    if statistics.num_outside:
        logger.warning("%s: %d boxes lie outside their image and are dropped", file, statistics.num_outside)
