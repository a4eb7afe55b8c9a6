import json
import os
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import register_catalog
from ohem_d2.proposals import proposal_recall, read_proposals
from ohem_d2.utils.locks import hold_lock

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
demo = pytest.importorskip("ohem_d2.data.demo", reason="needs OpenCV, which draws the data")

pytestmark = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")

NUM_TRAIN, NUM_TEST = 4, 2


@pytest.fixture
def prepare(load_script, tmp_path):
    """``prepare(folder, *options)`` runs the script for a data set of six images and returns its folder."""
    script = load_script("datasets/prepare_demo.py")

    def run(name, *options):
        sizes = ["--train", str(NUM_TRAIN), "--test", str(NUM_TEST), "--workers", "1"]
        script.main(["--output", str(tmp_path / name), *sizes, *map(str, options)])
        return tmp_path / name

    return run


def files(root):
    """Relative name -> bytes of each file."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def images(count, seed=0):
    return [demo.draw_demo_image(np.random.default_rng([seed, index])) for index in range(count)]


def test_one_seed_gives_one_data_set_and_another_seed_another(prepare):
    first, again, other = prepare("a"), prepare("b"), prepare("c", "--seed", 1)
    assert files(first) == files(again)
    assert files(first).keys() == files(other).keys()
    same = [name for name in files(first) if files(first)[name] == files(other)[name]]
    assert not [name for name in same if name.endswith((".jpg", ".xml", ".safetensors"))]


def test_of_two_runs_for_one_folder_the_second_is_refused(prepare, tmp_path):
    with hold_lock(tmp_path / "a.lock", "a"):
        with pytest.raises(SystemExit, match="^error: .*/a is in use by process"):
            prepare("a")
    assert not os.listdir(tmp_path)


def test_an_image_does_not_depend_on_how_many_there_are(prepare):
    few, many = files(prepare("few")), files(prepare("many", "--train", 5, "--test", 3))
    drawn = [name for name in few if name.endswith((".jpg", ".xml"))]
    assert len(drawn) == 2 * (NUM_TRAIN + NUM_TEST) and all(few[name] == many[name] for name in drawn)


def test_the_splits_share_no_image(prepare):
    pixels = Counter(path.read_bytes() for path in (prepare("demo") / "JPEGImages").iterdir())
    assert len(pixels) == NUM_TRAIN + NUM_TEST


def test_the_catalogue_registers_splits_with_proposals_of_every_object(prepare):
    root = prepare("demo")
    assert register_catalog(root / "catalog.yaml") == ["demo_train", "demo_test"]
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        records, metadata = DatasetCatalog.get(f"demo_{split}"), MetadataCatalog.get(f"demo_{split}")
        assert len(records) == count and metadata.thing_classes == list(demo.CLASS_NAMES)
        assert metadata.year == 2012
        proposals = read_proposals(metadata.proposal_file)
        assert set(proposals) == {record["image_id"] for record in records}
        assert proposal_recall(records, proposals, iou=0.5) >= 0.9


def test_a_crowd_is_one_region_and_its_objects_are_not_annotated(prepare):
    root, plain = prepare("crowds", "--crowds", 0.5), prepare("plain")
    assert register_catalog(root / "catalog.yaml") == ["crowds_train", "crowds_test"]
    crowds = {name: [[a for a in r["annotations"] if a.get("iscrowd")] for r in DatasetCatalog.get(name)]
              for name in ("crowds_train", "crowds_test")}  # fmt: skip
    # Every second training image, and none to test on.
    assert [len(x) for x in crowds["crowds_train"]] == [0, 1, 0, 1] and not any(crowds["crowds_test"])
    for (crowd,) in crowds["crowds_train"][1::2]:
        (x1, y1, x2, y2), (width, height) = crowd["bbox"], demo.CROWD_AREA
        assert width / 2 < x2 - x1 <= width and height / 2 < y2 - y1 <= height
    assert MetadataCatalog.get("crowds_train").thing_classes == list(demo.CLASS_NAMES)
    same = [name for name in files(root) if files(root)[name] == files(plain).get(name)]
    drawn = {name.split("/")[-1] for name in same if name.endswith(".jpg")}
    assert drawn == {"train_00001.jpg", "train_00003.jpg", "test_00001.jpg", "test_00002.jpg"}


def test_a_share_of_crowds_out_of_range_is_refused(prepare, capsys):
    with pytest.raises(SystemExit):
        prepare("crowds", "--crowds", 1.5)
    assert "--crowds must be in [0, 1]" in capsys.readouterr().err


def test_the_xml_counts_pixels_from_one_and_includes_the_last(load_script):
    drawn = demo.DemoObject("star", (0, 10, 30, 45))
    element = ET.fromstring(load_script("datasets/prepare_demo.py").annotation_xml("x.jpg", [drawn])).find(
        "object"
    )
    # columns 0 to 29 are numbers 1 to 30, rows 10 to 44 are numbers 11 to 45
    assert {child.tag: child.text for child in element.find("bndbox")} == {
        "xmin": "1", "ymin": "11", "xmax": "30", "ymax": "45",
    }  # fmt: skip
    assert element.find("name").text == "star" and element.find("difficult").text == "0"


def test_a_second_run_changes_nothing_and_says_so(prepare, capsys):
    root = prepare("demo")
    before = [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    capsys.readouterr()
    prepare("demo")
    assert before == [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    assert "nothing to do" in capsys.readouterr().out


def test_other_parameters_need_overwrite(prepare):
    root = prepare("demo")
    with pytest.raises(SystemExit, match=r"'train': 4.*'train': 3.*--overwrite"):
        prepare("demo", "--train", 3)
    assert len(list((root / "JPEGImages").iterdir())) == NUM_TRAIN + NUM_TEST
    prepare("demo", "--train", 3, "--overwrite")
    assert len(list((root / "JPEGImages").iterdir())) == 3 + NUM_TEST
    assert json.loads((root / "demo.json").read_text())["train"] == 3


def test_a_folder_of_something_else_is_never_replaced(prepare, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="not a data set that this script made"):
        prepare("mine", "--overwrite")
    assert files(tmp_path / "mine") == {"thesis.txt": b"years of work"}


def test_an_interrupted_run_leaves_nothing_behind_after_the_next_one(prepare, tmp_path, monkeypatch):
    def interrupt(image, mode):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ohem_d2.proposals.selective_search._search", interrupt)
        with pytest.raises(SystemExit, match="interrupted"):
            prepare("demo")
    assert not (tmp_path / "demo").exists()
    assert (prepare("demo") / "demo.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("options", [("--train", 0), ("--test", -1), ("--seed", -1)])
def test_impossible_sizes_are_refused(prepare, options):
    with pytest.raises(SystemExit) as error:
        prepare("demo", *options)
    assert error.value.code == 2


def test_a_box_is_tight_around_the_visible_pixels():
    mask = np.zeros((160, 200))
    mask[20:31, 50:72] = 1.0
    mask[31, 50:72] = 0.4  # less than half covered
    mask[20:31, 72] = 0.5
    assert demo.tight_box(mask) == (50, 20, 73, 31)


def test_what_is_covered_does_not_count_for_the_box(monkeypatch):
    left, right = np.zeros((160, 200)), np.zeros((160, 200))
    left[40:60, 20:60], right[30:70, 50:90] = 1.0, 1.0
    masks = iter([left, right])
    monkeypatch.setattr(demo, "random_shapes", lambda rng: [("disc", None, 0), ("square", None, 36)])
    monkeypatch.setattr(demo, "random_mask", lambda rng, shape: next(masks))
    objects = demo.draw_demo_image(np.random.default_rng(0)).objects
    assert objects == [demo.DemoObject("disc", (20, 40, 50, 60)), demo.DemoObject("square", (50, 30, 90, 70))]


def test_a_rectangle_is_rasterized_onto_its_pixels():
    mask = demo.rasterize([np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]])])
    assert mask[20:50, 10:30].min() >= 0.75  # supersampling rounds to a quarter of a pixel
    mask[20:50, 10:30] = 0
    assert mask.max() <= 0.5
    assert mask[:, :9].max() == mask[:19].max() == mask[:, 31:].max() == mask[51:].max() == 0.0


@pytest.mark.parametrize("name, area", [("disc", np.pi), ("square", 2.0), ("triangle", 0.75 * 3**0.5)])
def test_shapes_have_the_area_of_their_name(name, area):
    # radius 1: circle pi, square of diagonal 2, equilateral triangle of height 1.5
    (outline,) = demo.CLASSES[name][0]()
    x, y = outline.T
    measured = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert measured == pytest.approx(area, rel=0.01)


def test_a_ring_has_a_hole_and_a_disc_has_none():
    centred = [[40 * outline + [100, 80] for outline in shape()] for shape in (demo.disc, demo.ring)]
    disc, ring = map(demo.rasterize, centred)
    assert disc[80, 100] == 1 and ring[80, 100] == 0 and ring[80, 130] == 1


def test_every_class_is_drawn_and_the_commonest_is_about_three_times_the_rarest():
    rng = np.random.default_rng(0)
    counts = Counter(name for _ in range(1000) for name, _, _ in demo.random_shapes(rng) if name)
    assert set(counts) == set(demo.CLASS_NAMES)
    assert 2 < counts["disc"] / counts["cross"] < 4


def test_every_image_has_an_object_inside_of_it_and_a_distractor():
    rng = np.random.default_rng(0)
    assert all(any(name is None for name, _, _ in demo.random_shapes(rng)) for _ in range(50))
    for image in images(20):
        assert image.pixels.shape == (160, 200, 3) and image.pixels.dtype == np.uint8
        boxes = np.array([drawn.box for drawn in image.objects])
        assert len(boxes) and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [200, 160]).all()
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        assert (sides >= 12).all() and (sides <= 92).all()
