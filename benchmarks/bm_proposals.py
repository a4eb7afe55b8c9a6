#!/usr/bin/env python
"""The proposal store compared with Detectron2's own loader: opening, random reads, first batch, conversion.

    python benchmarks/bm_proposals.py --images 20000 --boxes 1000 --output benchmarks/results/proposals.json

Each measurement runs in a process of its own, on synthetic boxes; files are in the page cache. Memory is in
addition to that after the imports, as in Linux's smaps_rollup: for opening, the private pages of the process,
including mapped files; with workers, the anonymous pages of all processes, shared ones counted once.
"""

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SIZE = (500, 375)
READS = 20000
VERSIONS = ("python", "numpy", "torch", "detectron2", "safetensors")


def drawn_entries(images: int, boxes: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(id, boxes, scores) of each image; 64 sets of boxes are repeated, scores are drawn for each image."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 300, (64, boxes, 2)).astype(np.float32)
    sets = np.concatenate([corner, corner + rng.uniform(4, 75, corner.shape).astype(np.float32)], axis=2)
    for i in range(images):
        yield f"{i:012}", sets[i % 64], rng.random(boxes, np.float32)


def drawn_dataset(images: int, folder: Path) -> list[dict[str, Any]]:
    """Dataset dicts with one object each, all of the same grey image."""
    from PIL import Image

    file_name = folder / "image.jpg"
    if not file_name.exists():
        Image.new("RGB", IMAGE_SIZE, "grey").save(file_name)
    width, height = IMAGE_SIZE
    annotation = {"bbox": [50, 50, 150, 150], "bbox_mode": 0, "category_id": 0}
    plain = {"file_name": str(file_name), "width": width, "height": height, "annotations": [annotation]}
    return [{**plain, "image_id": f"{i:012}"} for i in range(images)]


def memory(kind: str, pids: list[int] | None = None) -> float:
    """MB of pages of a kind ("Private_" or "Pss_Anon") in this or other processes."""
    total = 0
    for pid in pids or [os.getpid()]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(kind))
    return total * 1024 / 1e6


def store_write(args: argparse.Namespace) -> dict[str, float]:
    from ohem_d2.proposals import ProposalWriter

    begin = time.perf_counter()
    with ProposalWriter(args.folder / "p.safetensors") as writer:
        for entry in drawn_entries(args.images, args.boxes):
            writer.add(*entry)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "file_MB": (args.folder / "p.safetensors").stat().st_size / 1e6}


def pickle_write(args: argparse.Namespace) -> dict[str, float]:
    begin = time.perf_counter()
    ids, boxes, scores = zip(*drawn_entries(args.images, args.boxes))
    content = {
        "ids": list(ids),
        "boxes": [b.copy() for b in boxes],
        "objectness_logits": list(scores),
        "bbox_mode": 0,
    }
    with open(args.folder / "p.pkl", "wb") as file:
        pickle.dump(content, file, protocol=4)
    return {"seconds": time.perf_counter() - begin, "file_MB": (args.folder / "p.pkl").stat().st_size / 1e6}


def store_open(args: argparse.Namespace) -> dict[str, float]:
    from ohem_d2.data import read_proposals

    before, begin, cpu = memory("Private_"), time.perf_counter(), time.process_time()
    proposals = read_proposals(args.folder / "p.safetensors")
    assert f"{args.images - 1:012}" in proposals
    times = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    return {**times, "memory_MB": memory("Private_") - before}


def store_read(args: argparse.Namespace) -> dict[str, float]:
    from ohem_d2.data import read_proposals

    proposals = read_proposals(args.folder / "p.safetensors")
    ids = list(proposals)
    picked = [ids[i] for i in np.random.default_rng(1).integers(0, len(ids), READS)]
    times = []
    for _ in range(6):
        begin, cpu = time.perf_counter(), time.process_time()
        for image_id in picked:
            proposals[image_id]
        times.append((time.perf_counter() - begin, time.process_time() - cpu))
    seconds, cpu_seconds = np.median(times[1:], axis=0).tolist()  # the first one pages in
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "images_per_s": READS / seconds}


def detectron2_open(args: argparse.Namespace) -> dict[str, float]:
    from detectron2.data import load_proposals_into_dataset

    dataset = drawn_dataset(args.images, args.folder)
    before, begin = memory("Private_"), time.perf_counter()
    dataset = load_proposals_into_dataset(dataset, str(args.folder / "p.pkl"))
    return {"seconds": time.perf_counter() - begin, "memory_MB": memory("Private_") - before}


def store_first_batch(args: argparse.Namespace) -> dict[str, float]:
    from ohem_d2.data import build_train_loader

    return first_batch(args, "p.safetensors", build_train_loader)


def detectron2_first_batch(args: argparse.Namespace) -> dict[str, float]:
    from detectron2.data import build_detection_train_loader

    return first_batch(args, "p.pkl", build_detection_train_loader)


def first_batch(args: argparse.Namespace, file: str, build) -> dict[str, float]:
    """Time to the first batch with two workers, and memory of this process and the workers at that point."""
    import multiprocessing

    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, MetadataCatalog

    dataset = drawn_dataset(args.images, args.folder)
    DatasetCatalog.register("drawn", lambda: dataset)
    MetadataCatalog.get("drawn").set(thing_classes=["thing"])
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN = ("drawn",), (str(args.folder / file),)
    cfg.MODEL.LOAD_PROPOSALS, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = True, 2, 2
    before, begin = memory("Pss_Anon"), time.perf_counter()
    batches = iter(build(cfg))
    batch = next(batches)
    seconds = time.perf_counter() - begin
    assert all(len(image["proposals"]) == args.boxes for image in batch)
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    return {"seconds": seconds, "memory_MB": memory("Pss_Anon", pids) - before}


def convert_pickle(args: argparse.Namespace) -> dict[str, float]:
    from ohem_d2.proposals.conversion import convert_proposals

    begin = time.perf_counter()
    report = convert_proposals(args.folder / "p.pkl", args.folder / "converted.safetensors")
    seconds = time.perf_counter() - begin
    (args.folder / "converted.safetensors").unlink()
    return {"seconds": seconds, "images_per_s": report.num_images / seconds}


MEASUREMENTS = {
    "write the store": store_write,
    "open the store": store_open,
    "random reads of the store": store_read,
    "first batch, store": store_first_batch,
    "write the pickle": pickle_write,
    "open the pickle, Detectron2": detectron2_open,
    "first batch, Detectron2": detectron2_first_batch,
    "convert the pickle": convert_pickle,
}


def run(name: str, args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--measure", name, "--folder", folder]
    command += ["--images", str(args.images), "--boxes", str(args.boxes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {name}: {done.stderr[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def environment() -> dict[str, Any]:
    import detectron2
    import safetensors
    import torch

    from ohem_d2.utils.revision import read_revision

    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    versions.update(detectron2=detectron2.__version__, safetensors=safetensors.__version__)
    cpu_name = f"{len(cpu)} x {cpu[0]}" if cpu else platform.processor()
    return {"code": read_revision(), "cpu": cpu_name, **versions}


def table(results: list[dict[str, Any]]) -> str:
    """Format results as Markdown."""
    lines = [
        "| images x boxes | measurement | seconds | of the CPU | memory MB | images/s | file MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, values in result["measurements"].items():
            columns = ("seconds", "cpu_seconds", "memory_MB", "images_per_s", "file_MB")
            cells = [f"{values[key]:,.4g}" if key in values else "" for key in columns]
            lines.append(
                f"| {result['images']:,} x {result['boxes']:,} | {name} | " + " | ".join(cells) + " |"
            )
    for result in results:
        versions = ", ".join(f"{key} {result[key]}" for key in VERSIONS)
        lines.append(f"\n{result['images']:,} images: `{result['command']}`; {result['cpu']}; {versions}.")
    return "\n".join(lines)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--boxes", type=int, default=1000, help="per image")
    parser.add_argument(
        "--store-only",
        action="store_true",
        help="leave Detectron2 out: at 118,287 x 1,000 it needs much memory",
    )
    parser.add_argument("--output", type=Path, help="JSON to add the result to; the table goes beside it")
    parser.add_argument("--folder", type=Path, help="for the files, some GB; default: a temporary one")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.measure:
        print(json.dumps(MEASUREMENTS[args.measure](args)))
        return
    names = [name for name in MEASUREMENTS if not args.store_only or "store" in name]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        measurements = {name: run(name, args, folder) for name in names}
    command = " ".join(["python", os.path.relpath(__file__), *sys.argv[1:]])
    result = {"images": args.images, "boxes": args.boxes, "command": command, **environment()}
    results = [{**result, "measurements": measurements}]
    if args.output:
        if args.output.exists():
            results = json.loads(args.output.read_text()) + results
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=1) + "\n")
        args.output.with_suffix(".md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
