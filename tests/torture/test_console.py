"""What a user sees of an error while it trains: one line, and no traceback but in the log file."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..toy import toy_options, write_toy

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_an_error_in_training_is_one_line_and_its_traceback_is_in_the_log(tmp_path):
    write_toy(tmp_path)
    for image in (tmp_path / "voc/JPEGImages").iterdir():
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    config = ["--config-file", str(ROOT / "configs/Base-FastRCNN-small.yaml")]
    options = [*toy_options(tmp_path), "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "cpu"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_net.py"), *config, *options],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert line.startswith("UnreadableImageError: ") and line.endswith(f" (see {tmp_path}/out/log.txt)")
    assert ".jpg cannot be read as an image: image file is truncated" in line
    assert "Traceback" not in done.stdout and "UnreadableImageError" not in done.stdout
    log = (tmp_path / "out/log.txt").read_text()
    assert "Exception during training" in log and "Traceback" in log


@pytest.mark.slow
def test_an_error_of_pytorch_before_training_is_one_line_and_one_of_a_python_config_has_its_place(tmp_path):
    write_toy(tmp_path)
    train = [sys.executable, str(ROOT / "train_net.py"), "--config-file"]
    options = [*toy_options(tmp_path), "OUTPUT_DIR", str(tmp_path / "out"), "MODEL.DEVICE", "gpu"]
    done = subprocess.run(
        [*train, str(ROOT / "configs/Base-FastRCNN-small.yaml"), *options],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line.startswith("RuntimeError: ") and line.endswith(f" (see {tmp_path}/out/log.txt)")
    assert "Traceback" in (tmp_path / "out/log.txt").read_text()
    (tmp_path / "mine.py").write_text("model = undefined\n")
    done = subprocess.run([*train, str(tmp_path / "mine.py")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and 'mine.py", line 1' in done.stderr
