"""Peak memory of mined heads beside plain heads, as the benchmark of a training iteration measures it."""

import json
import sys

import pytest
import torch

pytestmark = pytest.mark.cuda


def memory_ratio(load_script, monkeypatch, report, *options):
    arguments = ["--arms", "standard", "ohem", "--repeats", "1", "--warmup", "2", "--output", str(report)]
    monkeypatch.setattr(sys, "argv", ["bm_train_step.py", *arguments, *options])
    with torch.backends.cudnn.flags(enabled=True):  # gives back the precision that the benchmark sets
        load_script("benchmarks/bm_train_step.py").main()
    return json.loads(report.read_text())["arms"]["ohem"]["memory ratio"]


@pytest.mark.parametrize("precision", ["fp32", "amp"])
@pytest.mark.parametrize("model", ["r50-fpn", "vgg16"])
def test_mined_heads_need_the_memory_of_plain_heads(
    model, precision, load_script, monkeypatch, tmp_path, cuda_device
):
    if cuda_device is not None:
        pytest.skip("peak memory is measured on a GPU alone")
    options = ("--model", model, "--device", "cuda", "--precision", precision)
    assert memory_ratio(load_script, monkeypatch, tmp_path / "report.json", *options) <= 1.02
