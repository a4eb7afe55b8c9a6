"""One run of train_net.py: made once, resumed if it was stopped, recorded with settings and figures."""

import importlib
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ..utils.files import atomic_file
from ..utils.locks import hold_lock
from ..utils.metrics import read_metrics
from ..utils.revision import read_revision
from ..utils.text_files import read_json
from ..utils.yaml_files import iterate_keys
from .children import run_child
from .gpus import GPUs

_TRAIN_NET = Path(__file__).resolve().parents[2] / "train_net.py"
# Recorded with each run: name -> module; OpenCV is optional.
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "detectron2": "detectron2",
    "numpy": "numpy",
    "opencv": "cv2",
}
logger = logging.getLogger(__name__)

# What changes a result at test: all keys with TEST in their name, and one that training and test share.
_TEST_SETTING = re.compile(r"(^|[._])TEST([._]|$)|^MODEL\.RPN\.NMS_THRESH$")
_NO_TEST_SETTING = re.compile(r"^TEST\.(EVAL_PERIOD|EXPECTED_RESULTS|ROI_LOSS\..*)$")


def run_once(
    config: str,
    seed: int,
    folder: Path,
    opts: Sequence[str] = (),
    eval_only: bool = False,
    num_gpus: int = 1,
    gpu: str = "",
) -> dict[str, Any]:
    """Train and test, or test alone, unless it was done before; what was stopped is resumed.

    Args:
        config: file, as from the current folder.
        seed: of the training.
        folder: of this run alone; the record is its ``result.json``.
        opts: ``KEY VALUE`` overrides.
        eval_only: test the ``MODEL.WEIGHTS`` of `opts`.
        num_gpus: of this machine.
        gpu: the one that the run sees, as in ``CUDA_VISIBLE_DEVICES``; "": all.

    Returns:
        the record: arm, seed, options, command, code, test_settings, environment, figures and curve.

    Raises:
        FileNotFoundError: the package is installed without train_net.py.
        ValueError: the folder holds a run with other options, done or to be resumed.
        BlockingIOError: another process trains into the folder.
        RuntimeError: the run failed; names its log.
        Stopped: this process told its children to end.
    """
    result = folder / "result.json"
    options = [config, seed, *opts, *_gpus(num_gpus)]
    begun = read_json(result) if result.exists() else {"options": "another script"}
    done, is_resumed = "figures" in begun, (folder / "last_checkpoint").exists()
    if begun["options"] != options and (done or is_resumed):
        made = f"{folder} was made with {begun['options']}, not {options}"
        raise ValueError(f"{made}; remove it or choose another --output")
    if done and not (eval_only and _weights_are_newer(opts, result)):
        logger.info("done before: %s", folder)
        return begun
    if not is_resumed:
        with hold_lock(folder / "training.lock", f"the output folder {folder}"):
            _forget(folder)
    code = read_revision()  # as the run begins, which may take days
    write_json(result, {"options": options})
    logger.info("%s: %s", "testing" if eval_only else "training", folder)
    called_with = arguments(config, seed, opts, eval_only)
    _train_net([*called_with, "OUTPUT_DIR", str(folder)], num_gpus, folder, gpu)
    command = shlex.join(["python", "train_net.py", *_gpus(num_gpus), *called_with])
    made = {"arm": Path(config).stem, "seed": seed, "options": options, "command": command, "code": code}
    run = {**made, **_record(folder)}
    write_json(result, run)
    return run


def is_done(folder: Path) -> bool:
    """Whether the run of a folder has been made, with its figures."""
    result = folder / "result.json"
    return result.exists() and "figures" in read_json(result)


def _record(folder: Path) -> dict[str, Any]:
    """What is read from the folder of a run that is done, and from this machine."""
    return {
        "test_settings": read_test_settings((folder / "config.yaml").read_text()),
        "environment": _environment(),
        "figures": {**_training_figures(folder), **_test_figures(folder)},
        "curve": read_curve(folder),
    }


def _weights_are_newer(opts: Sequence[str], result: Path) -> bool:
    """Whether what was tested has been trained again since."""
    weights = Path(opts[list(opts).index("MODEL.WEIGHTS") + 1])
    return weights.exists() and weights.stat().st_mtime > result.stat().st_mtime


def _forget(folder: Path) -> None:
    """Remove what Detectron2 would append to: of an attempt without checkpoint, or a test made again."""
    for file in (folder / "metrics.json", folder / "log.txt"):
        file.unlink(missing_ok=True)
    shutil.rmtree(folder / "inference", ignore_errors=True)


def _gpus(number: int) -> list[str]:
    return [] if number == 1 else ["--num-gpus", str(number)]


def arguments(config: str, seed: int, opts: Sequence[str] = (), eval_only: bool = False) -> list[str]:
    """What train_net.py is called with, but for the output folder."""
    return [*(["--eval-only"] if eval_only else []), "--config-file", config, "SEED", str(seed), *opts]


def _train_net(options: list[str], num_gpus: int, folder: Path, gpu: str) -> None:
    if not _TRAIN_NET.is_file():
        raise FileNotFoundError(f"{_TRAIN_NET} does not exist: runs are made from a checkout of the project")
    folder.mkdir(parents=True, exist_ok=True)
    resume = [] if "--eval-only" in options else ["--resume"]
    command = [sys.executable, str(_TRAIN_NET), *_gpus(num_gpus), *resume, *options]
    console = folder / "console.txt"
    with open(console, "ab") as out:
        code = run_child(command, out, GPUs.variables(gpu))
    if code != 0:
        last = (console.read_text(errors="replace").splitlines() or [""])[-1]
        raise RuntimeError(f"{folder} failed with exit status {code}; {console} ends: {last}")


def write_json(file: Path, content: Any) -> None:
    """Write `file` as a whole or not at all, and make its folder."""
    with atomic_file(file) as out:
        out.write((json.dumps(content, indent=1) + "\n").encode())


def read_roi_losses(folder: Path) -> list[tuple[int, float]]:
    """Iterations done and mean loss over all RoIs then, as often as a run measured it."""
    key = "ohem/all_roi_loss"
    return [
        (line["iteration"] + 1, line[key]) for line in read_metrics(folder / "metrics.json") if key in line
    ]


def read_curve(folder: Path, key: str = "bbox/AP") -> list[tuple[int, float]]:
    """Iterations done and what a test found then: after the training, and every ``TEST.EVAL_PERIOD``."""
    tests = [row for row in read_metrics(folder / "metrics.json") if key in row]
    last = max((row["iteration"] for row in tests), default=0)  # the number of iterations of a whole training
    values = [0.0 if math.isnan(row[key]) else row[key] for row in tests]  # NaN: nothing was detected
    return [(min(row["iteration"] + 1, last), value) for row, value in zip(tests, values)]


def _training_figures(folder: Path) -> dict[str, float]:
    """What was trained on, speed and memory, as far as they were measured."""
    records, log = read_metrics(folder / "metrics.json"), folder / "log.txt"
    figures = {}
    losses = read_roi_losses(folder)
    if losses:
        figures["ohem/all_roi_loss"] = losses[-1][1]
    sampled = [r for r in records if "roi_head/num_bg_samples" in r]
    if sampled:
        foreground = sum(r["roi_head/num_fg_samples"] for r in sampled)
        background = sum(r["roi_head/num_bg_samples"] for r in sampled)
        figures["fg_per_bg"] = foreground / max(background, 1e-9)
        figures["rois_per_image"] = (foreground + background) / len(sampled)
        figures["fg_per_image"] = foreground / len(sampled)
    rates = [r["lr"] for r in records if "lr" in r]
    if rates:
        figures["learning_rate"] = max(rates)
    seconds = [r["time"] for r in records if "time" in r]
    if seconds:
        figures["seconds_per_iteration"] = statistics.median(seconds)
    text = log.read_text(errors="replace") if log.exists() else ""
    memory = [int(mib) for mib in re.findall(r"max_mem: (\d+)M", text)]
    if memory:
        figures["memory_gib"] = max(memory) / 1024
    return figures


def _test_figures(folder: Path) -> dict[str, float]:
    """``bbox/AP50`` and so on, ``bbox/AP50-CLASS`` for a class; none for a submission to a server."""
    files = sorted(folder.glob("inference/*/results.json"))
    figures = {
        "/".join([*([file.parent.name] if len(files) > 1 else []), row["evaluator"], row["metric"]])
        + (f"-{row['class']}" if row["class"] else ""): row["value"]
        for file in files
        for row in read_json(file)
    }
    if figures.get("bbox/AP", 0.0) is None:  # nothing was detected, and Detectron2 has no AP of nothing
        figures.update(dict.fromkeys(("bbox/AP", "bbox/AP50", "bbox/AP75"), 0.0))
    return figures


def read_test_settings(config: str) -> dict[str, Any]:
    """How a run is tested, from the text of its whole config: key -> value."""
    settings = {k: v for k, v in iterate_keys(yaml.safe_load(config)) if _TEST_SETTING.search(k)}
    return {key: value for key, value in settings.items() if not _NO_TEST_SETTING.search(key)}


def _environment() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    versions = {name: _version(module) for name, module in _PACKAGES.items()}
    known = {name: version for name, version in versions.items() if version}
    return {"device": device, "python": platform.python_version(), **known}


def _version(module: str) -> str | None:
    try:
        return importlib.import_module(module).__version__
    except ImportError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.machine()} ({os.cpu_count()} cores, {threads} thread(s) a run)"
