#!/usr/bin/env python
"""Rank the labels of a data set, and places without one, by the loss of a model that has not seen them.

    python tools/find_label_errors.py --config-file FILE --dataset NAME --folds 4 --output FOLDER [...]
    python tools/find_label_errors.py --config-file FILE --dataset NAME --output FOLDER MODEL.WEIGHTS FILE.pth

With --folds the images are split at random, and as many models are trained, each on what is left without one
part, which it then judges. A run that was stopped goes on with the same command. Without --folds the model is
that of MODEL.WEIGHTS, which should not have been trained on NAME.

FOLDER gets findings.csv with all findings, inspected.json with the detections too, and of the first --top of
each kind findings.coco.json (FiftyOne, CVAT), label_studio.json and, with the extra `report`, report.html.
With cleanlab, ObjectLab's scores stand beside. Much of what it finds is no error: an object that is rare,
small or hard to see has a high loss too.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import GeneralizedRCNN, build_model

from ohem_d2.comparison import EXIT_CODE, Stopped, end_with_children, run_once, write_json
from ohem_d2.data import build_labelled_loader
from ohem_d2.data.folds import draw_folds, rest_name, write_folds
from ohem_d2.data.registered import require_registered
from ohem_d2.engine import load_config
from ohem_d2.evaluation.label_error_files import (
    write_coco,
    write_csv,
    write_inspected,
    write_label_studio,
)
from ohem_d2.evaluation.label_errors import KINDS, InspectedImage, inspect_labels
from ohem_d2.evaluation.label_ranking import RANKED_BY, RankedFinding, first_of_each_kind, rank_findings
from ohem_d2.evaluation.objectlab import objectlab_scores
from ohem_d2.utils.checkpoint import load_trained
from ohem_d2.visualization import report

COLUMNS = ("rank", "kind", "loss", "of classification", "of the box", "label", "model", "score", "image")
NOTE = (
    "Labels are blue and dashed, what the model sees is vermilion. Much of this is no error: what is rare, "
    "small or hard to see has a high loss too."
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="YAML, of an R-CNN")
    parser.add_argument("--dataset", required=True, help="registered name")
    parser.add_argument("--folds", type=int, default=0, help="models to train; default: none, MODEL.WEIGHTS")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and the trainings; default 0")
    parser.add_argument("--num-gpus", type=int, default=1, help="of a training; default 1")
    parser.add_argument("--rank-by", choices=list(RANKED_BY), default="cls", help="default: cls")
    parser.add_argument("--top", type=int, default=100, help="of each kind in page and JSON; default 100")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with end_with_children():
            images, classes = inspect_data(args)
        write_files(args, images, classes)
    except Stopped:
        sys.exit(EXIT_CODE)
    except (KeyError, TypeError, ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"find_label_errors.py: {error.args[0] if isinstance(error, KeyError) else error}")


def inspect_data(args: argparse.Namespace) -> tuple[list[InspectedImage], list[str]]:
    """Judge all images of the data set by models that were not trained on them; also its classes."""
    cfg = load_config(args.config_file, [*args.opts, "OUTPUT_DIR", str(args.output)])
    require_registered(args.dataset)
    if args.folds:
        parts = _train_folds(args, cfg)
    elif cfg.MODEL.WEIGHTS:
        if args.dataset in cfg.DATASETS.TRAIN:
            print(f"{args.dataset} is in DATASETS.TRAIN: a model hides errors it was trained on; see --folds")
        parts = [(cfg.MODEL.WEIGHTS, None)]
    else:
        raise ValueError("give --folds to train models, or MODEL.WEIGHTS FILE")
    model = build_model(cfg).eval()
    if not isinstance(model, GeneralizedRCNN):
        raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} has no RoIs to inspect; valid: a GeneralizedRCNN")
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.DATASETS.VOC_DIFFICULT == "drop":  # what training drops is no object that lacks a label
        cfg.DATASETS.VOC_DIFFICULT = "ignore"
    images: list[InspectedImage] = []
    for weights, image_ids in parts:
        load_trained(model, weights, "MODEL.WEIGHTS")
        number = len(DatasetCatalog.get(args.dataset))
        images += inspect_labels(model, build_labelled_loader(cfg, args.dataset, number, image_ids=image_ids))
        print(f"{len(images)} of {number} images inspected", flush=True)
    return images, list(MetadataCatalog.get(args.dataset).thing_classes)


def _train_folds(args: argparse.Namespace, cfg: CfgNode) -> list[tuple[str, list[str]]]:
    """For each fold the weights that were trained without it, and the ids of its images."""
    ids = [str(record["image_id"]) for record in DatasetCatalog.get(args.dataset)]
    folds = draw_folds(ids, args.folds, args.seed)
    kept = args.output / "folds.json"
    if kept.exists() and json.loads(kept.read_text()) != folds:
        raise ValueError(
            f"{args.output} was made with other images, --folds or --seed; choose another --output"
        )
    write_json(kept, folds)
    catalog = write_folds(args.dataset, folds, args.output / "folds")
    parts = []
    for fold, held_out in enumerate(folds):
        folder, rest = args.output / f"fold{fold}", rest_name(args.dataset, fold)
        trained = [rest if name == args.dataset else name for name in cfg.DATASETS.TRAIN]
        opts = [
            *args.opts,
            *("DATASETS.CATALOG", str((*cfg.DATASETS.CATALOG, str(catalog)))),
            *("DATASETS.TRAIN", str(tuple(trained) if rest in trained else (rest,))),
            *("DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0"),
        ]
        print(f"fold {fold + 1} of {args.folds}: {folder}", flush=True)
        run_once(args.config_file, args.seed, folder, opts, num_gpus=args.num_gpus)
        parts.append((str(folder / "model_final.pth"), held_out))
    return parts


def write_files(args: argparse.Namespace, images: Sequence[InspectedImage], classes: Sequence[str]) -> None:
    """Write all findings as CSV, and the first of them in the other formats; say what was found."""
    try:
        scores = objectlab_scores(images, len(classes))
    except ImportError as error:
        print(f"without ObjectLab's scores: {error}")
        scores = None
    ranked = rank_findings(images, scores, args.rank_by)
    write_inspected(args.output / "inspected.json", images)
    write_csv(args.output / "findings.csv", ranked, classes)
    first = first_of_each_kind(ranked, args.top)
    write_coco(args.output / "findings.coco.json", first, classes)
    write_label_studio(args.output / "label_studio.json", [found for _, found in first], classes)
    counts = Counter(found.finding.kind for found in ranked)
    said = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    print(f"{len(ranked)} findings in {len(images)} images: {said}")
    page = args.output / "report.html"
    try:
        report.write_page(f"Labels of {args.dataset}", list(_sections(first, classes)), page)
    except ImportError as error:
        print(f"without a page: {error}")
    print(f"written to {args.output}")


def _sections(first: Sequence[tuple[int, RankedFinding]], classes: Sequence[str]) -> Iterator[report.Section]:
    examples, rows = [], []
    for rank, found in first:
        examples.append(_example(rank, found, classes))
        rows.append(_row(rank, found, classes))
    title = f"{len(first)} findings, the first of each kind"
    table = report.Table("All of them", COLUMNS, rows, choices=["kind", "label", "model"])
    yield report.Section(title, [report.draw_gallery("Pictures", examples, NOTE), table])


def _example(rank: int, found: RankedFinding, classes: Sequence[str]) -> report.Example:
    finding, label = found.finding, found.label_name(classes)
    marks = [report.Mark(finding.box, is_object=False)]
    around = finding.box
    if found.label_box is not None:
        marks.insert(0, report.Mark(found.label_box, is_object=True))
        pairs = list(zip(finding.box, found.label_box))
        around = (*map(min, pairs[:2]), *map(max, pairs[2:]))
    seen = f"{classes[finding.category]} {finding.score:.2f}"
    caption = f"{rank}. {finding.kind}, loss {found.loss:.2f}: {f'{label}, ' if label else ''}model: {seen}"
    tags = {"kind": finding.kind, "class": classes[finding.category]}
    return report.Example(found.image.file_name, marks, around, caption, tags)


def _row(rank: int, found: RankedFinding, classes: Sequence[str]) -> list[report.Cell]:
    finding = found.finding
    losses = [report.number_cell(v, 2) for v in (finding.loss, finding.cls_loss, finding.box_loss)]
    names = [report.Cell(found.label_name(classes)), report.Cell(classes[finding.category])]
    place = report.Cell(Path(found.image.file_name).name)
    score = report.number_cell(finding.score, 2)
    return [report.number_cell(rank, 0), report.Cell(finding.kind), *losses, *names, score, place]


if __name__ == "__main__":
    main()
