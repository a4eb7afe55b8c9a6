#!/usr/bin/env python
"""Draw, for some images of a data set, which RoIs OHEM would mine, beside a random sample and the detections.

    python tools/visualize.py --config-file FILE --dataset NAME --output FILE.png MODEL.WEIGHTS FILE.pth
    python tools/visualize.py --config-file FILE --dataset NAME --images ID [ID ...] --output FOLDER [...]
    python tools/visualize.py --config-file FILE --dataset NAME --output FILE.html [...]

The mined RoIs are those that the weights make hard, as the keys in MODEL.OHEM mine them, whether the config
mines or not; the images are not trained on here. Dashed are the duplicates that NMS dropped and that would be
mined without it. The five hardest have their losses written on them, of classification and of the box. Beside
them is a sample as of Detectron2's sampler, of the same size. Ignore regions are drawn in black, where
MODEL.IGNORE_REGIONS.ENABLED. Small images are enlarged, large ones are shrunk. What is drawn is written after
each image: to one picture of all, to a PNG of each in a folder, named by its id, or to a page with a table of
the mined RoIs of each image.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Instances
from PIL import Image

from ohem_d2.config import OHEMOptions
from ohem_d2.data import build_labelled_loader
from ohem_d2.data.registered import first_class_names
from ohem_d2.engine import load_config
from ohem_d2.modeling import inspect_candidates
from ohem_d2.modeling.inspection import dropped_duplicates, mine_inspected, sample_at_random
from ohem_d2.utils.checkpoint import load_trained
from ohem_d2.utils.files import atomic_file
from ohem_d2.utils.regions import TargetsWithRegions
from ohem_d2.visualization import class_colours, draw_boxes, report, tile
from ohem_d2.visualization.mined import RoIBoxes, draw_mined
from ohem_d2.visualization.pictures import BLACK

TITLES = ("ground truth", "mined RoIs", "random sample", "detections")
COLUMNS = (
    "rank",
    "label",
    "loss",
    "of classification",
    "of the box",
    "IoU with object",
    "duplicates dropped",
)
MIN_WIDTH, MAX_SIDE = 400, 1200  # of an image in the picture, in pixels: its title has to fit above it
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
SUFFIXES = (*FORMATS, ".html")


class Row(NamedTuple):
    """What is drawn of an image."""

    file: Path
    summary: str
    pictures: list[np.ndarray]  # one for each of TITLES
    rois: list[list[report.Cell]]  # the mined RoIs: a value for each of COLUMNS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", required=True, help="registered name")
    parser.add_argument(
        "--num-images", type=int, default=2, help="evenly spread over the data set (default 2)"
    )
    parser.add_argument("--images", nargs="+", metavar="ID", help="these instead")
    parser.add_argument(
        "--score-thresh", type=float, default=0.5, help="of the detections drawn (default 0.5)"
    )
    parser.add_argument("--output", type=Path, required=True, help="PNG, JPEG or HTML, or a folder")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides")
    args = parser.parse_args(argv)
    try:
        if args.output.suffix and args.output.suffix.lower() not in SUFFIXES:
            raise ValueError(f"--output {args.output}; valid: a folder, or a file {', '.join(SUFFIXES)}")
        if args.num_images < 1:
            raise ValueError(f"--num-images is {args.num_images}; valid: 1 or more")
        cfg = load_config(args.config_file, args.opts)
        chosen = {"spread": True, "image_ids": args.images}
        loader = build_labelled_loader(cfg, args.dataset, args.num_images, **chosen)
        model = build_model(cfg).eval()
        if not isinstance(model, GeneralizedRCNN):
            raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} has no RoIs to draw; valid: a GeneralizedRCNN")
        load_trained(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", may_be_random=True)
        names = first_class_names([args.dataset, *cfg.DATASETS.TRAIN])
        labels = [*names, "background"]
        legend = dict(zip(labels, class_colours(range(len(labels)), len(names))))
        rows: list[Row] = []
        for x in (x for batch in loader for x in batch):
            rows.append(_row(cfg, model, x, names, args.score_thresh))
            if args.output.suffix:
                _save(rows, legend, args.output)
            else:
                _save(rows[-1:], legend, _file_of(args.output, x["image_id"]))
    except (KeyError, ValueError, OSError, ImportError) as error:
        sys.exit(f"visualize.py: {error.args[0] if isinstance(error, KeyError) else error}")


def _file_of(folder: Path, image_id: object) -> Path:
    return folder / f"{str(image_id).replace('/', '_')}.png"


def _save(rows: Sequence[Row], legend: dict, path: Path) -> None:
    """Write what is drawn of all images, whole or not at all."""
    if path.suffix.lower() not in FORMATS:
        sections = [_section(row, legend) for row in rows]
        report.write_page("What would be mined", sections, path)
        return
    names = [f"{row.file.name}: {row.summary}" for row in rows]
    sheet = tile([row.pictures for row in rows], TITLES, legend, names=names)
    with atomic_file(path) as file:
        Image.fromarray(sheet).save(file, FORMATS[path.suffix.lower()])


def _section(row: Row, legend: dict) -> report.Section:
    """A picture under each title, each with the legend, and the table of the mined RoIs."""
    pictures = [
        report.Picture(report.as_jpeg(tile([[picture]], [title], legend)), title, {})
        for title, picture in zip(TITLES, row.pictures)
    ]
    gallery = report.Gallery("Pictures", pictures, row.summary, MIN_WIDTH)
    table = report.Table("Mined RoIs", COLUMNS, row.rois, choices=["label"])
    return report.Section(row.file.name, [gallery, table])


class Mined(NamedTuple):
    """Candidates of an image, and what is mined of them, all on the CPU."""

    candidates: Instances
    hard: Instances  # by loss descending
    dropped: Instances  # duplicates that would be mined without NMS
    num_dropped: list[int]  # for each of `hard`
    sampled: Instances  # at random, as Detectron2's sampler does


@torch.no_grad()
def _row(cfg, model, x: dict, names: Sequence[str], score_thresh: float) -> Row:
    image, zoom = _read(x)
    to_image = torch.tensor([x["width"] / x["image"].shape[2], x["height"] / x["image"].shape[1]] * 2) * zoom
    if isinstance(x["instances"], TargetsWithRegions):
        regions = x["instances"].ignore_regions.tensor * to_image
        image = draw_boxes(image, regions, [BLACK] * len(regions), ["ignored"] * len(regions))

    def draw(boxes: torch.Tensor, labels: torch.Tensor, texts=None, width=2) -> np.ndarray:
        return draw_boxes(image, boxes, class_colours(labels.tolist(), len(names)), texts, width)

    truth, found, mined = x["instances"], model([x])[0]["instances"].to("cpu"), _mine(cfg, model, x)
    found, sampled = found[found.scores >= score_thresh], mined.sampled
    scored = [f"{names[c]} {s:.2f}" for c, s in zip(found.pred_classes.tolist(), found.scores.tolist())]
    pictures = [
        draw(truth.gt_boxes.tensor * to_image, truth.gt_classes),
        draw_mined(image, _boxes(mined.hard, to_image), _boxes(mined.dropped, to_image), names),
        draw(sampled.proposal_boxes.tensor * to_image, sampled.gt_classes, width=1),
        draw(found.pred_boxes.tensor * zoom, found.pred_classes, scored),
    ]
    of_each = [f"{how} {_describe(r, len(names))}" for how, r in (("mined", mined.hard), ("random", sampled))]
    summary = f"{len(mined.candidates)} candidates; {'; '.join(of_each)}"
    return Row(Path(x["file_name"]), summary, pictures, _table(mined, [*names, "background"]))


def _read(x: dict) -> tuple[np.ndarray, float]:
    """The image in the size in which it is drawn, and how many times as large that is."""
    image = Image.fromarray(read_image(x["file_name"], "RGB"))
    zoom = min(math.ceil(MIN_WIDTH / x["width"]), MAX_SIDE / max(image.size))
    return np.asarray(image.resize([max(1, round(zoom * side)) for side in image.size])), zoom


def _mine(cfg, model, x: dict) -> Mined:
    options, heads = OHEMOptions.from_config(cfg), cfg.MODEL.ROI_HEADS
    inspected = inspect_candidates(model, [x], options)
    budget, num_classes = heads.BATCH_SIZE_PER_IMAGE, heads.NUM_CLASSES
    settings = {"progress": 1.0, "generator": torch.Generator(model.device).manual_seed(0)}
    mined = mine_inspected(inspected, options, budget, heads.POSITIVE_FRACTION, num_classes, **settings)
    hard = mined.rows[0].to("cpu")
    candidates = inspected[0].to("cpu")
    dropped, of = dropped_duplicates(candidates, hard, options, budget)
    sampled = sample_at_random(candidates, budget, heads.POSITIVE_FRACTION, num_classes)
    num_dropped = (of == hard[:, None]).sum(dim=1).tolist()
    return Mined(candidates, candidates[hard], candidates[dropped], num_dropped, candidates[sampled])


def _boxes(rois: Instances, to_image: torch.Tensor) -> RoIBoxes:
    boxes, losses = (
        rois.proposal_boxes.tensor * to_image,
        (rois.cls_losses.tolist(), rois.box_losses.tolist()),
    )
    return RoIBoxes(boxes.numpy(), rois.gt_classes.tolist(), *losses)


def _describe(rois: Instances, num_classes: int) -> str:
    if not len(rois):
        return "none"
    foreground = (rois.gt_classes < num_classes).float().mean()
    return f"{len(rois)}, {foreground:.0%} foreground, mean loss {rois.losses.mean():.2g}"


def _table(mined: Mined, labels: Sequence[str]) -> list[list[report.Cell]]:
    hard = mined.hard
    terms = (hard.losses, hard.cls_losses, hard.box_losses, hard.gt_ious)
    columns = [[report.number_cell(value, 3) for value in values.tolist()] for values in terms]
    ranks = [report.number_cell(rank, 0) for rank in range(1, len(hard) + 1)]
    names = [report.Cell(labels[label]) for label in hard.gt_classes.tolist()]
    dropped = [report.number_cell(number, 0) for number in mined.num_dropped]
    return [list(row) for row in zip(ranks, names, *columns, dropped)]


if __name__ == "__main__":
    main()
