#!/usr/bin/env python
"""Train several configs ("arms") with several seeds and write one table with mean and 95% interval.

    python tools/run_arms.py --arms configs/BCCD/fast_rcnn_*.yaml --seeds 0 1 2 3 4 --output output/bccd [-- KEY VALUE ...]

Each run is ``train_net.py`` in a folder of its own, OUTPUT/ARM/seedN. What is done is skipped, what was stopped
is resumed. OUTPUT/results.json holds the figures of every run; arms whose test settings differ get no table.
"""
import argparse
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Sequence

import cv2
import detectron2
import numpy
import torch
import torchvision
import yaml

from render_tables import render_table

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger("run_arms")

# What both arms of a comparison must share.
TEST_SETTINGS = ("TEST.DETECTIONS_PER_IMAGE", "TEST.AUG", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "DATASETS.TEST",
                 "MODEL.ROI_HEADS.NMS_THRESH_TEST", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST",
                 "DATASETS.PROPOSAL_FILES_TEST", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", required=True, metavar="CONFIG", help="config files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default: 0")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides for every arm, after --")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        runs = run_arms(args.arms, args.seeds, args.output, args.jobs, args.opts)
        print(render_table(runs))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"run_arms.py: {error}")


def run_arms(
    arms: Sequence[str], seeds: Sequence[int], output: Path, jobs: int = 1, opts: Sequence[str] = ()
) -> List[Dict[str, Any]]:
    """Train what is not done yet and write results.json.

    Returns:
        one dict per run: arm, seed, command, environment and figures.

    Raises:
        RuntimeError: a run that failed; names its log.
    """
    names = [Path(arm).stem for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    output.mkdir(parents=True, exist_ok=True)
    pairs = [(arm, seed) for seed in seeds for arm in arms]  # so that arms take turns
    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(lambda pair: _run(*pair, output, opts), pairs))
    runs.sort(key=lambda run: (names.index(run["arm"]), run["seed"]))
    (output / "results.json").write_text(json.dumps(runs, indent=1) + "\n")
    return runs


def _run(arm: str, seed: int, output: Path, opts: Sequence[str]) -> Dict[str, Any]:
    folder = output / Path(arm).stem / f"seed{seed}"
    result = folder / "result.json"
    options = [arm, seed, *opts]
    if result.exists():
        run = json.loads(result.read_text())
        if run["options"] != options:
            raise ValueError(f"{result} was made with {run['options']}, not {options}; remove it or choose another --output")
        logger.info("done before: %s", folder)
        return run
    folder.mkdir(parents=True, exist_ok=True)
    overrides = ["SEED", str(seed), "OUTPUT_DIR", str(folder), *opts]
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", arm, "--resume", *overrides]
    logger.info("training: %s", folder)
    with open(folder / "console.txt", "a") as console:
        code = subprocess.run(command, stdout=console, stderr=subprocess.STDOUT).returncode
    if code != 0:
        raise RuntimeError(f"{folder} failed with exit status {code}; see {folder}/console.txt")
    run = {"arm": Path(arm).stem, "seed": seed, "options": options, "folder": f"{Path(arm).stem}/seed{seed}",
           "command": " ".join(["python train_net.py --config-file", arm, "SEED", str(seed), *opts]),
           "test_settings": _test_settings(folder / "config.yaml"), "environment": _environment(),
           "figures": _figures(folder / "metrics.json")}  # fmt: skip
    result.write_text(json.dumps(run, indent=1) + "\n")
    return run


def _figures(metrics: Path) -> Dict[str, float]:
    """The final scalars of a run, its trained fg : bg and its speed, from Detectron2's metrics.json."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    latest = {key: value for record in records for key, value in record.items()}
    figures = {key: value for key, value in latest.items() if key.startswith("bbox/") or key == "ohem/all_roi_loss"}
    sampled = [r for r in records if "roi_head/num_bg_samples" in r]
    foreground = sum(r["roi_head/num_fg_samples"] for r in sampled)
    figures["fg_per_bg"] = foreground / max(sum(r["roi_head/num_bg_samples"] for r in sampled), 1e-9)
    figures["seconds_per_iteration"] = statistics.median(r["time"] for r in records if "time" in r)
    return figures


def _test_settings(config: Path) -> Dict[str, Any]:
    """How a run was tested, from the config.yaml that it saved."""
    settings = {}
    for key in TEST_SETTINGS:
        value = yaml.safe_load(config.read_text())
        for name in key.split("."):
            value = value[name]
        settings[key] = value
    return settings


def _environment() -> Dict[str, str]:
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else _cpu(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else platform.machine()} ({os.cpu_count()} cores, {torch.get_num_threads()} thread(s) a run)"


if __name__ == "__main__":
    main()
