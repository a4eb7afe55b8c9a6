"""Findings in the labels of a drawn data set, by an untrained detector; with folds that are not trained."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from ohem_d2.engine import load_config

from ..toy import toy_options, write_toy

BASE = "configs/Base-FastRCNN-small.yaml"
FILES = {"findings.csv", "findings.coco.json", "inspected.json", "label_studio.json"}


@pytest.fixture
def find(load_script, tmp_path):
    """``find(*options)`` inspects toy_wide, four images of two objects, and gives the output folder."""
    write_toy(tmp_path)
    script = load_script("tools/find_label_errors.py")

    def find(*options, opts=()):
        output = tmp_path / "out"
        command = ["--config-file", BASE, "--dataset", "toy_wide", "--output", str(output), *options]
        script.main([*command, *toy_options(tmp_path), "MODEL.DEVICE", "cpu", *opts])
        return output

    find.script = script
    return find


def save_weights(folder, opts):
    """Of a random initialisation."""
    cfg = load_config(BASE, [*opts, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)])
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, Path(folder, "model_final.pth"))


def rows_of(output):
    with open(output / "findings.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folds(find, monkeypatch):
    """The options with which each fold is trained; the weights are those of its initialisation."""
    called = []

    def run_once(config, seed, folder, opts, num_gpus):
        called.append((config, seed, folder.name, dict(zip(opts[::2], opts[1::2]))))
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder, opts)

    monkeypatch.setattr(find.script, "run_once", run_once)
    return called


def test_each_label_is_judged_by_the_fold_that_has_not_seen_it(find, folds, tmp_path, monkeypatch):
    judged, inspect = [], find.script.inspect_labels
    loaded, load = [], find.script.load_trained

    def load_trained(model, weights, key):
        loaded.append(Path(weights).parent.name)
        load(model, weights, key)

    def inspect_labels(model, loader):
        for image in inspect(model, loader):
            judged.append((loaded[-1], image.image_id))
            yield image

    monkeypatch.setattr(find.script, "load_trained", load_trained)
    monkeypatch.setattr(find.script, "inspect_labels", inspect_labels)
    output = find("--folds", "2", "--seed", "3", "--top", "1")
    assert [call[:3] for call in folds] == [(BASE, 3, "fold0"), (BASE, 3, "fold1")]
    for _, _, fold, opts in folds:
        rest = f"toy_wide_without_{fold[-1]}"
        assert opts["DATASETS.TRAIN"] == str((rest, "toy_tall")) and opts["DATASETS.TEST"] == "()"
        trained_on = (output / f"folds/without_{fold[-1]}.txt").read_text().split()
        assert sorted([*trained_on, *(i for f, i in judged if f == fold)]) == ["a", "b", "c", "d"]
    rows = rows_of(output)
    labels = [(row["image_id"], row["label"]) for row in rows if row["label"]]
    assert sorted(labels) == [(i, name) for i in "abcd" for name in ("cat", "dog")]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    annotations = json.loads((output / "findings.coco.json").read_text())["annotations"]
    kinds = [row["kind"] for row in rows]
    assert [a["id"] for a in annotations] == sorted(kinds.index(kind) + 1 for kind in set(kinds))
    assert {file.name for file in output.iterdir() if file.is_file()} >= FILES | {"folds.json"}


def test_folds_of_other_images_are_not_mixed(find, folds, capsys):
    find("--folds", "2")
    find("--folds", "2")
    with pytest.raises(SystemExit, match="made with other images, --folds or --seed"):
        find("--folds", "3")
    assert [call[2] for call in folds] == ["fold0", "fold1"] * 2


def test_objects_that_training_drops_are_regions_in_which_no_label_is_missing(find, tmp_path, monkeypatch):
    seen, inspect = {}, find.script.inspect_labels

    def inspect_labels(model, loader):
        seen.update({x["image_id"]: x["instances"] for (x,) in loader})
        return inspect(model, loader)

    monkeypatch.setattr(find.script, "inspect_labels", inspect_labels)
    xml = tmp_path / "voc/Annotations/a.xml"
    dog = xml.read_text().rpartition("<name>dog")
    xml.write_text(dog[0] + dog[1] + dog[2].replace("<difficult>0", "<difficult>1"))
    save_weights(tmp_path, toy_options(tmp_path))
    weights = ("MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    find(opts=(*weights, "DATASETS.VOC_DIFFICULT", "drop"))
    assert {i: (len(x), len(x.ignore_regions)) for i, x in seen.items()} == {
        "a": (1, 1), "b": (2, 0), "c": (2, 0), "d": (2, 0),
    }  # fmt: skip


def test_one_checkpoint_judges_all_and_is_called_in_sample(find, tmp_path, capsys):
    pytest.importorskip("jinja2", reason="needs Jinja2")
    save_weights(tmp_path, toy_options(tmp_path))
    output = find(opts=("MODEL.WEIGHTS", str(tmp_path / "model_final.pth")))
    assert "toy_wide is in DATASETS.TRAIN" in capsys.readouterr().out
    assert sum(bool(row["label"]) for row in rows_of(output)) == 8
    page, shown = (output / "report.html").read_text(), min(len(rows_of(output)), 100)
    assert page.count("data:image/jpeg") == shown and "Much of this is no error" in page
    assert len(re.findall(r"<figcaption>\d+\. ", page)) == shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "give --folds to train models, or MODEL.WEIGHTS FILE"),
        (("--folds", "5"), "5 folds of 4 images; valid: 2 to 4"),
        (("--dataset", "toy_wid", "--folds", "2"), "'toy_wid' is not registered; did you mean toy_wide"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_trained(find, folds, arguments, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        find(*arguments)
    assert not folds


@pytest.mark.slow
def test_folds_are_trained_and_not_trained_again(find, capfd):
    output = find("--folds", "2")
    assert {file.name for file in output.iterdir()} >= FILES | {"fold0", "fold1"}
    made = [(output / fold / "model_final.pth").stat().st_mtime_ns for fold in ("fold0", "fold1")]
    find("--folds", "2")
    assert made == [(output / fold / "model_final.pth").stat().st_mtime_ns for fold in ("fold0", "fold1")]
