"""The whole way: from a config, weights and files to pictures, JSON and CSV."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ohem_d2.engine import OHEMTrainer, load_config
from ohem_d2.utils.video import open_video

from ..toy import toy_options, write_toy

CONFIG = "configs/Base-FastRCNN-small.yaml"


@pytest.fixture
def predict(load_script, tmp_path, monkeypatch):
    """``predict(*arguments)`` runs the script with an untrained model; all classes have about one score."""
    pytest.importorskip("cv2.ximgproc", reason="needs OpenCV's contrib build")
    write_toy(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    opts = [*toy_options(tmp_path), "OUTPUT_DIR", str(tmp_path / "unused")]
    torch.manual_seed(0)
    model = OHEMTrainer.build_model(load_config(CONFIG, opts))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    script = load_script("tools/predict.py")

    def run(*arguments, weights="weights.pth"):
        weights = str(tmp_path / weights) if weights else ""
        given = ["--config-file", CONFIG, "--output", str(tmp_path / "found"), *map(str, arguments)]
        script.main([*given, "--opts", *opts, "MODEL.WEIGHTS", weights])

    return run


def test_images_and_videos_become_pictures_results_and_rows(predict, tmp_path, capsys):
    images = tmp_path / "voc/JPEGImages"
    (images / "broken.jpg").write_bytes(b"none")
    with open_video(tmp_path / "clip.avi.mp4", 5) as writer:
        for _ in range(2):
            writer.write(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    with pytest.raises(SystemExit) as stop:
        predict("--input", images, tmp_path / "clip.avi.mp4", "--score-thresh", 0.3, "--batch-size", 3)
    assert stop.value.code == f"1 files cannot be read: {images / 'broken.jpg'}"
    assert capsys.readouterr().out.startswith("9 images: ")
    results = json.loads((tmp_path / "found/detections.json").read_text())
    assert {result["image_id"] for result in results} == {*"abcdefg", "clip.avi/000000", "clip.avi/000001"}
    rows = list(csv.DictReader((tmp_path / "found/detections.csv").open()))
    assert len(rows) == len(results) and {row["class"] for row in rows} == {"cat", "dog"}
    pictures = tmp_path / "found/pictures"
    assert {file.name for file in pictures.iterdir()} == {*(f"{i}.jpg" for i in "abcdefg"), "clip.avi.mp4"}
    assert Image.open(pictures / "a.jpg").size == Image.open(images / "a.jpg").size


def test_the_threshold_is_of_what_is_drawn_alone_and_pictures_can_be_left_out(predict, tmp_path):
    image = tmp_path / "voc/JPEGImages/a.jpg"
    predict("--input", image, "--score-thresh", 1.1)
    drawn, given = (np.asarray(Image.open(f)).astype(int) for f in (tmp_path / "found/pictures/a.jpg", image))
    assert abs(drawn - given).mean() < 30  # noise through JPEG once more
    assert json.loads((tmp_path / "found/detections.json").read_text())
    (tmp_path / "found/pictures/a.jpg").unlink()
    predict("--input", image, "--no-pictures")
    assert not (tmp_path / "found/pictures/a.jpg").exists()


@pytest.mark.parametrize(
    "arguments, weights, message",
    [
        (("a.jpg",), "", "MODEL.WEIGHTS is empty; give the file of the trained weights"),
        (("a.jpg",), "backbone.pth", "backbone.pth lacks .* parameters of the model: .*; give weights"),
        (("none.jpg",), "weights.pth", "none.jpg does not exist"),
        (("a.jpg", "--scale", "-1"), "weights.pth", "scale is -1"),
    ],
)
def test_a_mistake_is_one_line(predict, tmp_path, arguments, weights, message):
    state = torch.load(tmp_path / "weights.pth", weights_only=True)["model"]
    backbone = {key: value for key, value in state.items() if key.startswith("backbone")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    name, *more = arguments
    with pytest.raises(SystemExit, match=f"^predict.py: .*{message}"):
        predict("--input", tmp_path / "voc/JPEGImages" / name, *more, weights=weights)
    assert not (tmp_path / "found").exists()


def test_a_picture_never_replaces_its_image(predict, tmp_path):
    images = tmp_path / "voc/JPEGImages"
    (tmp_path / "found").mkdir()
    images.rename(tmp_path / "found/pictures")
    with pytest.raises(SystemExit, match="a.jpg would be overwritten; give another --output"):
        predict("--input", tmp_path / "found/pictures")


def test_without_opencv_proposals_say_what_to_install(predict, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(SystemExit, match="^predict.py: Selective Search needs OpenCV's contrib build"):
        predict("--input", tmp_path / "voc/JPEGImages/a.jpg")
