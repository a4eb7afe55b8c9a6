"""Trainings with faults: each ends, soon, with a line that says what happened; or goes on."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from multiprocessing import active_children, get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import train_net
from ohem_d2.engine import OHEMTrainer

from ..toy import toy_options, write_toy
from .tables import add_row

pytestmark = pytest.mark.torture

TITLE = (
    "Faults in the third iteration of a training on the drawn data set, and the last line that was said of "
    "each. Written by `make torture`; process ids and folders are left out."
)
COLUMNS = ["fault", "exit code", "seconds to the end", "said"]
# Seconds from a fault to the end, of a machine that does other things too; with a stopped worker after the
# timeout.
SOON, TIMEOUT = 60, 5
AT = 2
TWO_WORKERS = ("DATALOADER.NUM_WORKERS", "2", "DATALOADER.TIMEOUT", str(TIMEOUT))
MINED = ("MODEL.ROI_HEADS.NAME", "OHEMROIHeads")


# ---- Faults, with the trainer before its third iteration


def stopped_worker(trainer):
    os.kill(active_children()[0].pid, signal.SIGSTOP)


def killed_worker(trainer):
    os.kill(active_children()[0].pid, signal.SIGKILL)


def nan_weights(trainer):
    with torch.no_grad():
        _predictor(trainer).cls_score.bias.fill_(float("nan"))


def nan_features(trainer):
    def spoil(backbone, images, features):
        return {name: values * float("nan") for name, values in features.items()}

    trainer.model.backbone.register_forward_hook(spoil)


def nan_gradient(trainer):
    _predictor(trainer).cls_score.bias.register_hook(lambda gradient: gradient * float("nan"))


def full_gpu(trainer):
    def check(predictor, features):
        if not torch.is_grad_enabled() and len(features[0]) > 25:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    _predictor(trainer).register_forward_pre_hook(check)


def nothing(trainer):
    pass


def _predictor(trainer):
    return trainer.model.roi_heads.box_predictor


# ---- A training, in a process that is forked since the imports take longer than the training


def run(options, fault, file, shared_memory):
    """Train as train_net.py does, in this process, and write to `file`."""
    sys.stdout = sys.stderr = open(file, "w", buffering=1)
    for descriptor in (1, 2):
        os.dup2(sys.stdout.fileno(), descriptor)
    if shared_memory:
        mount_shared_memory(shared_memory)
    step = OHEMTrainer.run_step

    def run_step(self):
        if self.iter == AT:
            print(f"fault at {time.time()}", flush=True)
            fault(self)
        step(self)

    OHEMTrainer.run_step = run_step
    args = ["--config-file", "configs/Base-FastRCNN-small.yaml", *options]
    try:
        train_net.main(train_net.default_argument_parser().parse_args(args))
    except Exception:  # as the interpreter does where nothing runs the script but the shell
        traceback.print_exc()
        sys.exit(1)


def mount_shared_memory(size):
    """Give this process and its children a /dev/shm of their own."""
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def can_mount():
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def train(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    write_toy(tmp_path)

    def train(row, fault, *opts, said=r"\w*Error: ", shared_memory=None):
        """Train until the end, and add a row to the table.

        `said` begins the line of the table, which is the last such.
        """
        output, file = tmp_path / "run", tmp_path / "said.txt"
        options = [*toy_options(tmp_path), "OUTPUT_DIR", str(output), "SOLVER.CHECKPOINT_PERIOD", "1", *opts]
        arguments = options, fault, file, shared_memory
        process = get_context("fork").Process(target=run, args=arguments)
        begin = time.time()
        process.start()
        process.join(300)
        ended, text = time.time(), file.read_text()
        assert process.exitcode is not None, text[-3000:]
        lines = [line for line in text.splitlines() if re.match(said, line)]
        assert lines, text[-3000:]
        line, at = without_places(lines[-1], tmp_path), re.findall(r"fault at ([\d.]+)", text)
        seconds = ended - (float(at[0]) if at else begin)
        add_row("faults", TITLE, COLUMNS, [row, process.exitcode, f"{seconds:.0f}", line])
        return SimpleNamespace(code=process.exitcode, seconds=seconds, line=line, text=text, output=output)

    return train


def without_places(line, folder):
    line = re.sub(r"\x1b\[[\d;]*m", "", line).replace(str(folder), "...")
    line = re.sub(r"\[\d\d/\d\d [\d:]+ ([\w.]+)\]:?", r"\1:", line)
    return re.sub(r"\b(worker|pid) \d+", r"\1 N", line)


def last_checkpoint(run):
    name = (run.output / "last_checkpoint").read_text()
    weights = torch.load(run.output / name, weights_only=True)["model"]
    assert all(value.isfinite().all() for value in weights.values())
    return name


# ---- What is tried


def test_a_stopped_worker(train):
    run = train("loader worker stopped", stopped_worker, *TWO_WORKERS)
    assert run.code == 1 and TIMEOUT <= run.seconds < SOON + TIMEOUT
    assert run.line.endswith("waits for ever): worker N is stopped (SIGSTOP)")
    assert last_checkpoint(run) >= "model_0000001.pth"


def test_a_killed_worker(train):
    run = train("loader worker killed", killed_worker, *TWO_WORKERS)
    assert run.code == 1 and run.seconds < SOON
    assert run.line.startswith("RuntimeError: loader worker N was killed (Killed). ")
    assert last_checkpoint(run) == "model_0000001.pth"


NO_ROOM = "lower DATALOADER.NUM_WORKERS, or load with none: DATALOADER.NUM_WORKERS 0"
# Size of /dev/shm, and what cannot be there: the semaphores of workers, or an image of 300 x 400 pixels.
SMALL = {"16k": "the loader workers cannot start", "256k": "loader worker N could not hand an image over"}


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a file system")
@pytest.mark.parametrize("size", SMALL)
def test_no_room_in_shared_memory(train, size):
    opts = (*TWO_WORKERS, "INPUT.MIN_SIZE_TRAIN", "(300,)")
    run = train(f"/dev/shm of {size}B, two loader workers", nothing, *opts, shared_memory=size)
    assert run.code == 1 and run.seconds < SOON
    assert run.line.startswith(f"RuntimeError: {SMALL[size]}: shared memory") and run.line.endswith(NO_ROOM)


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a file system")
def test_without_workers_no_room_is_needed(train):
    goes_on = r".*Total training time"
    run = train("/dev/shm of 16kB, no loader workers", nothing, shared_memory="16k", said=goes_on)
    assert run.code == 0 and last_checkpoint(run) == "model_final.pth"


NAME = "roi_heads.box_predictor.cls_score.bias"
NOT_FINITE = {
    "weights NaN, mined": (nan_weights, MINED, f"classification loss; not finite: of the weights {NAME}"),
    "weights NaN": (nan_weights, (), f"loss_cls is nan; not finite: of the weights {NAME}"),
    "features NaN, mined": (nan_features, MINED, "classification loss, box loss; not finite: none of"),
    "features NaN": (nan_features, (), "loss_cls is nan, loss_box_reg is nan; not finite: none of"),
    "gradient NaN": (nan_gradient, (), f"model_0000002.pth is not written: {NAME} is not finite"),
}


@pytest.mark.parametrize("row", NOT_FINITE)
def test_numbers_that_are_not_finite(train, row):
    fault, opts, said = NOT_FINITE[row]
    run = train(row, fault, *opts)
    assert run.code == 1 and run.seconds < SOON and said in run.line
    assert run.line.startswith("FloatingPointError: iteration 2: ") and "images of the batch: ..." in run.line
    assert last_checkpoint(run) == "model_0000001.pth"


def test_a_full_gpu(train):
    warning = r".*out of memory in the read-only pass"
    run = train("CUDA out of memory in the read-only pass (simulated)", full_gpu, *MINED, said=warning)
    assert run.code == 0 and len(re.findall(warning, run.text)) == 1
    assert last_checkpoint(run) == "model_final.pth"
