"""Every config of a comparison is built, in a process of its own, before the first one trains."""

import hashlib
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..engine import read_part
from ..utils.text_files import read_json
from .arms import Run
from .children import run_child
from .gpus import GPUs
from .runs import write_json
from .tables import check_equal_tests

__all__ = ["Trial", "check_trials", "describe_unequal_starts", "read_operations", "try_all"]

logger = logging.getLogger(__name__)
Trial = dict[str, Any]  # see `trial.try_config`


def try_all(
    runs: Sequence[Run], output: Path, jobs: int = 1, count: bool = True, num_iterations: int = 0
) -> dict[tuple[str, str], Trial]:
    """Try every arm on every data set, with seed 0; what was tried before, unchanged, is not tried again.

    Args:
        runs: see `make_runs`.
        output: folder of the comparison; a trial is its OUTPUT/trials/DATA/ARM.json.
        jobs: at a time.
        count: count the operations of a training iteration.
        num_iterations: train so many and test, to see how long it takes; 0: don't.

    Returns:
        (data set, arm) -> what was found.

    Raises:
        ValueError: configs that cannot be built, one line each.
        Stopped: this process told its children to end.
    """
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        first.setdefault((run.data, run.arm), run)
    wanted = [*(["--count"] if count else []), "--iterations", str(num_iterations)]
    needed = {*(["gflop_per_iteration"] if count else []), *(["test_seconds"] if num_iterations else [])}
    gpus = GPUs(jobs)

    def make(run: Run) -> Trial | str:
        with gpus.lend() as gpu:
            return _read(run, output, needed) or _try(run, output, wanted, gpu)

    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(first, pool.map(make, first.values())))
    if wrong := [trial for trial in found.values() if isinstance(trial, str)]:
        raise ValueError("\n".join(wrong))
    return found


def _file(run: Run, output: Path) -> Path:
    return output / "trials" / run.data / f"{run.arm}.json"


def _options(run: Run) -> list[str]:
    return ["--config-file", run.config, "SEED", "0", *run.opts]


def _read(run: Run, output: Path, needed: Set[str]) -> Trial | None:
    """The trial of an earlier call, if it was of this config and found what is needed."""
    file = _file(run, output)
    before: Trial = read_json(file) if file.exists() else {}
    is_same = (before.get("options"), before.get("config")) == (_options(run), _digest(run.config))
    return before if is_same and before.keys() >= needed else None


def _digest(config: str) -> str:
    """Of what a config file and its bases say; "" of one that cannot be read, which the trial will tell."""
    try:
        content = read_part(config)
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _try(run: Run, output: Path, wanted: Sequence[str], gpu: str) -> Trial | str:
    """The trial, or what is wrong with the config."""
    file, name = _file(run, output), "/".join(part for part in (run.data, run.arm) if part)
    logger.info("trying: %s", name)
    wanted = ["--output", str(file), *wanted, *_options(run)]
    command = [sys.executable, "-m", "ohem_d2.comparison.trial", *wanted]
    quiet = {"PYTHONWARNINGS": "ignore"}  # so that what is wrong is the last line
    file.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    log = file.with_suffix(".txt")
    with open(log, "wb") as out:
        code = run_child(command, out, {**quiet, **GPUs.variables(gpu)})
    if code != 0:
        last = (log.read_text(errors="replace").splitlines() or [""])[-1]
        return f"{name}: {last} (see {log})"
    trial = {"options": _options(run), "config": _digest(run.config), **read_json(file)}
    # What any run takes beside training and testing: to start Python, to build, to end.
    trial["start_seconds"] = time.monotonic() - begun - trial["measured_seconds"]
    write_json(file, trial)
    return trial


def read_operations(output: Path, data: str) -> dict[str, float]:
    """Arm -> 10^9 operations of a training iteration, of the arms of a data set that were counted."""
    trials = {file.stem: read_json(file) for file in (output / "trials" / data).glob("*.json")}
    return {arm: t["gflop_per_iteration"] for arm, t in trials.items() if "gflop_per_iteration" in t}


def check_trials(trials: Mapping[tuple[str, str], Trial]) -> None:
    """Raise ValueError unless all arms of a data set are tested alike, by one evaluator on one test set."""
    for (_, arm), trial in trials.items():
        for key in ("DATASETS.TEST", "TEST.EVALUATORS"):
            values = trial["test_settings"].get(key, ())
            if len(values) > 1:
                told = f"{key} of {arm} has {len(values)}: {', '.join(values)}; valid: one"
                raise ValueError(f"{told}. Test the others by --test NAME {key} \"('NAME',)\"")
    for data in {data for data, _ in trials}:
        check_equal_tests((arm, trial["test_settings"]) for (of, arm), trial in trials.items() if of == data)


def describe_unequal_starts(trials: Mapping[tuple[str, str], Trial]) -> list[str]:
    """A sentence for each arm that begins with other weights or images than the first of its data set."""
    first: dict[str, tuple[str, Trial]] = {}
    told = []
    for (data, arm), trial in trials.items():
        reference, of_reference = first.setdefault(data, (arm, trial))
        where = f" on {data}" if data else ""
        for key, what in {"weights": "initial weights", "images": "order of the images"}.items():
            if trial[key] != of_reference[key]:
                told.append(f"{what} of {arm} and {reference} differ{where}, seed by seed")
    return told
