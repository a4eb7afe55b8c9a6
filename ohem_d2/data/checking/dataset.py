"""Checks a registered data set and its proposals."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...proposals import Proposals, read_proposals
from ...proposals.reading import Paths, find_files, name_paths
from ...utils.messages import name_some
from ..registered import is_background, require_registered
from ..voc import VOCFolders
from .background import check_background
from .coco import check_coco
from .report import Problem, Report
from .voc import check_voc

__all__ = ["Problem", "Report", "check_dataset"]


def check_dataset(
    name: str, proposal_file: Paths | None = None, progress: bool = False, decode: bool = False
) -> Report:
    """Check all files of a data set and list what is wrong with them: in VOC or COCO layout, or background.

    Checked are the list of images, each image (exists, readable header, size as annotated), each annotation
    (XML or JSON, ids, classes, boxes) and the proposals, if there are any.

    Args:
        name: registered name.
        proposal_file: proposals to check, see `read_proposals`; default: those of the data set's metadata, if
            there are any files yet.
        progress: show a progress bar on stderr.
        decode: decode the images, too, which finds those that are cut off and takes milliseconds each.

    Raises:
        ValueError: no such data set, or one of another layout.
    """
    require_registered(name)
    metadata, report = MetadataCatalog.get(name).as_dict(), Report(name, decode)
    if {"dirname", "split", "thing_classes"} <= set(metadata):
        labelled = metadata.get("has_annotations", True)
        names = [*metadata["thing_classes"], *metadata.get("ignore", ())]
        place = (metadata["dirname"], metadata["split"], metadata.get("folders", VOCFolders()))
        check_voc(report, *place, names, labelled, progress)
    elif {"json_file", "image_root"} <= set(metadata):
        # Of a catalogue's data set the metadata have them once it is loaded.
        classes = metadata.get("thing_classes") or getattr(DatasetCatalog[name], "classes", ()) or None
        outside = metadata.get("images_outside", False)
        check_coco(report, metadata["json_file"], metadata["image_root"], classes, progress, outside)
    elif is_background(name):
        check_background(report, metadata["image_root"], progress)
    else:
        raise ValueError(f"data set {name!r} is neither in VOC nor in COCO layout: its files are not known")
    file = proposal_file or metadata.get("proposal_file")
    if file and (proposal_file or find_files(file)):
        check_proposals(report, file)
    return report


def check_proposals(report: Report, path: Paths) -> None:
    """Check that proposals can be read and fit the images of a report."""
    file = name_paths(path)
    try:
        proposals = read_proposals(path)
    except (OSError, ValueError, ImportError) as error:
        report.add(file, str(error).removeprefix(f"{os.path.abspath(file)}: ").removeprefix(f"{file}: "))
        return
    report.num_proposals = proposals.num_boxes
    unknown = [image_id for image_id in proposals if image_id not in report.sizes]
    for image_id in report.sizes:
        if image_id not in proposals:
            report.add(file, f"image {image_id} is missing")
    if unknown:
        report.add(file, f"{len(unknown)} images are not of this data set: {name_some(unknown)}")
    for image_id, size in report.sizes.items():
        if image_id in proposals:
            _check_entry(report, file, proposals, image_id, size)


def _check_entry(
    report: Report, file: str, proposals: Proposals, image_id: str, size: tuple[int, int] | None
) -> None:
    try:
        boxes, _ = proposals[image_id]
    except ValueError as error:
        report.add(file, f"image {image_id}: {str(error).rpartition(': ')[2]}")
        return
    if not len(boxes):
        report.add(file, f"image {image_id} has no boxes")
    if size is not None:
        x1, y1, x2, y2 = boxes.T
        outside = int(((x1 < 0) | (y1 < 0) | (x2 > size[0]) | (y2 > size[1])).sum())
        if outside:
            report.add(file, f"image {image_id}: {outside} boxes reach beyond its {size[0]}x{size[1]} pixels")
