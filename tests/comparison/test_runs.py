import sys

import pytest

from ohem_d2.comparison import run_arms, run_once, runs


def test_a_package_without_train_net_beside_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "_TRAIN_NET", tmp_path / "train_net.py")
    with pytest.raises(FileNotFoundError, match="train_net.py does not exist: .* a checkout of the project$"):
        run_once("configs/demo/ohem.yaml", 0, tmp_path / "run")


def test_train_net_is_found_in_a_checkout():
    assert runs._TRAIN_NET.is_file()


def test_the_version_of_opencv_is_recorded_where_there_is_one(monkeypatch):
    pytest.importorskip("cv2", reason="needs OpenCV")
    recorded = runs._environment()
    assert set(recorded) == {"device", "python", "torch", "torchvision", "detectron2", "numpy", "opencv"}
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert set(recorded) - set(runs._environment()) == {"opencv"}


def test_the_chart_of_a_comparison_has_the_losses_of_each_seed(load_script, tmp_path):
    for seed in range(2):
        (tmp_path / f"ohem/seed{seed}").mkdir(parents=True)
        line = f'{{"iteration": 9, "ohem/all_roi_loss": {seed}.5}}'
        (tmp_path / f"ohem/seed{seed}/metrics.json").write_text(line)
    curves = load_script("tools/compare.py").read_curves(["a/ohem.yaml", "plain.yaml"], [0, 1], tmp_path)
    assert curves == {"ohem": [[(10, 0.5)], [(10, 1.5)]], "plain": [[], []]}


def test_the_figure_of_all_rois_is_the_last_that_was_measured(tmp_path):
    lines = [f'{{"iteration": {i}, "ohem/all_roi_loss": {i}.5}}' for i in range(3)]
    (tmp_path / "metrics.json").write_text("\n".join([*lines, '{"iteration": 3, "bbox/AP": 1.0}']))
    assert runs._training_figures(tmp_path) == {"ohem/all_roi_loss": 2.5}


def test_an_arm_that_is_no_yaml_config_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="^lazy.py is a Python config; arms are YAML configs$"):
        run_arms(["a.yaml", "lazy.py"], [0], tmp_path)
    assert not list(tmp_path.iterdir())
