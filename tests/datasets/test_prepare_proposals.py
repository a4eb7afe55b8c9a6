import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import read_proposals

pytestmark = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")

OBJECT = (
    "<object><name>box</name><difficult>0</difficult><bndbox><xmin>21</xmin><ymin>11</ymin>"
    "<xmax>50</xmax><ymax>40</ymax></bndbox></object>"
)
XML = f"<annotation><size><width>80</width><height>60</height><depth>3</depth></size>{OBJECT}</annotation>"


@pytest.fixture
def catalog(tmp_path):
    """A catalogue of ``toy_train`` (2 images) and ``toy_test`` (1), each image a rectangle on noise."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    for seed, image_id in enumerate(["a", "b", "c"]):
        image = np.random.default_rng(seed).integers(40, 70, (60, 80, 3)).astype(np.uint8)
        image[10:40, 20:50] = (30, 200, 220)
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{image_id}.jpg"), image)
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(XML)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("c\n")
    entry = "{format: voc, root: ., splits: [train, test], classes: [box], proposals: './p/{split}.pkl'}"
    (tmp_path / "catalog.yaml").write_text(f"toy: {entry}")
    return tmp_path / "catalog.yaml"


@pytest.fixture
def generate(load_script, catalog):
    """``generate(*options)`` runs ``generate selective-search`` with the catalogue and one worker."""
    script = load_script("datasets/prepare_proposals.py")

    def run(*options):
        common = ["generate", "selective-search", "--catalog", str(catalog), "--workers", "1"]
        script.main([*common, *map(str, options)])

    return run


def test_each_data_set_gets_the_proposal_file_of_its_catalogue(generate, tmp_path):
    generate("--dataset", "toy_train", "toy_test")
    assert set(read_proposals(tmp_path / "p/train.pkl")) == {"a", "b"}
    assert set(read_proposals(tmp_path / "p/test.pkl")) == {"c"}


def test_output_takes_all_data_sets(generate, tmp_path):
    generate("--dataset", "toy_train", "toy_test", "--output", tmp_path / "new/all.pkl")
    assert set(read_proposals(tmp_path / "new/all.pkl")) == {"a", "b", "c"}
    assert not (tmp_path / "p").exists()


def test_the_summary_counts_images_and_boxes_and_gives_recall_and_file(generate, tmp_path, capsys):
    generate("--dataset", "toy_test", "--output", tmp_path / "x.pkl")
    count = len(read_proposals(tmp_path / "x.pkl")["c"][0])
    out = capsys.readouterr().out
    assert "1 of 1 images" in out and f"{count} to {count} boxes per image (median {count})" in out
    assert "recall 1.000 at IoU 0.5" in out and f"written to {tmp_path / 'x.pkl'}" in out


def test_mode_and_scale_reach_the_search(generate, tmp_path):
    counts = []
    for name, options in (("f", []), ("q", ["--mode", "quality"]), ("s", ["--scale", "0.01"])):
        generate("--dataset", "toy_test", "--output", tmp_path / name, *options)
        counts.append(len(read_proposals(tmp_path / name)["c"][0]))
    assert counts[1] > counts[0] > counts[2] == 1  # a search in one pixel finds the whole image


def test_an_existing_file_stays_unless_overwrite_is_given(generate, tmp_path):
    target = tmp_path / "x.pkl"
    target.write_text("precious")
    with pytest.raises(SystemExit, match=r"x\.pkl exists; --overwrite"):
        generate("--dataset", "toy_test", "--output", target)
    assert target.read_text() == "precious"
    generate("--dataset", "toy_test", "--output", target, "--overwrite")
    assert set(read_proposals(target)) == {"c"}


@pytest.mark.parametrize("output, message", [("file/x.pkl", "cannot write to"), (".", "is a folder")])
def test_an_output_that_cannot_be_written_is_found_before_the_search(
    generate, tmp_path, monkeypatch, output, message
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ohem_d2.data.selective_search._search", lambda *_: pytest.fail("searched"))
    with pytest.raises(SystemExit, match=message):
        generate("--dataset", "toy_test", "--output", tmp_path / output)


def test_a_folder_that_takes_no_files_is_found_before_the_search(generate, tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("ohem_d2.data.selective_search._search", lambda *_: pytest.fail("searched"))
    with pytest.raises(SystemExit, match=f"cannot write to {tmp_path}: Permission denied"):
        generate("--dataset", "toy_test", "--output", tmp_path / "x.pkl")


def test_an_interrupt_leaves_no_file(generate, tmp_path, monkeypatch):
    calls = []

    def interrupt_second(image, mode):
        calls.append(mode)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.array([[0, 0, 80, 60]])

    monkeypatch.setattr("ohem_d2.data.selective_search._search", interrupt_second)
    with pytest.raises(SystemExit, match="interrupted"):
        generate("--dataset", "toy_train")
    assert list((tmp_path / "p").iterdir()) == []


def test_an_unknown_data_set_is_named_with_the_choices(generate):
    with pytest.raises(SystemExit, match=r"'toy_val' is not registered; choose from .*toy_train"):
        generate("--dataset", "toy_val")


def test_a_data_set_without_a_proposal_file_needs_output(generate, tmp_path):
    DatasetCatalog.register("bare", lambda: [])
    MetadataCatalog.get("bare").set(thing_classes=["box"])
    with pytest.raises(SystemExit, match="'bare' has no proposal file.*--output"):
        generate("--dataset", "bare")


def test_a_wrong_option_and_a_broken_image_end_with_one_line(generate, tmp_path):
    with pytest.raises(SystemExit, match="error: scale is -1"):
        generate("--dataset", "toy_test", "--scale", "-1")
    (tmp_path / "JPEGImages/c.jpg").write_text("no image")
    with pytest.raises(SystemExit, match=r"error: .*c\.jpg cannot be read as an image"):
        generate("--dataset", "toy_test")
    assert not (tmp_path / "p/test.pkl").exists()
