import numpy as np
import pytest
from PIL import Image

from ohem_d2.visualization import plot_roi_losses

pytest.importorskip("matplotlib", reason="needs Matplotlib, which draws the charts")

ARMS = {"heuristic": [[(10, 1.0), (20, 0.8)]], "ohem": [[(10, 0.9), (20, 0.5)], [(10, 0.9), (20, 0.6)]]}


def test_every_curve_is_in_the_picture(tmp_path):
    pictures = []
    for arms in (ARMS, {**ARMS, "ohem": ARMS["ohem"][:1]}, {**ARMS, "ohem": []}, ARMS):
        plot_roi_losses(arms, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as image:
            assert image.format == "PNG" and image.size == (700, 450)
            pictures.append(np.asarray(image.convert("RGB")).reshape(-1, 3))
    assert np.array_equal(pictures[0], pictures[3])
    changes = [(pictures[0] != other).any(axis=1).sum() for other in pictures[1:3]]
    assert 0 < changes[0] < changes[1]


def test_an_arm_whose_first_run_measured_nothing_is_in_the_legend(tmp_path):
    pictures = []
    for curves in (ARMS["ohem"], [[], *ARMS["ohem"]]):
        plot_roi_losses({**ARMS, "ohem": curves}, tmp_path / "x.png")
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_runs_that_measured_nothing_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="no run measured the loss over all RoIs; set TEST.ROI_LOSS.PERIOD"):
        plot_roi_losses({"ohem": [[]], "heuristic": []}, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
