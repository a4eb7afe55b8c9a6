#!/usr/bin/env python
"""Kill trainings at random moments, resume them, and compare them with one that was never killed.

    python -m tests.engine.kills --kills 30

Kills take turns over what a training does: loading, the read-only pass, backward, writing a checkpoint,
evaluation. A run is killed and resumed until it ends. Prints the kills, and how many tensors differ then.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from unittest import mock

import torch

import train_net

from ..toy import toy_options, write_toy

FORK = get_context("fork")
STAGES = {
    "loading": "ohem_d2.data.resumable._MappedDraws.__getitem__",
    "read-only pass": "ohem_d2.modeling.mixin.candidate_losses",
    "backward": "torch.Tensor.backward",
    "checkpoint": "ohem_d2.utils.checkpoint.torch.save",
    "evaluation": "ohem_d2.engine.trainer.OHEMTrainer.test",
}
ITERATIONS = 24
OPTIONS = ["MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "SEED", "5", "SOLVER.MAX_ITER", str(ITERATIONS),
           "SOLVER.CHECKPOINT_PERIOD", "4", "DATASETS.TEST", "('toy_wide',)", "TEST.EVAL_PERIOD", "6",
           "DATALOADER.NUM_WORKERS", "2"]  # fmt: skip


def run(folder: Path, output: str, stage) -> None:
    """Train in this process as train_net.py does; `stage` is told what it does."""
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    for number, target in enumerate(STAGES.values(), 1):
        mock.patch(target, staged(target, number, stage)).start()
    options = [*toy_options(folder), *OPTIONS, "OUTPUT_DIR", str(folder / output)]
    config = "configs/Base-FastRCNN-small.yaml"
    args = train_net.default_argument_parser().parse_args(["--resume", "--config-file", config, *options])
    torch.manual_seed(int(time.time()))
    train_net.main(args)


def staged(target: str, number: int, stage):
    """The function with this name; while it runs, `stage` has `number`."""
    owner, _, name = target.rpartition(".")
    original = getattr(resolve_name(owner), name)
    original = getattr(original, "__func__", original)  # of a class method

    def wrapped(*args, **kwargs):
        stage.value, before = number, stage.value
        try:
            return original(*args, **kwargs)
        finally:
            stage.value = before

    return classmethod(wrapped) if name == "test" else wrapped


def killed_in(process, stage, wanted: int, random_: random.Random) -> bool:
    """Kill a process when it has done `wanted` for the n-th time, n and the moment in it being drawn."""
    for _ in range(random_.randint(1, 3)):
        while stage.value == wanted and process.is_alive():
            time.sleep(0.0005)
        while stage.value != wanted and process.is_alive():
            time.sleep(0.0005)
    time.sleep(random_.uniform(0, 0.01))
    if not process.is_alive():
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def differing(ours: Path, theirs: Path) -> list[str]:
    """Names of what differs in two final checkpoints, optimizer included."""
    a, b = (_tensors(torch.load(x / "model_final.pth", weights_only=True)) for x in (ours, theirs))
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def _tensors(checkpoint: dict) -> dict[str, torch.Tensor]:
    states = checkpoint["trainer"]["_trainer"]["optimizer"]["state"]
    momenta = {f"momentum {number}": state["momentum_buffer"] for number, state in states.items()}
    return {**checkpoint["model"], **momenta}


def main(argv: list[str] | None = None) -> dict[str, int]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a forked process cannot use the threads of this one
    random_, stage, kills, differ = random.Random(args.seed), FORK.Value("i", 0, lock=False), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_toy(folder)
        start(folder, "whole", stage).join()
        number = 0
        while kills < args.kills:
            number, output = number + 1, f"run{number}"
            while True:
                process = start(folder, output, stage)
                wanted = 1 + kills % len(STAGES)
                if kills < args.kills and killed_in(process, stage, wanted, random_):
                    kills += 1
                    print(f"{output}: killed in {list(STAGES)[wanted - 1]}", flush=True)
                    continue
                process.join()
                break
            names = differing(folder / output, folder / "whole")
            differ += len(names)
            print(
                f"{output}: exit code {process.exitcode}, {len(names)} tensors differ", *names[:3], flush=True
            )
        left = [file.name for file in folder.rglob("*.tmp")]
    result = {"kills": kills, "runs": number, "tensors that differ": differ, "temporary files": len(left)}
    print(result)
    return result


def start(folder: Path, output: str, stage):
    process = FORK.Process(target=run, args=(folder, output, stage))
    process.start()
    return process


if __name__ == "__main__":
    main()
