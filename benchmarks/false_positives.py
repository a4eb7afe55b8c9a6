#!/usr/bin/env python
"""False positives with and without a folder of background images, and with and without mining, on drawn data.

    python benchmarks/false_positives.py --output output/false_positives [--seeds 0 1] [KEY VALUE ...]

Half of the test images show nothing but shapes that resemble objects; the labelled training images show no
such shape (--distractors 1 3: they do), the folder of background images shows nothing else. With it the
schedule is longer, so that all models see the labelled images equally often. What was made is not made again.
At the score at which a model finds 50% or 70% of all
objects: its false positives per test image, and per test image without objects.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import write_report
from tabulate import tabulate

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.comparison import run_once
from ohem_d2.data import register_catalog
from ohem_d2.engine import load_config
from ohem_d2.evaluation.matching import Matches, match_boxes
from ohem_d2.evaluation.run_detections import load_labelled_images, read_detections

ROOT = Path(__file__).resolve().parents[1]
CONFIG = str(ROOT / "configs/demo/ohem.yaml")
RECALLS = (0.5, 0.7)
# What is trained on -> DATASETS.TRAIN; how RoIs are sampled -> MODEL.OHEM.ENABLED.
TRAINED_ON = {"labelled": "('demo_train',)", "labelled + background": "('demo_train', 'demo_background')"}
SAMPLING = {"plain": "False", "OHEM": "True"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of data and training; default 0")
    parser.add_argument("--distractors", type=int, nargs=2, default=[0, 0], metavar=("MIN", "MAX"),
                        help="shapes that resemble objects in a labelled training image; default: 0 0"
                        )  # fmt: skip
    parser.add_argument("--train", type=int, default=240, help="labelled training images; default 240")
    parser.add_argument("--background", type=int, default=120, help="images of the folder; default 120")
    parser.add_argument("--test", type=int, default=160, help="test images of each kind; default 160")
    parser.add_argument("--output", type=Path, required=True, help="folder of the data sets and runs")
    parser.add_argument("--results", type=Path, help="JSON file; the table goes beside it as .md")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides of the training")
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        catalog = draw(args, seed)
        for sampling in SAMPLING:
            for trained_on in TRAINED_ON:
                runs.append(make_run(args, catalog, seed, sampling, trained_on))
                print(json.dumps(runs[-1]), flush=True)
        write_report({"distractors": args.distractors, "runs": runs}, args.results)
        if args.results:
            command = shlex.join(["python", *sys.argv])
            args.results.with_suffix(".md").write_text(f"{describe(runs)}\n`{command}`\n")
    print(describe(runs))


def draw(args: argparse.Namespace, seed: int) -> Path:
    """Draw the data of a seed, unless that was done; its catalogue."""
    folder, test = args.output / f"data{seed}", str(args.test)
    options = ["--train", str(args.train), "--test", test, "--background", str(args.background), test]
    options += ["--distractors", *map(str, args.distractors), "--seed", str(seed), "--output", str(folder)]
    done = subprocess.run([sys.executable, str(ROOT / "datasets/prepare_demo.py"), *options])
    if done.returncode:
        sys.exit(done.returncode)
    return folder / "catalog.yaml"


def make_run(
    args: argparse.Namespace, catalog: Path, seed: int, sampling: str, trained_on: str
) -> dict[str, Any]:
    """Train and test, unless that was done; what was found."""
    folder = args.output / f"{sampling}_{trained_on.replace(' + ', '_')}_seed{seed}"
    options = {
        "DATASETS.CATALOG": f"('{catalog}',)",
        "DATASETS.TRAIN": TRAINED_ON[trained_on],
        "MODEL.OHEM.ENABLED": SAMPLING[sampling],
        "MODEL.OHEM.VIS_PERIOD": "0",
    }
    opts = [*(text for option in options.items() for text in option), *args.opts]
    if "background" in trained_on:
        opts += longer_schedule(opts, 1 + args.background / args.train)
    record = run_once(CONFIG, seed, folder, opts)
    average = {name: record["figures"][f"bbox/{name}"] for name in ("AP", "AP50")}
    return {
        "seed": seed,
        "sampling": sampling,
        "trained on": trained_on,
        **average,
        **measure(catalog, folder),
    }


def longer_schedule(opts: Sequence[str], factor: float) -> list[str]:
    """Overrides that make the schedule of the config with `opts` longer."""
    forget_data()
    solver = load_config(CONFIG, opts).SOLVER  # registers the data
    steps = tuple(round(step * factor) for step in solver.STEPS)
    return ["SOLVER.MAX_ITER", str(round(solver.MAX_ITER * factor)), "SOLVER.STEPS", str(steps)]


def forget_data() -> None:
    """Make room for the data sets of another seed, which have the same names."""
    for name in [name for name in DatasetCatalog if name.startswith("demo_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def measure(catalog: Path, folder: Path) -> dict[str, float | None]:
    """False positives of the last test of a run."""
    forget_data()
    register_catalog(catalog)
    images = load_labelled_images("demo_test")
    matches = match_boxes(images.objects, read_detections(folder / "inference/demo_test", images))
    is_background = np.array([not record["annotations"] for record in images.records])
    figures: dict[str, float | None] = {}
    for recall in RECALLS:
        everywhere, on_background = false_positives(matches, is_background, recall)
        figures[f"FP / image at {recall:.0%}"] = everywhere
        figures[f"FP / background image at {recall:.0%}"] = on_background
    return figures


def false_positives(
    matches: Matches, is_background: np.ndarray, recall: float
) -> tuple[float | None, float | None]:
    """False positives per image, and per image without objects, at the highest score that reaches `recall`.

    Args:
        matches: with objects, and images as numbers in [0, n).
        is_background: (n,) bool, whether an image has no object.
        recall: share of all objects, in (0, 1]; where it is never reached, both are None.
    """
    needed = recall * (~matches.objects.is_ignored).sum()
    enough = matches.is_right.cumsum() >= needed
    if not enough.any():
        return None, None
    images = matches.found.images[: enough.argmax() + 1][matches.is_wrong[: enough.argmax() + 1]]
    return len(images) / len(is_background), is_background[images].sum() / is_background.sum()


def describe(runs: Sequence[Mapping[str, Any]]) -> str:
    """A row for each way of training: means over seeds, lowest and highest in brackets."""
    figures = [key for key in runs[0] if key not in ("seed", "sampling", "trained on")]
    rows = []
    for sampling in SAMPLING:
        for trained_on in TRAINED_ON:
            same = [r for r in runs if (r["sampling"], r["trained on"]) == (sampling, trained_on)]
            rows.append([sampling, trained_on, *(_mean([run[key] for run in same]) for key in figures)])
    headers = ["RoIs", "trained on", *figures]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + f"\n\nSeeds: {len(same)}.\n"


def _mean(values: Sequence[float | None]) -> str:
    if None in values:
        return "not reached"
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
