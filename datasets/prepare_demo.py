#!/usr/bin/env python
"""Draw the demo's data set in VOC layout and compute its proposals by Selective Search.

    python datasets/prepare_demo.py --output datasets/demo

It writes JPEGImages, Annotations, ImageSets/Main/{train,test}.txt, proposals/{train,test}.safetensors, and
catalog.yaml, which registers the splits as demo_train and demo_test, or crowds_train and crowds_test with
--crowds; with --wrong-labels also wrong_labels.json, with --background also the folder background, registered
as demo_background (crowds_background). The same parameters give the same data.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

try:
    import cv2
except ImportError:
    sys.exit("prepare_demo.py draws with OpenCV: pip install opencv-contrib-python")
import numpy as np
import yaml

from ohem_d2.data import load_voc
from ohem_d2.data.background import load_background
from ohem_d2.data.drawing import (
    BACKGROUND,
    CLASS_NAMES,
    CROWD,
    DRAWING_VERSION,
    IMAGE_SIZE,
    Contents,
    draw_demo_image,
)
from ohem_d2.data.voc_xml import LabelledBox, voc_xml
from ohem_d2.data.wrong_labels import WRONG_KINDS, corrupt_labels
from ohem_d2.proposals import summarize_proposals, write_proposals
from ohem_d2.proposals.selective_search import generate_selective_search
from ohem_d2.utils.locks import hold_lock

JPEG_QUALITY = 92
STAMP = "demo.json"  # has the parameters; a folder without it is never replaced
SPLITS = ("train", "test")
# Parameters that are in the stamp only where they differ from their default.
OPTIONAL = ("crowds", "objects", "look_alike", "drop", "wrong_labels", "distractors", "background")
MAX_DROPPED = 0.99  # of a class: some image must have an object


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing; default: 0")
    parser.add_argument("--train", type=int, default=240, help="number of training images; default: 240")
    parser.add_argument("--test", type=int, default=80, help="number of test images; default: 80")
    parser.add_argument("--objects", type=int, nargs=2, default=[2, 5], metavar=("MIN", "MAX"),
                        help="objects of an image; fewer where one finds no place; default: 2 5")  # fmt: skip
    parser.add_argument("--distractors", type=int, nargs=2, default=[1, 3], metavar=("MIN", "MAX"),
                        help="shapes of no class in a training image; default: 1 3")  # fmt: skip
    parser.add_argument("--background", type=int, nargs=2, default=[0, 0], metavar=("TRAIN", "TEST"),
                        help="images without objects, of shapes of no class alone: TRAIN in a folder of "
                        "their own, without annotations, and TEST among the test images; default: 0 0"
                        )  # fmt: skip
    parser.add_argument("--look-alike", type=share_up_to(1.0), default=0.0, metavar="LEVEL",
                        help="how far the hues of the classes overlap: 0, not at all; 1, only shapes tell "
                        "classes apart; default: 0")  # fmt: skip
    parser.add_argument("--drop", type=named_share(CLASS_NAMES, MAX_DROPPED), nargs="+", default={},
                        metavar="CLASS=SHARE",
                        help="leave out a share of the objects of a class when training images are drawn: "
                        "the class is rarer there")  # fmt: skip
    parser.add_argument("--wrong-labels", type=named_share(WRONG_KINDS, 1.0), nargs="+", default={},
                        metavar="KIND=SHARE",
                        help="make a share of the training labels wrong; kinds: " + ", ".join(WRONG_KINDS)
                        )  # fmt: skip
    parser.add_argument("--crowds", type=share_up_to(1.0), default=0.0, metavar="SHARE",
                        help="share of training images with a crowd, whose objects are not annotated singly "
                        "but as one ignore region; default: 0")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes of the search; default: one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of other parameters")
    return parser


def share_up_to(largest: float) -> Callable[[str], float]:
    """Of an option: reads a number in [0, `largest`]."""

    def share(text: str) -> float:
        if not 0 <= float(text) <= largest:
            raise argparse.ArgumentTypeError(f"must be in [0, {largest:g}], not {text}")
        return float(text)

    return share


def named_share(names: Iterable[str], largest: float) -> Callable[[str], tuple[str, float]]:
    """Of an option: reads NAME=SHARE, the name one of `names`, the share in [0, `largest`]."""

    def pair(text: str) -> tuple[str, float]:
        name, _, share = text.partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if name not in names or not 0 <= value <= largest:
            valid = f"NAME=SHARE, a name of {', '.join(names)} and a share in [0, {largest:g}]"
            raise argparse.ArgumentTypeError(f"must be {valid}, not {text}")
        return name, value

    return pair


def prepare_demo(output: Path, parameters: dict, workers: int | None, overwrite: bool) -> None:
    """Make the data set beside `output` and move it there when it is complete, unless it is there already."""
    if is_ready(output, parameters, overwrite):
        print(f"{output} is ready: nothing to do")
        return
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "proposals"):
        (partial / folder).mkdir(parents=True)
    for split in SPLITS:
        draw_split(partial, split, parameters)
    number = parameters.get("background", (0, 0))[0]
    if number:
        (partial / "background").mkdir()
        draw_images(partial / "background", "background", number, parameters["seed"], BACKGROUND)
    search_splits(partial, workers)
    write_catalog(partial, [CROWD] if "crowds" in parameters else [])
    (partial / STAMP).write_text(json.dumps(parameters) + "\n")
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)
    print(f"written to {output}; its catalogue is {output / 'catalog.yaml'}")


def is_ready(output: Path, parameters: dict, overwrite: bool) -> bool:
    """Whether `output` is the data set of these parameters.

    Raises:
        ValueError: it is something else that must not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / STAMP).is_file():
        raise ValueError(f"{output} is not a data set that this script made; choose another --output")
    found = json.loads((output / STAMP).read_text())
    if found != parameters and not overwrite:
        raise ValueError(f"{output} was made with {found}, not {parameters}; --overwrite replaces it")
    return found == parameters


def draw_split(root: Path, split: str, parameters: dict) -> None:
    """Draw and label the images of a split."""
    is_train = split == "train"
    contents = Contents(
        tuple(parameters.get("objects", Contents.objects)),
        tuple(parameters.get("distractors", Contents.distractors)) if is_train else Contents.distractors,
        parameters.get("look_alike", 0.0),
        parameters.get("drop", {}) if is_train else {},
    )
    images, seed = root / "JPEGImages", parameters["seed"]
    crowds = parameters.get("crowds", 0.0) if is_train else 0.0
    labels = draw_images(images, split, parameters[split], seed, contents, crowds)
    if not is_train:
        number = parameters.get("background", (0, 0))[1]
        labels |= draw_images(images, f"{split}_background", number, seed, BACKGROUND)
    if is_train and "wrong_labels" in parameters:
        rng = np.random.default_rng([parameters["seed"], *b"wrong labels"])
        sizes = dict.fromkeys(labels, IMAGE_SIZE)
        labels, wrong = corrupt_labels(rng, labels, parameters["wrong_labels"], CLASS_NAMES, sizes)
        records = [dataclasses.asdict(label) for label in wrong]
        (root / "wrong_labels.json").write_text(json.dumps(records, indent=1) + "\n")
    for image_id, objects in labels.items():
        content = voc_xml(f"{image_id}.jpg", IMAGE_SIZE, objects)
        (root / "Annotations" / f"{image_id}.xml").write_bytes(content)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(labels) + "\n")


def draw_images(
    folder: Path, split: str, count: int, seed: int, contents: Contents, crowds: float = 0.0
) -> dict[str, list[LabelledBox]]:
    """Draw images into a folder, and return the objects of each by its id.

    An image without a crowd depends on the seed, its split, its number and the contents alone.
    """
    objects = {}
    for number in range(1, count + 1):
        has_crowd = int(number * crowds) > int((number - 1) * crowds)  # evenly spread
        rng = np.random.default_rng([seed, number, *split.encode()])
        image = draw_demo_image(rng, contents, has_crowd)
        image_id = f"{split}_{number:05d}"
        path = folder / f"{image_id}.jpg"
        if not cv2.imwrite(str(path), image.pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise OSError(f"cannot write {path}")
        objects[image_id] = image.objects
    return objects


def search_splits(root: Path, workers: int | None) -> None:
    """Compute and write the proposals of each split, and of the background if there is any."""
    records = {split: load_voc(root, split, CLASS_NAMES, [CROWD]) for split in SPLITS}
    if (root / "background").is_dir():
        records["background"] = load_background(root / "background")
    proposals = generate_selective_search(
        [record for of_split in records.values() for record in of_split], workers
    )
    for split, of_split in records.items():
        found = {record["image_id"]: proposals[record["image_id"]] for record in of_split}
        write_proposals(root / "proposals" / f"{split}.safetensors", found)
        print(f"{split}: {summarize_proposals(of_split, found)}")


def write_catalog(root: Path, ignore: list[str]) -> None:
    name = "crowds" if ignore else "demo"
    entry = {
        "format": "voc",
        "root": ".",
        "splits": list(SPLITS),
        "classes": list(CLASS_NAMES),
        "year": 2012,
        "proposals": "./proposals/{split}.safetensors",
        **({"ignore": ignore} if ignore else {}),
    }
    entries = {name: entry}
    if (root / "background").is_dir():
        proposals = "./proposals/background.safetensors"
        entries[f"{name}_background"] = {"format": "images", "root": "./background", "proposals": proposals}
    (root / "catalog.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))


def main(argv: list[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(argv)
    args.drop, args.wrong_labels = dict(args.drop), dict(args.wrong_labels)
    if args.seed < 0 or min(args.train, args.test) < 1:
        parser.error("--train and --test must be at least 1, --seed at least 0")
    if not 1 <= args.objects[0] <= args.objects[1]:
        parser.error("--objects must be at least 1, the first at most the second")
    if not 0 <= args.distractors[0] <= args.distractors[1]:
        parser.error("--distractors must be at least 0, the first at most the second")
    if min(args.background) < 0:
        parser.error("--background must be at least 0")
    if sum(args.wrong_labels.values()) > 1:
        parser.error("the shares of --wrong-labels must not exceed 1 together")
    parameters = {"seed": args.seed, "train": args.train, "test": args.test, "drawing": DRAWING_VERSION}
    given = {name: getattr(args, name) for name in OPTIONAL}
    parameters |= {name: value for name, value in given.items() if value != parser.get_default(name)}
    output = Path(os.path.abspath(args.output))
    try:
        with hold_lock(output.with_name(output.name + ".lock"), str(output)):
            prepare_demo(output, parameters, args.workers, args.overwrite)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the data set was not made")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no process is left
    main()
