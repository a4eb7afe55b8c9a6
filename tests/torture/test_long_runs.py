"""A training of 5,000 iterations: memory, open files and what it writes do not grow without bound."""

import gc
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from ohem_d2.engine import OHEMTrainer, load_config, mined_log

from ..toy import toy_options, write_toy
from .tables import add_row

pytestmark = pytest.mark.torture

ITERATIONS = 5000
TITLE = (
    "A mined training of 5,000 iterations on the drawn data set, over its second half. Memory is what Python "
    "holds (tracemalloc) after a garbage collection. Written by `make torture`."
)
COLUMNS = ["figure", "value", "allowed"]


@BACKBONE_REGISTRY.register()
class OneConvolution(Backbone):
    """The smallest backbone: what is measured is the training around the network."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, kernel_size=8, stride=8)

    def forward(self, images):
        return {"res3": self.conv(images)}

    def output_shape(self):
        return {"res3": ShapeSpec(channels=4, stride=8)}


def measured(folder):
    """Bytes that Python holds, number of open files, and bytes and number of the files in `folder`."""
    gc.collect()
    files = [file for file in folder.rglob("*") if file.is_file()]
    mined = [file for file in files if file.parent.name == "mined"]
    logs = [file for file in files if file not in mined and file.suffix != ".pth"]
    return {
        "memory": tracemalloc.get_traced_memory()[0],
        "open files": len(os.listdir("/proc/self/fd")),
        "logs": sum(file.stat().st_size for file in logs),
        "mined log": sum(file.stat().st_size for file in mined),
        "event files": sum("tfevents" in file.name for file in files),
    }


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted on Linux")
def test_a_long_training_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    # The log of the mined RoIs keeps up to 4 MB before it writes: here it writes often.
    monkeypatch.setattr(mined_log, "_FILE_ROIS", 1000)
    write_toy(tmp_path)
    options = [
        *toy_options(tmp_path),
        *("MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "MODEL.BACKBONE.NAME", "OneConvolution"),
        *("MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.OHEM.LOG_MIB", "1", "SOLVER.BASE_LR", "0.0001"),
        *("SOLVER.MAX_ITER", str(ITERATIONS), "SOLVER.CHECKPOINT_PERIOD", "1000"),
        *("OUTPUT_DIR", str(tmp_path / "run")),
    ]
    trainer = OHEMTrainer(load_config("configs/Base-FastRCNN-small.yaml", options))
    step, marks = trainer.run_step, {}

    def run_step():
        step()
        if trainer.iter in (ITERATIONS // 2, ITERATIONS - 1):
            marks[trainer.iter] = measured(tmp_path / "run")

    trainer.run_step = run_step
    tracemalloc.start()
    try:
        trainer.train()
    finally:
        tracemalloc.stop()
    (first, half), (last, end) = marks.items()
    memory, logs = ((end[name] - half[name]) / (last - first) for name in ("memory", "logs"))
    for row in (
        ["memory, bytes an iteration", f"{memory:.0f}", "1000"],
        ["open files, more than at the half", end["open files"] - half["open files"], "0"],
        ["metrics.json, log.txt and event files, bytes an iteration", f"{logs:.0f}", "200"],
        ["event files", end["event files"], "1"],
        ["log of the mined RoIs, bytes", end["mined log"], f"{2**20}"],
    ):
        add_row("long_run", TITLE, COLUMNS, row)
    assert memory < 1000 and logs < 200
    assert end["open files"] == half["open files"] and end["event files"] == 1
    assert end["mined log"] <= 2**20
