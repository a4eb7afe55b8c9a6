#!/usr/bin/env python
"""Images per second of the training loader with proposals, compared with Detectron2's with and without them.

    python benchmarks/bm_loader.py --output benchmarks/results/loader.json

Synthetic JPEGs of VOC's size and their proposals are read, resized and flipped as in training; Detectron2
reads the proposals from a pickle, this project from a store. The loaders take turns in one process.
"""

import argparse
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
import numpy as np
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from measure import time_in_turns, write_report
from PIL import Image

from ohem_d2 import add_ohem_config
from ohem_d2.data import build_train_loader, write_proposals

BASE, DATASET = "Detectron2 with proposals", "drawn"
WIDTH, HEIGHT, BATCH = 500, 375, 2


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="default 0 and 2")
    parser.add_argument("--boxes", type=int, nargs="+", default=[500, 2000], help="per image")
    parser.add_argument("--images", type=int, default=256, help="number of JPEGs (default 256)")
    parser.add_argument("--short-side", type=int, default=600, help="of resized images (default 600)")
    parser.add_argument("--batches", type=int, default=20, help=f"of {BATCH} images per turn (default 20)")
    parser.add_argument("--repeats", type=int, default=20, help="turns (default 20)")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = draw_images(args.images, Path(folder))
        DatasetCatalog.register(DATASET, lambda: dataset)
        MetadataCatalog.get(DATASET).set(thing_classes=["thing"])
        results = {boxes: measure(dataset, boxes, Path(folder), args) for boxes in args.boxes}
    write_report({"boxes": results}, args.output)
    print(table(results, args))


def measure(dataset, num_boxes: int, folder: Path, args) -> dict[int, dict[str, dict]]:
    """Number of workers -> loader -> its measurements."""
    store, pickled = draw_proposals(dataset, num_boxes, folder)
    sources = {
        BASE: (build_detection_train_loader, pickled),
        "Detectron2 without": (build_detection_train_loader, None),
        "ours with proposals": (build_train_loader, store),
    }
    results = {}
    for workers in args.workers:
        turns = {name: take(*source, workers, args) for name, source in sources.items()}
        results[workers] = time_in_turns(turns, "cpu", args.repeats, warmup=1)
        for of_loader in results[workers].values():
            of_loader["images/s"] = 1000 * args.batches * BATCH / of_loader["ms"]
            of_loader["ratio"] = of_loader["images/s"] / results[workers][BASE]["images/s"]
    return results


def draw_images(number: int, folder: Path) -> list[dict[str, Any]]:
    """Dataset dicts of JPEGs of smooth noise, with one object each."""
    rng, dataset = np.random.default_rng(0), []
    for i in range(number):
        coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.BICUBIC).save(folder / f"{i}.jpg")
        annotation = {"bbox": [50, 50, 150, 150], "bbox_mode": 0, "category_id": 0}
        image = {"file_name": str(folder / f"{i}.jpg"), "image_id": str(i), "width": WIDTH, "height": HEIGHT}
        dataset.append({**image, "annotations": [annotation]})
    return dataset


def draw_proposals(dataset, num_boxes: int, folder: Path):
    """Paths of a store and of Detectron2's pickle of the same boxes."""
    rng, drawn = np.random.default_rng(0), {}
    for image in dataset:
        corners = rng.random((2, num_boxes, 2)) * [image["width"] - 1, image["height"] - 1]
        boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0) + 1], axis=1).astype(np.float32)
        drawn[image["image_id"]] = boxes, rng.random(num_boxes, np.float32)
    store, pickled = folder / f"{num_boxes}.safetensors", folder / f"{num_boxes}.pkl"
    write_proposals(store, drawn)
    boxes, scores = map(list, zip(*drawn.values()))
    content = {"ids": list(drawn), "boxes": boxes, "objectness_logits": scores, "bbox_mode": 0}
    pickled.write_bytes(pickle.dumps(content))
    return store, pickled


def take(build: Callable, file, workers: int, args) -> Callable[[], None]:
    """A function that takes the batches of a turn from the loader of `build`; without `file` no proposals."""
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = (DATASET,), workers, BATCH
    cfg.INPUT.MIN_SIZE_TRAIN = (args.short_side,)
    cfg.MODEL.LOAD_PROPOSALS, cfg.DATASETS.PROPOSAL_FILES_TRAIN = file is not None, (str(file),)
    batches = iter(build(cfg))

    def run() -> None:
        for _ in range(args.batches):
            batch = next(batches)
        assert all(("proposals" in image) == (file is not None) for image in batch)

    return run


def table(results, args) -> str:
    lines = ["| proposals of an image | workers | loader | images/s | ratio |", "|---" * 5 + "|"]
    for boxes, of_boxes in results.items():
        for workers, loaders in of_boxes.items():
            for name, r in loaders.items():
                lines.append(f"| {boxes} | {workers} | {name} | {r['images/s']:.1f} | {r['ratio']:.3f} |")
    lines.append(f"\nJPEGs of {HEIGHT} x {WIDTH}, resized to a short side of {args.short_side}; "
                 f"median of {args.repeats} turns of {args.batches} batches of {BATCH}.")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
