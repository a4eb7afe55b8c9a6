"""From a folder to detections with the commands that the script prints."""

import csv
import json
import os
import shlex
import subprocess
import sys

import pytest

from ..conftest import ROOT
from ..drawn_layouts import CLASSES, LAYOUTS, SPLITS, write


@pytest.fixture
def new_project(load_script, monkeypatch, tmp_path, capsys):
    """``new_project(*arguments)`` runs the script in `tmp_path`; returns what it prints."""
    monkeypatch.chdir(tmp_path)
    script = load_script("tools/new_project.py")

    def run(*arguments):
        script.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def commands(printed):
    """Script, by its path in the repository, and arguments of what is to type next."""
    text = printed.partition("Next:\n")[2].replace("\\\n", " ")
    found = [shlex.split(line) for line in text.splitlines() if line.startswith("  python ")]
    return [[os.path.relpath(script, ROOT), *arguments] for _, script, *arguments in found]


def test_it_prints_what_it_found_and_what_to_type(new_project, tmp_path):
    LAYOUTS["labelimg"](tmp_path / "pets")
    write(tmp_path / "resnet18.pth", "")
    write(tmp_path / "pets/h.xml", "<annotation/>")
    printed = new_project("pets", "--weights", "resnet18.pth")
    assert "no split: 1 of 6 images are held out (val), by class, seed 0" in printed
    assert (
        f"Problems: 1, all in projects/pets/report.txt\n{tmp_path}/pets/h.xml: there is no image h" in printed
    )
    check, convert, train, predict, train_on_gpu, predict_on_gpu, compare = commands(printed)
    assert check == [
        "tools/check_dataset.py",
        "pets_train",
        "pets_val",
        "--catalog",
        "projects/pets/catalog.yaml",
    ]
    assert convert == [
        *("tools/convert_weights.py", "torchvision", "resnet18", "projects/pets/weights.pth"),
        *("--weights", "resnet18.pth"),
    ]
    assert train == ["train_net.py", "--config-file", "projects/pets/config.yaml"]
    assert predict[:4] == ["tools/predict.py", "--config-file", "projects/pets/config.yaml", "--input"]
    image, *others = predict[4:]
    assert (tmp_path / image).parent == tmp_path / "pets" and others == [
        *("--output", "projects/pets/detections"),
        *("--opts", "MODEL.WEIGHTS", "projects/pets/output/model_final.pth"),
    ]
    assert train_on_gpu == ["train_net.py", "--config-file", "projects/pets/config_gpu.yaml"]
    assert predict_on_gpu[-1] == "projects/pets/output_gpu/model_final.pth"
    assert compare[:3] == ["tools/compare.py", "--base", "projects/pets/config.yaml"]
    arms = [i for i, word in enumerate(compare) if word == "--arm"]
    assert [compare[i + 1] for i in arms] == ["heuristic", "ohem"]
    assert all((tmp_path / compare[i + 2]).resolve().is_file() for i in arms)


def test_a_mistake_is_one_line(new_project, tmp_path):
    with pytest.raises(SystemExit) as stop:
        new_project("gone")
    assert stop.value.code == f"new_project.py: folder {tmp_path}/gone does not exist"


@pytest.mark.slow
def test_its_commands_lead_to_detections(new_project, tmp_path):
    """One training for all layouts: their projects differ in nothing else (tests/data/test_project.py)."""
    pytest.importorskip("cv2.ximgproc", reason="needs OpenCV's contrib build")
    LAYOUTS["yolo"](tmp_path / "my pets")
    check, search, train, predict, *_ = commands(new_project("my pets", "--output", "p q"))
    few = [
        *("SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "DATALOADER.NUM_WORKERS", "0"),
        *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    ]
    for script, *arguments in check, search, [*train, *few], predict:
        call = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    metrics = [json.loads(line) for line in (tmp_path / "p q/output/metrics.json").read_text().splitlines()]
    assert metrics[-1]["iteration"] == 4 and "bbox/AP" in metrics[-1]
    assert {file.stem for file in (tmp_path / "p q/detections/pictures").iterdir()} == set(SPLITS["val"])
    rows = list(csv.DictReader((tmp_path / "p q/detections/detections.csv").open()))
    results = json.loads((tmp_path / "p q/detections/detections.json").read_text())
    # Labels of the project's JSON begin at 1, in the order of the classes of the folder.
    assert rows and [(row["class"], result["category_id"]) for row, result in zip(rows, results)] == [
        (row["class"], 1 + CLASSES.index(row["class"])) for row in rows
    ]
