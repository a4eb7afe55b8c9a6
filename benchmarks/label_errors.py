#!/usr/bin/env python
"""How many of the labels that tools/find_label_errors.py ranks first are wrong, where it is known which are.

    python benchmarks/label_errors.py --seeds 0 1 2 3 4 --output output/label_errors [KEY VALUE ...]
    python benchmarks/label_errors.py --config-file FILE --dataset NAME --output output/label_errors_of_mine

For each seed a data set is drawn of which a share of the training labels is deleted, another flipped and
another shifted (datasets/prepare_demo.py --wrong-labels), and tools/find_label_errors.py ranks them with
--folds. With --dataset, it is the labels of a data set in VOC layout that are made wrong, in a copy of its
XML files; what was wrong before is not known. What was made is not made again. A finding is right if it is of
a wrong label, or has an IoU of 0.5 with a deleted or a shifted object; a second one of the same wrong label
is not. Of the same models:

    loss             the ranking of the tool: classification + box
    cls loss         the same by the loss of classification alone
    missing          of the first, what is called a missing object, alone
    detection score  a detection far from every label, by its score; a label, by 1 - the highest score of a
                     detection of its class with an IoU of 0.5
    ObjectLab        by cleanlab: overlooked, swap and badloc of all labels and detections, in one list
    random           the list of the tool, shuffled: the mean of 100 times

Precision at n is bounded by the number of wrong labels / n. The area under precision and recall counts wrong
labels that are not in a list as missed.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog
from measure import write_report
from tabulate import tabulate

from ohem_d2.data.voc_xml import LabelledBox, voc_xml
from ohem_d2.data.wrong_labels import WRONG_KINDS, corrupt_labels
from ohem_d2.engine import load_config
from ohem_d2.evaluation.label_error_files import read_inspected
from ohem_d2.evaluation.label_errors import MISSING, SAME_OBJECT_IOU, InspectedImage
from ohem_d2.evaluation.label_ranking import RANKED_BY, box_ious
from ohem_d2.evaluation.objectlab import objectlab_scores

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = (50, 100, 200)
NUM_SHUFFLES = 100


class Suspect(NamedTuple):
    """A place that a method calls wrong."""

    suspicion: float
    image_id: str
    box: Sequence[float]  # of the label, or of what is missing
    is_label: bool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--share", type=float, default=0.05, help="of labels wrong in each way; default 0.05")
    parser.add_argument("--folds", type=int, default=4, help="default 4")
    parser.add_argument("--config-file", default=str(ROOT / "configs/demo/ohem.yaml"))
    parser.add_argument("--dataset", help="in VOC layout, registered by the config; default: drawn ones")
    parser.add_argument("--output", type=Path, required=True, help="folder of the data sets and models")
    parser.add_argument("--results", type=Path, help="JSON file; the table goes beside it as .md")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the training")
    args = parser.parse_args()
    seeds: list[dict[str, Any]] = []
    for seed in args.seeds:
        data, found = make(args, seed)
        wrong = json.loads((data / "wrong_labels.json").read_text())
        seeds.append({"seed": seed, **evaluate(read_inspected(found / "inspected.json"), wrong)})
        print(describe(seeds), flush=True)
        write_report({"share": args.share, "folds": args.folds, "seeds": seeds}, args.results)
        if args.results:
            command = shlex.join(["python", *sys.argv])
            args.results.with_suffix(".md").write_text(f"{describe(seeds)}\n`{command}`\n")


def make(args: argparse.Namespace, seed: int) -> tuple[Path, Path]:
    """Make the data of a seed and find its wrong labels, unless that was done; the folders of both."""
    data, found = args.output / f"data{seed}", args.output / f"found{seed}"
    shares = dict.fromkeys(WRONG_KINDS, args.share)
    if args.dataset:
        load_config(args.config_file, args.opts)  # registers it
        corrupt_voc(args.dataset, np.random.default_rng(seed), shares, data)
    else:
        drawn = ["--output", str(data), "--seed", str(seed), "--test", "1"]  # whose labels are right
        named = [f"{kind}={share}" for kind, share in shares.items()]
        run("datasets/prepare_demo.py", *drawn, "--wrong-labels", *named)
    if not (found / "inspected.json").exists():
        chosen = ["--folds", str(args.folds), "--seed", str(seed), "--output", str(found)]
        name = "corrupted_train" if args.dataset else "demo_train"
        opts = [*args.opts, "DATASETS.CATALOG", f"('{data / 'catalog.yaml'}',)", "DATASETS.TEST", "()"]
        command = ["--config-file", args.config_file, "--dataset", name, *chosen, *opts]
        run("tools/find_label_errors.py", *command, "DATASETS.TRAIN", f"('{name}',)")
    return data, found


def corrupt_voc(name: str, rng: np.random.Generator, shares: Mapping[str, float], folder: Path) -> None:
    """Write a data set in VOC layout with wrong labels into a folder, as corrupted_train of its catalogue.

    Its images, lists and proposals are those of `name`.
    """
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    classes, sizes = metadata.thing_classes, {x["image_id"]: (x["width"], x["height"]) for x in records}
    truths = {
        x["image_id"]: [LabelledBox(classes[a["category_id"]], tuple(a["bbox"])) for a in x["annotations"]]
        for x in records
    }
    labels, wrong = corrupt_labels(rng, truths, shares, classes, sizes)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    for x in records:
        content = voc_xml(Path(x["file_name"]).name, sizes[x["image_id"]], labels[x["image_id"]])
        (folder / "Annotations" / f"{x['image_id']}.xml").write_bytes(content)
    (folder / "train.txt").write_text("".join(f"{x['image_id']}\n" for x in records))
    entry = {
        "format": "voc",
        "root": str(Path(metadata.dirname).absolute()),
        "annotations": str((folder / "Annotations").absolute()),
        "imagesets": str(folder.absolute()),
        "splits": ["train"],
        "classes": list(classes),
        "year": metadata.year,
        "proposals": str(Path(metadata.proposal_file).absolute()),
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"corrupted": entry}, sort_keys=False))
    (folder / "wrong_labels.json").write_text(json.dumps([asdict(label) for label in wrong], indent=1) + "\n")


def run(script: str, *arguments: str) -> None:
    code = subprocess.run([sys.executable, str(ROOT / script), *arguments]).returncode
    if code != 0:
        sys.exit(code)


def evaluate(images: Sequence[InspectedImage], wrong: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Precision and area of each method, and the share of each kind of wrong labels among its first."""
    by_losses = list(by_loss(images))
    methods = {
        "loss": by_losses,
        "cls loss": list(by_loss(images, "cls")),
        "missing": [suspect for suspect in by_losses if not suspect.is_label],
        "detection score": list(by_detections(images)),
    }
    try:
        methods["ObjectLab"] = list(by_objectlab(images))
    except ImportError as error:
        print(f"without ObjectLab: {error}")
    rows = {name: measure(hits_of(suspects, wrong), wrong) for name, suspects in methods.items()}
    rng, hits = np.random.default_rng(0), hits_of(methods["loss"], wrong)
    shuffled = [measure(list(rng.permutation(np.array(hits))), wrong) for _ in range(NUM_SHUFFLES)]
    rows["random"] = {key: statistics.fmean(row[key] for row in shuffled) for key in shuffled[0]}
    labels = sum(len(image.categories) for image in images)
    return {"labels": labels, "wrong": len(wrong), "methods": rows}


def measure(hits: Sequence[int], wrong: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a ranking reaches.

    Args:
        hits: of each suspect, by suspicion descending, the index of the wrong label that it finds, or -1.
        wrong: all of them, with their ``kind``.

    Returns:
        ``P@50`` and so on, ``AUPRC``, and ``recall of KIND`` among as many suspects as wrong labels.
    """
    is_right = np.array(hits) >= 0
    precision = is_right.cumsum() / np.arange(1, len(hits) + 1)
    row = {f"P@{number}": float(is_right[:number].sum() / number) for number in NUMBERS}
    row["AUPRC"] = float(precision[is_right].sum() / len(wrong))
    first = {hit for hit in hits[: len(wrong)] if hit >= 0}
    for kind in sorted({w["kind"] for w in wrong}):
        of_kind = {place for place, w in enumerate(wrong) if w["kind"] == kind}
        row[f"recall of {kind}"] = len(of_kind & first) / len(of_kind)
    return row


def hits_of(suspects: Sequence[Suspect], wrong: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each suspect, by suspicion descending, the wrong label that it is the first to find, or -1."""
    of_images: dict[str, list[int]] = {}
    for place, w in enumerate(wrong):
        of_images.setdefault(w["image_id"], []).append(place)
    left, hits = set(range(len(wrong))), []
    for suspect in sorted(suspects, key=lambda s: -s.suspicion):
        near = [p for p in of_images.get(suspect.image_id, ()) if p in left and is_found(suspect, wrong[p])]
        hits.append(near[0] if near else -1)
        left -= set(near[:1])
    return hits


def is_found(suspect: Suspect, wrong: Mapping[str, Any]) -> bool:
    """A suspected label has the box of the wrong one; what is missing is near an object without its label."""
    if suspect.is_label:
        return wrong["label"] is not None and iou(suspect.box, wrong["label"]["box"]) > 0.9
    return wrong["kind"] != "flipped" and iou(suspect.box, wrong["truth"]["box"]) >= 0.5


def iou(box: Sequence[float], other: Sequence[float]) -> float:
    return float(box_ious(np.array([box], float), np.array([other], float))[0, 0])


def by_loss(images: Sequence[InspectedImage], rank_by: str = "cls+box") -> Iterator[Suspect]:
    loss_of = RANKED_BY[rank_by]
    for image in images:
        for found in image.findings:
            box = found.box if found.kind == MISSING else image.boxes[found.label]
            yield Suspect(loss_of(found), image.image_id, box, found.kind != MISSING)


def by_detections(images: Sequence[InspectedImage]) -> Iterator[Suspect]:
    for image in images:
        ious = box_ious(image.boxes, image.found_boxes)  # (labels, detections)
        is_same = (image.categories[:, None] == image.found_categories) & (ious >= 0.5)
        confirmed = np.max(is_same * image.found_scores, axis=1, initial=0)
        for box, score in zip(image.boxes, confirmed):
            yield Suspect(1 - score, image.image_id, box, True)
        for place in np.flatnonzero(np.max(ious, axis=0, initial=0) < SAME_OBJECT_IOU):
            yield Suspect(image.found_scores[place], image.image_id, image.found_boxes[place], False)


def by_objectlab(images: Sequence[InspectedImage]) -> Iterator[Suspect]:
    num_classes = 1 + max(int(c) for image in images for c in (*image.categories, *image.found_categories))
    for image, (of_labels, of_found) in zip(images, objectlab_scores(images, num_classes)):
        for box, score in zip(image.boxes, of_labels):
            yield Suspect(1 - score, image.image_id, box, True)
        for place in np.flatnonzero(~np.isnan(of_found)):
            yield Suspect(1 - of_found[place], image.image_id, image.found_boxes[place], False)


def describe(seeds: Sequence[Mapping[str, Any]]) -> str:
    """A table of the means over seeds, lowest and highest in brackets, and what bounds precision."""
    rows = []
    for name in seeds[0]["methods"]:
        of_method = [seed["methods"][name] for seed in seeds]
        rows.append([name, *(_mean([row[key] for row in of_method]) for key in of_method[0])])
    table = tabulate(rows, ["method", *seeds[0]["methods"]["loss"]], tablefmt="pipe", disable_numparse=True)
    wrong = statistics.fmean(seed["wrong"] for seed in seeds)
    bounds = ", ".join(f"P@{number} {min(1, wrong / number):.2f}" for number in NUMBERS)
    labels = statistics.fmean(seed["labels"] for seed in seeds)
    return f"{table}\n\n{len(seeds)} seeds: {wrong:g} of {labels:g} labels are wrong; at most {bounds}.\n"


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
