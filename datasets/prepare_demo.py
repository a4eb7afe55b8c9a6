#!/usr/bin/env python
"""Draw the demo's data set in VOC layout and compute its proposals by Selective Search.

    python datasets/prepare_demo.py --output datasets/demo

It writes JPEGImages, Annotations, ImageSets/Main/{train,test}.txt, proposals/{train,test}.safetensors, and
catalog.yaml, which registers the splits as demo_train and demo_test, or crowds_train and crowds_test with
--crowds. The same parameters give the same data.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import yaml

from ohem_d2.data import load_voc
from ohem_d2.data.demo import CLASS_NAMES, CROWD, DRAWING_VERSION, IMAGE_SIZE, DemoObject, draw_demo_image
from ohem_d2.proposals import summarize_proposals, write_proposals
from ohem_d2.proposals.selective_search import generate_selective_search
from ohem_d2.utils.locks import hold_lock

JPEG_QUALITY = 92
STAMP = "demo.json"  # has the parameters; a folder without it is never replaced


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing; default: 0")
    parser.add_argument("--train", type=int, default=240, help="number of training images; default: 240")
    parser.add_argument("--test", type=int, default=80, help="number of test images; default: 80")
    parser.add_argument("--crowds", type=float, default=0.0,
                        help="share of training images with a crowd, whose objects are not annotated singly "
                        "but as one ignore region; default: 0")  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes of the search; default: one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace a data set of other parameters")
    return parser


def prepare_demo(
    output: Path,
    seed: int,
    num_images: dict[str, int],
    workers: int | None,
    overwrite: bool,
    crowds: float = 0.0,
) -> None:
    """Make the data set beside `output` and move it there when it is complete, unless it is there already."""
    parameters = {"seed": seed, **num_images, "drawing": DRAWING_VERSION}
    if crowds:
        parameters["crowds"] = crowds
    if is_ready(output, parameters, overwrite):
        print(f"{output} is ready: nothing to do")
        return
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "proposals"):
        (partial / folder).mkdir(parents=True)
    for split, count in num_images.items():
        draw_split(partial, split, count, seed, crowds if split == "train" else 0.0)
    search_splits(partial, list(num_images), workers)
    write_catalog(partial / "catalog.yaml", list(num_images), [CROWD] if crowds else [])
    (partial / STAMP).write_text(json.dumps(parameters) + "\n")
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)
    print(f"written to {output}; its catalogue is {output / 'catalog.yaml'}")


def is_ready(output: Path, parameters: dict[str, float], overwrite: bool) -> bool:
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


def draw_split(root: Path, split: str, count: int, seed: int, crowds: float) -> None:
    """Draw the images of a split; one without a crowd depends on the seed, its split and its number alone."""
    image_ids = [f"{split}_{number:05d}" for number in range(1, count + 1)]
    for number, image_id in enumerate(image_ids, start=1):
        has_crowd = int(number * crowds) > int((number - 1) * crowds)  # evenly spread
        image = draw_demo_image(np.random.default_rng([seed, number, *split.encode()]), has_crowd)
        file_name = f"{image_id}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        if not cv2.imwrite(str(root / "JPEGImages" / file_name), image.pixels, quality):
            raise OSError(f"cannot write {root / 'JPEGImages' / file_name}")
        (root / "Annotations" / f"{image_id}.xml").write_bytes(annotation_xml(file_name, image.objects))
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(image_ids) + "\n")


def annotation_xml(file_name: str, objects: list[DemoObject]) -> bytes:
    """Annotations in VOC's format: boxes in 1-based inclusive pixels."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    add_numbers(ET.SubElement(root, "size"), width=IMAGE_SIZE[0], height=IMAGE_SIZE[1], depth=3)
    for drawn in objects:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = drawn.category
        ET.SubElement(element, "pose").text = "Unspecified"
        add_numbers(element, truncated=0, difficult=0)
        x1, y1, x2, y2 = drawn.box
        add_numbers(ET.SubElement(element, "bndbox"), xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ET.indent(root)
    return ET.tostring(root) + b"\n"


def add_numbers(parent: ET.Element, **numbers: int) -> None:
    for name, number in numbers.items():
        ET.SubElement(parent, name).text = str(number)


def search_splits(root: Path, splits: list[str], workers: int | None) -> None:
    """Compute and write the proposals of each split."""
    records = {split: load_voc(root, split, CLASS_NAMES, [CROWD]) for split in splits}
    proposals = generate_selective_search([record for split in splits for record in records[split]], workers)
    for split in splits:
        of_split = {record["image_id"]: proposals[record["image_id"]] for record in records[split]}
        write_proposals(root / "proposals" / f"{split}.safetensors", of_split)
        print(f"{split}: {summarize_proposals(records[split], of_split)}")


def write_catalog(path: Path, splits: list[str], ignore: list[str]) -> None:
    name = "crowds" if ignore else "demo"
    entry = {
        "format": "voc",
        "root": ".",
        "splits": splits,
        "classes": list(CLASS_NAMES),
        "year": 2012,
        "proposals": "./proposals/{split}.safetensors",
        **({"ignore": ignore} if ignore else {}),
    }
    path.write_text(yaml.safe_dump({name: entry}, sort_keys=False))


def main(argv: list[str] | None = None) -> None:
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.seed < 0 or min(args.train, args.test) < 1:
        parser.error("--train and --test must be at least 1, --seed at least 0")
    if not 0 <= args.crowds <= 1:
        parser.error("--crowds must be in [0, 1]")
    num_images = {"train": args.train, "test": args.test}
    output = Path(os.path.abspath(args.output))
    try:
        with hold_lock(output.with_name(output.name + ".lock"), str(output)):
            prepare_demo(output, args.seed, num_images, args.workers, args.overwrite, args.crowds)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the data set was not made")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no process is left
    main()
