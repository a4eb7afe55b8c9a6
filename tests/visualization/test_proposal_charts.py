import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from ohem_d2.proposals import Proposals
from ohem_d2.proposals.inspection import inspect_proposals
from ohem_d2.visualization import plot_inspections

TRUTH = [{"image_id": "a", "annotations": [{"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS}]}]
FILES = {"x": Proposals([("a", [[0, 0, 9, 9]], [1])]), "y": Proposals([])}

pytest.importorskip("matplotlib", reason="needs Matplotlib, which draws the charts")


@pytest.mark.parametrize("truth, size", [(TRUTH, (1100, 800)), (None, (1100, 400))])
def test_charts_are_a_png_with_recall_only_if_there_is_a_data_set(tmp_path, truth, size):
    inspections = [inspect_proposals(name, proposals, truth) for name, proposals in FILES.items()]
    plot_inspections(inspections, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "PNG" and image.size == size
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_the_picture_depends_on_what_was_measured(tmp_path):
    one, two = (inspect_proposals("x", proposals, TRUTH) for proposals in FILES.values())
    plot_inspections([one], tmp_path / "1.png")
    plot_inspections([two], tmp_path / "2.png")
    plot_inspections([one], tmp_path / "3.png")
    images = [np.asarray(Image.open(tmp_path / f"{k}.png")) for k in (1, 2, 3)]
    assert np.array_equal(images[0], images[2]) and not np.array_equal(images[0], images[1])
