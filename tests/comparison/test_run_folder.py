"""Folders of runs, whole, killed and empty, and the arms that they belong to."""

import json

import pytest

from ohem_d2.comparison.run_folder import differing_lines, group_runs, read_run

CONFIG = "SOLVER:\n  MAX_ITER: {max_iter}\n  BASE_LR: {lr}\nSEED: {seed}\nOUTPUT_DIR: {seed}\n"


@pytest.fixture
def make_run(tmp_path):
    """``make_run("ohem/seed0", rows, lr=..., tail="")`` writes and reads a run of 10 iterations."""

    def make(name, rows=((9, 50.0),), seed=0, lr=0.01, tail="", log=""):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG.format(max_iter=10, lr=lr, seed=seed))
        lines = [json.dumps({"iteration": i, "bbox/AP": ap}) + "\n" for i, ap in rows]
        (folder / "metrics.json").write_text("".join(lines) + tail)
        (folder / "log.txt").write_text(log)
        return read_run(folder)

    return make


def test_a_whole_run_has_no_problem(make_run):
    run = make_run("a", [(4, 20.0), (9, 50.0)], log="max_mem: 512M\nmax_mem: 2048M\nmax_mem: 1024M")
    assert run.problems == [] and run.memory_mib == 2048 and run.name == "a"
    assert run.curve("bbox/AP") == [(5, 20.0), (10, 50.0)] and run.curve("loss") == []
    assert run.config["SOLVER.BASE_LR"] == 0.01


def test_the_test_after_the_last_iteration_counts_no_iteration(make_run):
    assert make_run("a", [(4, 20.0), (10, 50.0)]).curve("bbox/AP") == [(5, 20.0), (10, 50.0)]


def test_of_a_killed_run_the_cut_line_is_read_over_and_the_rest_is_there(make_run):
    run = make_run("a", [(2, 20.0)], tail='{"iteration": 3, "bbox/A')
    assert run.curve("bbox/AP") == [(3, 20.0)]
    assert run.problems == ["stopped after 3 of 10 iterations"]


def test_of_a_run_that_has_just_begun_is_said_what_is_missing(make_run, tmp_path):
    run = make_run("a", [])
    assert run.curve("bbox/AP") == [] and len(run.problems) == 1 and "no metrics" in run.problems[0]
    (tmp_path / "a/config.yaml").unlink()
    run = read_run(tmp_path / "a")
    assert "no config" in run.problems[0] and run.config == {} and run.max_iter is None


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\0"])
def test_a_config_that_cannot_be_read_is_a_problem_in_one_line(make_run, tmp_path, text):
    make_run("a")
    (tmp_path / "a/config.yaml").write_text(text)
    run = read_run(tmp_path / "a")
    assert run.config == {} and "a/config.yaml" in run.problems[0] and "\n" not in run.problems[0]


def test_no_run_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        read_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no run: no config.yaml"):
        read_run(tmp_path)


def test_runs_that_differ_in_seed_and_folder_are_one_arm(make_run):
    runs = [
        make_run("out/heuristic/seed0", lr=0.01),
        make_run("out/ohem/seed0", lr=0.02),
        make_run("out/ohem/seed1", lr=0.02, seed=1),
    ]
    arms = group_runs(runs)
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("heuristic", 1), ("ohem", 2)]
    assert [run.name for run in arms[1].runs] == ["ohem/seed0", "ohem/seed1"]
    assert differing_lines(arms) == {"SOLVER.BASE_LR": [0.01, 0.02]}


def test_a_test_of_the_runs_own_weights_makes_no_arm_of_it(make_run, tmp_path):
    """--eval-only writes the config again, with the weights that it tests."""
    for seed in range(2):
        make_run(f"ohem/seed{seed}", seed=seed)
        file = tmp_path / f"ohem/seed{seed}/config.yaml"
        file.write_text(f"MODEL: {{WEIGHTS: {file.parent}/model_final.pth}}\n{file.read_text()}")
    make_run("other/seed0")
    other = tmp_path / "other/seed0/config.yaml"
    other.write_text(f"MODEL: {{WEIGHTS: {tmp_path}/r50.pkl}}\n{other.read_text()}")
    arms = group_runs([read_run(tmp_path / name) for name in ("ohem/seed0", "ohem/seed1", "other/seed0")])
    assert [(arm.name, len(arm.runs)) for arm in arms] == [("ohem", 2), ("other", 1)]
    assert differing_lines(arms) == {"MODEL.WEIGHTS": ["", f"{tmp_path}/r50.pkl"]}


def test_objects_of_a_python_config_are_read_as_data(make_run, tmp_path):
    make_run("a")
    never = "!!python/object/apply:os.system [exit 1]"
    shape = "!!python/object/new:detectron2.layers.shape_spec.ShapeSpec [32, 7, 7, null]"
    text = f"train: {{max_iter: 10, seed: 3}}\nmodel: {{input_shape: {shape}}}\nrun: {never}\n"
    (tmp_path / "a/config.yaml").write_text(text)
    run = read_run(tmp_path / "a")
    assert run.problems == [] and run.max_iter == 10
    tag = "tag:yaml.org,2002:python/object/new:detectron2.layers.shape_spec.ShapeSpec"
    assert run.config["model.input_shape"] == [tag, 32, 7, 7, None]
    assert run.config["run"] == ["tag:yaml.org,2002:python/object/apply:os.system", "exit 1"]
    assert run.setting("MODEL.SEED", "train.seed", 0) == 3


def test_arms_of_equal_names_get_longer_ones_and_runs_of_equal_configs_are_one(make_run):
    arms = group_runs([make_run("one/ohem/seed0", lr=0.01), make_run("two/ohem/seed0", lr=0.02)])
    assert [arm.name for arm in arms] == ["one/ohem", "two/ohem"]
    arms = group_runs([make_run("first"), make_run("second")])
    assert [arm.name for arm in arms] == ["first, second"] and differing_lines(arms) == {}


def test_a_key_that_one_arm_lacks_differs(make_run, tmp_path):
    runs = [make_run("a"), make_run("b")]
    (tmp_path / "b/config.yaml").write_text("SOLVER:\n  MAX_ITER: 10\n")
    assert differing_lines(group_runs([runs[0], read_run(tmp_path / "b")])) == {"SOLVER.BASE_LR": [0.01, ""]}


def test_runs_without_config_are_arms_of_their_own(make_run, tmp_path):
    for name in "ab":
        make_run(f"{name}/run")
        (tmp_path / name / "run/config.yaml").unlink()
    arms = group_runs([read_run(tmp_path / name / "run") for name in "ab"])
    assert [arm.name for arm in arms] == ["a/run", "b/run"] and differing_lines(arms) == {}
