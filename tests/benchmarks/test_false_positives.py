"""What the benchmark of background images counts."""

import json
import re

import numpy as np
import pytest

from ohem_d2.evaluation.matching import ObjectBoxes, ScoredBoxes, match_boxes

HERE, ELSEWHERE = [0, 0, 10, 10], [50, 50, 60, 60]
# Of four images, 0 and 1 have an object each; 2 and 3 have none. By score: image, box.
FOUND = [(2, HERE), (0, HERE), (2, HERE), (3, HERE), (1, ELSEWHERE), (1, HERE), (0, ELSEWHERE)]


@pytest.fixture
def benchmark(load_script):
    return load_script("benchmarks/false_positives.py")


@pytest.fixture
def matches():
    objects = ObjectBoxes(
        np.array([0, 1]),
        np.array([HERE, HERE], float),
        np.zeros(2, int),
        np.zeros(2, bool),
        np.zeros(2, bool),
    )
    images, boxes = zip(*FOUND)
    scores = np.linspace(0.9, 0.3, len(FOUND))
    return match_boxes(
        objects, ScoredBoxes(np.array(images), np.array(boxes, float), np.zeros(len(FOUND), int), scores)
    )


@pytest.mark.parametrize(
    "recall, per_image, per_background_image",
    [
        (0.5, 1 / 4, 1 / 2),  # the second detection finds the first object, after one error on image 2
        (0.3, 1 / 4, 1 / 2),
        (1.0, 4 / 4, 3 / 2),  # the sixth finds the other, after four errors, one of them on image 1
        (0.51, 4 / 4, 3 / 2),
    ],
)
def test_false_positives_are_those_above_the_score_that_reaches_the_recall(
    benchmark, matches, recall, per_image, per_background_image
):
    found = benchmark.false_positives(matches, np.array([False, False, True, True]), recall)
    assert found == (per_image, per_background_image)


def test_a_recall_that_is_not_reached_has_no_figure(benchmark, matches):
    of_one = match_boxes(matches.objects, matches.found[:5])
    assert benchmark.false_positives(of_one, np.array([False, False, True, True]), 0.7) == (None, None)


def test_the_table_has_a_row_for_each_way_of_training_with_mean_and_range(benchmark):
    runs = [
        {
            "seed": s,
            "sampling": a,
            "trained on": t,
            "AP": 10.0 * s + len(a),
            "FP": None if t == "labelled" else 1.0,
        }
        for s in (0, 1)
        for a in benchmark.SAMPLING
        for t in benchmark.TRAINED_ON
    ]
    rows = [re.split(r" *\| *", line)[1:-1] for line in benchmark.describe(runs).splitlines()[2:6]]
    assert rows == [
        ["plain", "labelled", "10.00 (5.00 to 15.00)", "not reached"],
        ["plain", "labelled + background", "10.00 (5.00 to 15.00)", "1.00 (1.00 to 1.00)"],
        ["OHEM", "labelled", "9.00 (4.00 to 14.00)", "not reached"],
        ["OHEM", "labelled + background", "9.00 (4.00 to 14.00)", "1.00 (1.00 to 1.00)"],
    ]


@pytest.mark.slow
def test_it_runs_from_drawing_to_the_table(benchmark, monkeypatch, tmp_path):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, which draws the data")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("needs opencv-contrib-python")
    monkeypatch.setattr(benchmark, "SAMPLING", {"OHEM": "True"})
    few = ["--seeds", "0", "1", "--train", "4", "--background", "2", "--test", "2", "--output", str(tmp_path)]
    opts = ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "DATALOADER.NUM_WORKERS", "0"]
    monkeypatch.setattr("sys.argv", ["x", *few, "--results", str(tmp_path / "r.json"), *opts])
    benchmark.main()
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    expected = [(seed, trained_on) for seed in (0, 1) for trained_on in benchmark.TRAINED_ON]
    assert [(run["seed"], run["trained on"]) for run in runs] == expected
    folders = ("OHEM_labelled_seed0", "OHEM_labelled_background_seed0")
    configs = [(tmp_path / folder / "config.yaml").read_text() for folder in folders]
    assert ["demo_background" in config for config in configs] == [False, True]
    # 6 images instead of 4: 3 iterations instead of 2.
    assert [re.search(r"MAX_ITER: (\d+)", config)[1] for config in configs] == ["2", "3"]
    assert "| OHEM" in (tmp_path / "r.md").read_text()
