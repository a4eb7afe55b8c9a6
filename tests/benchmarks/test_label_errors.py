"""What the benchmark of label errors counts as right, and the rankings that it compares."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import register_catalog
from ohem_d2.evaluation.label_errors import BAD_BOX, MISSING, Finding, InspectedImage

LABEL, TRUTH, FREE = [0, 0, 10, 10], [6, 0, 16, 10], [50, 50, 60, 60]
FLIPPED = {"image_id": "a", "kind": "flipped", "label": {"box": LABEL}, "truth": {"box": LABEL}}
SHIFTED = {"image_id": "a", "kind": "shifted", "label": {"box": LABEL}, "truth": {"box": TRUTH}}
DELETED = {"image_id": "a", "kind": "deleted", "label": None, "truth": {"box": FREE}}


@pytest.fixture
def benchmark(load_script):
    return load_script("benchmarks/label_errors.py")


@pytest.mark.parametrize(
    "box, is_label, wrong, found",
    [
        (LABEL, True, FLIPPED, True),
        (LABEL, True, SHIFTED, True),
        (LABEL, True, DELETED, False),
        (TRUTH, True, SHIFTED, False),  # the label of another object
        (LABEL, False, FLIPPED, False),
        (TRUTH, False, SHIFTED, True),
        (LABEL, False, SHIFTED, False),  # IoU with the truth: 40 / 160
        (FREE, False, DELETED, True),
        ([50, 50, 60, 65], False, DELETED, True),  # 100 / 150
        ([50, 50, 60, 71], False, DELETED, False),  # 100 / 210
    ],
)
def test_what_finds_a_wrong_label(benchmark, box, is_label, wrong, found):
    assert benchmark.is_found(benchmark.Suspect(1.0, "a", box, is_label), wrong) == found


def test_a_wrong_label_is_found_once_in_its_image_by_the_most_suspicious(benchmark):
    suspects = [
        benchmark.Suspect(1.0, "a", TRUTH, False),
        benchmark.Suspect(9.0, "b", LABEL, True),
        benchmark.Suspect(2.0, "a", LABEL, True),
        benchmark.Suspect(3.0, "a", FREE, False),
    ]
    assert benchmark.hits_of(suspects, [SHIFTED, DELETED]) == [-1, 1, 0, -1]


def test_precision_and_area_by_hand(benchmark):
    row = benchmark.measure([1, -1, 0, -1], [SHIFTED, DELETED, DELETED, FLIPPED])
    # Right are the first and the third of 4: precision 1 and 2/3 there; two of four wrong labels are missed.
    assert row["AUPRC"] == pytest.approx((1 + 2 / 3) / 4)
    assert (row["P@50"], row["P@200"]) == (2 / 50, 2 / 200)
    recalls = {kind: row[f"recall of {kind}"] for kind in ("deleted", "flipped", "shifted")}
    assert recalls == {"deleted": 0.5, "flipped": 0.0, "shifted": 1.0}


def test_labels_of_a_voc_data_set_are_made_wrong_in_a_copy(benchmark, make_voc, tmp_path, monkeypatch):
    boxes = [(5 + 2 * n, 7, 14 + 2 * n, 19) for n in range(5)]
    root = make_voc({f"{n:02d}": [("cat", boxes[n % 5]), ("dog", boxes[0])] for n in range(10)})
    monkeypatch.chdir(tmp_path)
    entry = {"format": "voc", "root": str(root), "splits": ["train"], "classes": ["cat", "dog"]}
    Path("catalog.yaml").write_text(json.dumps({"pets": {**entry, "proposals": "./none.safetensors"}}))
    register_catalog("catalog.yaml")
    before = DatasetCatalog.get("pets_train")
    shares = {"deleted": 0.1, "flipped": 0.2, "shifted": 0.0}
    benchmark.corrupt_voc("pets_train", np.random.default_rng(0), shares, Path("wrong"))
    register_catalog("wrong/catalog.yaml")
    after = DatasetCatalog.get("corrupted_train")
    assert [x["file_name"] for x in before] == [x["file_name"] for x in after]
    wrong = json.loads(Path("wrong/wrong_labels.json").read_text())
    assert Counter(w["kind"] for w in wrong) == {"deleted": 2, "flipped": 4}
    labels = [{(tuple(a["bbox"]), a["category_id"]) for a in x["annotations"]} for x in after]
    truths = [{(tuple(a["bbox"]), a["category_id"]) for a in x["annotations"]} for x in before]
    changed = {x["image_id"] for x, label, truth in zip(before, labels, truths) if label != truth}
    assert changed == {w["image_id"] for w in wrong}
    assert sum(map(len, labels)) == sum(map(len, truths)) - 2
    assert MetadataCatalog.get("corrupted_train").proposal_file == str(tmp_path / "none.safetensors")


def image(findings=()):
    """A label that a detection of 0.9 confirms, one that none of its class does, and two places without."""
    boxes = np.array([LABEL, [20, 20, 30, 30]], float)
    found = np.array([LABEL, [20, 20, 30, 30], FREE, [80, 80, 90, 90]], float)
    scores = np.array([0.9, 0.8, 0.7, 0.2])
    return InspectedImage(
        "a",
        "a.jpg",
        (100, 100),
        boxes,
        np.array([0, 1]),
        found,
        np.array([0, 0, 1, 1]),
        scores,
        list(findings),
    )


def test_the_ranking_by_detections(benchmark):
    suspects = {tuple(s.box): (round(s.suspicion, 6), s.is_label) for s in benchmark.by_detections([image()])}
    assert suspects == {
        (0, 0, 10, 10): (0.1, True),
        (20, 20, 30, 30): (1.0, True),
        tuple(FREE): (0.7, False),
        (80, 80, 90, 90): (0.2, False),
    }


def test_a_label_is_suspected_at_its_own_box_and_what_is_missing_at_that_of_the_model(benchmark):
    bad = Finding("a", BAD_BOX, 3.0, 1.0, 2.0, (1, 1, 9, 9), 0, 0.9, 0)
    missing = Finding("a", MISSING, 2.0, 2.0, 0.0, tuple(FREE), 0, 0.9)
    suspects = list(benchmark.by_loss([image([bad, missing])]))
    assert [(s.suspicion, list(s.box), s.is_label) for s in suspects] == [(3, LABEL, True), (2, FREE, False)]


def test_a_shuffled_list_has_the_precision_of_chance(benchmark):
    """40 of 400 places, apart from one another, are wrong; the list of the tool has them first."""
    boxes = [(20 * (n % 20), 20 * (n // 20), 20 * (n % 20) + 9, 20 * (n // 20) + 9) for n in range(400)]
    findings = [Finding("a", MISSING, 400.0 - n, 1.0, 0.0, box, 0, 0.9) for n, box in enumerate(boxes)]
    found = benchmark.evaluate([image(findings)], [{**DELETED, "truth": {"box": box}} for box in boxes[:40]])
    ordered, random = found["methods"]["loss"], found["methods"]["random"]
    assert ordered["P@50"] == 40 / 50 and ordered["AUPRC"] == pytest.approx(1)
    assert 0.08 < random["P@50"] < 0.12 and random["AUPRC"] < 0.2


def test_the_table_has_the_mean_of_the_seeds_and_the_bound_of_precision(benchmark):
    seeds = [
        {"labels": 800, "wrong": wrong, "methods": {"loss": {"P@50": value, "AUPRC": 0.25}}}
        for wrong, value in ((90, 0.5), (110, 0.7))
    ]
    text = benchmark.describe(seeds)
    assert "| loss     | 0.60 (0.50 to 0.70) | 0.25 (0.25 to 0.25) |" in text
    # 100 of 800 labels in the mean: 100 / 200.
    assert "2 seeds: 100 of 800 labels are wrong; at most P@50 1.00, P@100 1.00, P@200 0.50." in text
    assert "| loss     | 0.50   |" in benchmark.describe(seeds[:1])
