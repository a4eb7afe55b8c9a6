"""Configs that are built before anything trains; the toy detector of tests/toy.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ohem_d2.comparison import Variant, check_trials, describe_unequal_starts, make_runs, trials, try_all
from ohem_d2.comparison.trial import try_config
from tests.toy import toy_options, write_toy

CONFIG = "configs/Base-FastRCNN-small.yaml"


@pytest.fixture
def toy(tmp_path):
    write_toy(tmp_path)
    return [*toy_options(tmp_path), "DATASETS.TEST", "('toy_wide',)", "SEED", "0"]


def mined(*more):
    return ["MODEL.ROI_HEADS.NAME", "OHEMROIHeads", *more]


def test_arms_of_a_seed_begin_with_equal_weights_and_see_equal_images(toy):
    plain, ohem = try_config(CONFIG, toy, False, 0), try_config(CONFIG, [*toy, *mined()], False, 0)
    assert plain["weights"] == ohem["weights"] and plain["images"] == ohem["images"]
    other = try_config(CONFIG, [*toy, *mined("SEED", "1")], False, 0)
    assert other["weights"] != ohem["weights"] and other["images"] != ohem["images"]
    assert plain["test_settings"] == ohem["test_settings"]
    assert plain["test_settings"]["TEST.DETECTIONS_PER_IMAGE"] == 100
    assert plain["schedule"] == {
        "SOLVER.MAX_ITER": 7, "SOLVER.STEPS": [6], "SOLVER.WARMUP_ITERS": 0, "TEST.EVAL_PERIOD": 0,
    }  # fmt: skip


def test_mining_costs_the_operations_of_its_pass_over_all_candidates(toy):
    plain = try_config(CONFIG, [*toy, *mined("MODEL.OHEM.ENABLED", "False")], True, 0)
    ohem = try_config(CONFIG, [*toy, *mined()], True, 0)
    # Two images of 30 proposals and 2 objects, all candidates: 64 RoIs through two layers and the predictors,
    # 2 operations a weight. The heads have 128 * 49 * 256 + 256 * 256 + 256 * (3 + 8) weights.
    weights = 128 * 49 * 256 + 256 * 256 + 256 * 11
    difference = ohem["gflop_per_iteration"] - plain["gflop_per_iteration"]
    assert difference == pytest.approx(2 * 64 * weights / 1e9, rel=0.05)


def test_two_batches_an_iteration_are_counted_twice(toy):
    once, twice = (
        try_config(CONFIG, [*toy, "SOLVER.ACCUMULATE", str(n)], True, 0)["gflop_per_iteration"]
        for n in (1, 2)
    )
    assert twice == pytest.approx(2 * once)


def test_a_short_training_tells_what_a_long_one_takes(toy, monkeypatch):
    found = try_config(CONFIG, [*toy, "TEST.EVAL_PERIOD", "2"], False, 3)
    assert 0 < found["seconds_per_iteration"] * 3 + found["test_seconds"] <= found["measured_seconds"]
    assert found["schedule"]["SOLVER.MAX_ITER"] == 7 and found["schedule"]["TEST.EVAL_PERIOD"] == 2


class Answers:
    """Stands in for the processes; `wrong` is the arm whose config is."""

    def __init__(self, wrong=""):
        self.commands, self.wrong = [], wrong

    def __call__(self, command, output, variables):
        assert command[1:3] == ["-m", "ohem_d2.comparison.trial"] and variables["PYTHONWARNINGS"] == "ignore"
        self.commands.append(command[5:])
        if self.wrong and self.wrong in command:
            output.write(b"a warning\nKeyError: unknown key WRONG\n")
            return 1
        found = {"measured_seconds": 0.0, "weights": "w", "images": "i"}
        if "--count" in command:
            found["gflop_per_iteration"] = 2.5
        if command[command.index("--iterations") + 1] != "0":
            found["test_seconds"] = 1.0
        Path(command[command.index("--output") + 1]).write_text(json.dumps(found))
        return 0


@pytest.fixture
def answers(monkeypatch):
    made = Answers()
    monkeypatch.setattr(trials, "run_child", made)
    return made


RUNS = make_runs(
    "base.yaml", [Variant("a"), Variant("b", ("WRONG", "1"))], [7, 8], [Variant("x"), Variant("y")]
)


def test_every_arm_is_tried_once_on_every_data_set_whatever_the_seeds(answers, tmp_path):
    found = try_all(RUNS, tmp_path)
    assert list(found) == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    common = ["--count", "--iterations", "0", "--config-file", "base.yaml", "SEED", "0"]
    assert answers.commands == [common, [*common, "WRONG", "1"]] * 2
    assert trials.read_operations(tmp_path, "y") == {"a": 2.5, "b": 2.5}
    assert try_all(RUNS, tmp_path) == found and len(answers.commands) == 4  # kept


def test_what_was_tried_is_tried_again_with_other_overrides_or_to_measure_more(answers, tmp_path):
    runs = make_runs("base.yaml", [Variant("a")], [0])
    try_all(runs, tmp_path, count=False)
    try_all(runs, tmp_path, count=True)
    try_all(runs, tmp_path, num_iterations=20)
    try_all(runs, tmp_path, count=False)
    called_with = [" ".join(command[: command.index("--config-file")]) for command in answers.commands]
    assert called_with == ["--iterations 0", "--count --iterations 0", "--count --iterations 20"]
    try_all(make_runs("base.yaml", [Variant("a", ("K", "V"))], [0]), tmp_path)
    assert len(answers.commands) == 4


def test_what_was_tried_is_tried_again_when_its_config_or_a_base_of_it_was_edited(answers, tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 5000}\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nSEED: 1\n")
    runs = make_runs(str(tmp_path / "config.yaml"), [Variant("a")], [0])
    for times, text in enumerate(("5000", "5000 # the same", "300"), 1):
        (tmp_path / "base.yaml").write_text(f"SOLVER:\n  MAX_ITER: {text}\n")
        try_all(runs, tmp_path)
        assert len(answers.commands) == (1 if times < 3 else 2)


def test_all_configs_that_cannot_be_built_are_told_at_once(answers, tmp_path):
    answers.wrong = "WRONG"
    with pytest.raises(ValueError) as error:
        try_all(RUNS, tmp_path)
    lines = str(error.value).splitlines()
    assert lines == [
        f"{data}/b: KeyError: unknown key WRONG (see {tmp_path}/trials/{data}/b.txt)" for data in ("x", "y")
    ]


def test_unequal_starts_are_told():
    same = {"weights": "w", "images": "i"}
    found = {("", "a"): same, ("", "b"): same, ("", "c"): {**same, "weights": "v"}}
    assert describe_unequal_starts(found) == ["initial weights of c and a differ, seed by seed"]
    found = {
        ("x", "a"): same,
        ("y", "a"): {**same, "weights": "v"},
        ("y", "b"): {"weights": "v", "images": "j"},
    }
    assert describe_unequal_starts(found) == ["order of the images of b and a differ on y, seed by seed"]


@pytest.mark.parametrize("key", ["DATASETS.TEST", "TEST.EVALUATORS"])
def test_figures_of_two_tests_would_not_be_compared(key):
    found = {("", "a"): {"test_settings": {"DATASETS.TEST": ["x"], key: ["x"]}}}
    check_trials(found)
    found["", "b"] = {"test_settings": {"DATASETS.TEST": ["x"], key: ["x", "y"]}}
    with pytest.raises(ValueError, match=f"^{key} of b has 2: x, y; valid: one. Test the others by --test"):
        check_trials(found)


@pytest.mark.slow
def test_nothing_trains_when_one_config_is_wrong(toy, tmp_path):
    base = {"_BASE_": str(Path(CONFIG).resolve())}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    script = Path(__file__).parents[2] / "tools/compare.py"
    arms = ["--arm", "good", "--arm", "bad", "MODEL.OHEM.NMS", "2.0"]
    command = [sys.executable, str(script), "--base", "base.yaml", *arms, "--output", "out", "--", *toy[:-2]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        "compare.py: bad: KeyError: command line: unknown key MODEL.OHEM.NMS" in done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["trials"]
