#!/usr/bin/env python
"""Write what runs of train_net.py did to one HTML file: curves, errors, confusion, galleries, time, memory.

    python tools/report.py output/bccd/*/seed* --output output/bccd.html

Runs whose configs differ in nothing but seed and output folder are seeds of one arm. What a run lacks (it
was killed, it was never tested, its data set is not here) is said in the report. The page opens offline; its
charts are also written as PNG, to the folder of its name without suffix. The detections of the last test on
each test set are compared with its annotations, which are found by the catalogue that the config names.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
import numpy as np
from detectron2.data import DatasetCatalog

from ohem_d2.comparison.run_folder import RunArm, RunFolder, differing_lines, group_runs, read_run
from ohem_d2.data import register_catalog
from ohem_d2.data.registered import first_class_names
from ohem_d2.evaluation.errors import KINDS, RECALLS, confusion, count, find_errors, precision_at_recalls
from ohem_d2.evaluation.examples import (
    hardest_images,
    hardest_objects,
    most_confident_errors,
    not_found,
    spread_hits,
)
from ohem_d2.evaluation.matching import Matches, match_boxes
from ohem_d2.evaluation.run_detections import LabelledImages, load_labelled_images, read_detections
from ohem_d2.utils.mined_rois import read_mined
from ohem_d2.visualization import report as page

SCORES = (0.3, 0.5, 0.7, 0.9)
GALLERY, NUM_IMAGES, IMAGE_SIZE = 12, 8, 400
# Keys of a YAML config, and of a Python config.
CATALOG = ("DATASETS.CATALOG", "dataloader.catalogs")
TRAIN = ("DATASETS.TRAIN", "dataloader.train.dataset.names")
NUM_CLASSES = ("MODEL.ROI_HEADS.NUM_CLASSES", "model.roi_heads.num_classes")
LEGEND = "Objects are blue and dashed, detections vermilion."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of train_net.py")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--scores", nargs="+", type=float, default=SCORES, metavar="SCORE",
                        help="scores at which detections are counted; default: 0.3 0.5 0.7 0.9")  # fmt: skip
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        if args.output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {args.output}; valid: a file .html")
        if not all(0 <= score <= 1 for score in args.scores):
            raise ValueError(f"--scores {args.scores}; valid: numbers in [0, 1]")
        arms = group_runs([read_run(folder) for folder in args.runs])
        sections = page.training_sections([_curves(arm) for arm in arms], differing_lines(arms))
        sections += _detection_sections(arms, sorted(set(args.scores)))
        page.write_page(f"Report: {', '.join(arm.name for arm in arms)}", sections, args.output)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"report.py: {error}")
    print(f"Report: {args.output}\nCharts: {args.output.with_suffix('')}/*.png")


def _curves(arm: RunArm) -> page.ArmCurves:
    curves = []
    for run in arm.runs:
        keys = dict.fromkeys(key for row in run.metrics for key in row if page.is_drawn(key))
        curves.append({key: run.curve(key) for key in keys})
    memory, problems = [run.memory_mib for run in arm.runs], [[*run.problems] for run in arm.runs]
    mined: dict = {}
    for run, of_run in zip(arm.runs, problems):
        try:
            mined = mined or _mined_classes(run)
        except (ValueError, OSError) as error:
            of_run.append(str(error))
    return page.ArmCurves(arm.name, [run.name for run in arm.runs], curves, memory, problems, mined)


def _mined_classes(run: RunFolder) -> dict:
    """The share of each class in what a run mined; none if it has no record of that."""
    if not list(run.path.glob("mined/*.safetensors")):
        return {}
    _register([run])
    train = run.setting(*TRAIN, ())
    train = [train] if isinstance(train, str) else train
    names = first_class_names([name for name in train if name in DatasetCatalog])
    names = names or [str(label) for label in range(run.setting(*NUM_CLASSES, 0))]
    return page.class_shares(read_mined(run.path), names)


def _detection_sections(arms: Sequence[RunArm], scores: Sequence[float]) -> Iterator[page.Section]:
    runs = [run for arm in arms for run in arm.runs]
    names = dict.fromkeys(folder.name for run in runs for folder in sorted(run.path.glob("inference/*/")))
    for number, name in enumerate(names):
        try:
            _register(runs)
            images = load_labelled_images(name)
        except (ValueError, OSError) as error:
            notes = [page.Note(f"There is nothing to analyse: {error}.")]
            yield page.Section(f"Detections on {name}", notes)
            continue
        yield page.detection_section(_analyse(images, arms, scores), number)


def _register(runs: Sequence[RunFolder]) -> None:
    """Register the data sets of the catalogues that the configs name."""
    for catalog in dict.fromkeys(c for run in runs for c in run.setting(*CATALOG, ())):
        register_catalog(catalog)


def _analyse(images: LabelledImages, arms: Sequence[RunArm], scores: Sequence[float]) -> page.DatasetErrors:
    problems, matches = [], {}
    for arm in arms:
        for run in arm.runs:
            try:
                found = read_detections(run.path / "inference" / images.name, images)
                matches.setdefault(arm.name, []).append(match_boxes(images.objects, found))
            except (ValueError, OSError) as error:
                problems.append(f"{run.name}: {error}")
    num_classes = len(images.classes)
    errors = [
        page.ArmErrors(arm.name, [_errors(m, num_classes, scores) for m in matches.get(arm.name, ())])
        for arm in arms
    ]
    score = min(scores, key=lambda s: abs(s - 0.5))
    galleries = _galleries(images, matches, score) if matches else []
    num_objects = np.bincount(images.objects.labels[~images.objects.is_ignored], minlength=num_classes)
    counts = len(images.records), num_objects, RECALLS, scores
    return page.DatasetErrors(images.name, images.classes, *counts, errors, galleries, problems)


def _errors(matches: Matches, num_classes: int, scores: Sequence[float]) -> page.RunErrors:
    errors = find_errors(matches, num_classes)
    numbers = [
        *np.bincount(errors.kinds[errors.kinds >= 0], minlength=len(KINDS) - 1),
        errors.is_missed.sum(),
    ]
    counts = count(matches, num_classes, scores)
    return page.RunErrors(
        errors.ap,
        errors.gains,
        dict(zip(KINDS, map(int, numbers))),
        precision_at_recalls(matches, num_classes),
        counts.num_right,
        counts.num_wrong,
        np.stack([confusion(matches, num_classes, score) for score in scores]),
    )


def _galleries(images: LabelledImages, matches: dict[str, list[Matches]], score: float) -> list[page.Gallery]:
    examples: dict[str, list[page.Example]] = {}
    for name, (first, *_) in matches.items():
        for title, of_arm in _of_arm(images, first, name, score).items():
            examples.setdefault(title, []).extend(of_arm)
    galleries = [page.draw_gallery(title, found, LEGEND) for title, found in examples.items()]
    return [*galleries, *_hardest(images, [m for of_arm in matches.values() for m in of_arm], score)]


def _of_arm(
    images: LabelledImages, matches: Matches, arm: str, score: float
) -> dict[str, list[page.Example]]:
    """Title of a gallery -> the examples of one run of an arm."""
    kinds = find_errors(matches, len(images.classes)).kinds
    missed = not_found(matches, score)[:GALLERY]
    hits, errors = spread_hits(matches, GALLERY), most_confident_errors(matches, 2 * GALLERY)
    return {
        "True positives, from the most to the least confident": [
            _detection(images, matches, row, {"arm": arm}) for row in hits
        ],
        "Most confident false positives": [
            _detection(images, matches, row, {"arm": arm, "kind": KINDS[kinds[row]]}) for row in errors
        ],
        f"Objects that nothing finds with {score:g} or more, the largest": [
            _object(images, row, {"arm": arm}) for row in missed
        ],
    }


def _detection(images: LabelledImages, matches: Matches, row: int, tags: dict[str, str]) -> page.Example:
    """A detection and the objects of its image."""
    image, box = matches.found.images[row], matches.found.boxes[row]
    name = images.classes[matches.found.labels[row]]
    caption = ", ".join([f"{name} {matches.found.scores[row]:.2f}", *tags.values()])
    marks = [*_objects_in(images, image), page.Mark(box, is_object=False)]
    return page.Example(_file(images, image), marks, box, caption, {**tags, "class": name})


def _object(images: LabelledImages, row: int, tags: dict[str, str], more: str = "") -> page.Example:
    box, name = images.objects.boxes[row], images.classes[images.objects.labels[row]]
    caption = ", ".join([name + more, *tags.values()])
    marks = [page.Mark(box, is_object=True)]
    return page.Example(
        _file(images, images.objects.images[row]), marks, box, caption, {**tags, "class": name}
    )


def _hardest(images: LabelledImages, runs: Sequence[Matches], score: float) -> Iterator[page.Gallery]:
    """Over all runs of all arms."""
    found = zip(*hardest_objects(runs, GALLERY))
    examples = [_object(images, row, {}, f", found at {at:.2f}") for row, at in found]
    note = "Score of the detection that finds them, 0 for none, as a mean over all runs."
    yield page.draw_gallery("Hardest objects", examples, note)
    examples = []
    for image, number in zip(*hardest_images(runs, len(images.records), score, NUM_IMAGES)):
        shown = runs[0].found[(runs[0].found.images == image) & (runs[0].found.scores >= score)]
        marks = [*_objects_in(images, image), *(page.Mark(box, is_object=False) for box in shown.boxes)]
        file = _file(images, image)
        examples.append(page.Example(file, marks, None, f"{Path(file).name}: {number:.3g} errors", {}))
    note = (
        f"False positives of {score:g} or more and objects that nothing finds with it, a mean over all runs. "
        f"The detections are those of the first run. {LEGEND}"
    )
    yield page.draw_gallery("Hardest images", examples, note, IMAGE_SIZE)


def _objects_in(images: LabelledImages, image: int) -> list[page.Mark]:
    return [page.Mark(box, is_object=True) for box in images.objects.boxes[images.objects.images == image]]


def _file(images: LabelledImages, image: int) -> str:
    return str(images.records[image]["file_name"])


if __name__ == "__main__":
    main()
