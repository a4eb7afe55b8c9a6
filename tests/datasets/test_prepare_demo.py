import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import register_catalog
from ohem_d2.proposals import proposal_recall, read_proposals
from ohem_d2.utils.locks import hold_lock

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
drawing = pytest.importorskip("ohem_d2.data.drawing", reason="needs OpenCV, which draws the data")

pytestmark = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")

NUM_TRAIN, NUM_TEST = 4, 2


@pytest.fixture
def script(load_script):
    return load_script("datasets/prepare_demo.py")


@pytest.fixture
def prepare(script, tmp_path):
    """``prepare(folder, *options)`` runs the script for a data set of six images and returns its folder."""

    def run(name, *options):
        sizes = ["--train", str(NUM_TRAIN), "--test", str(NUM_TEST), "--workers", "1"]
        script.main(["--output", str(tmp_path / name), *sizes, *map(str, options)])
        return tmp_path / name

    return run


@pytest.fixture
def draw(prepare, script, monkeypatch):
    """As `prepare`, without proposals."""
    monkeypatch.setattr(script, "search_splits", lambda root, workers: None)
    return prepare


def files(root):
    """Relative name -> bytes of each file."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


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


def test_an_image_does_not_depend_on_how_many_there_are(draw):
    few, many = files(draw("few")), files(draw("many", "--train", 5, "--test", 3))
    drawn = [name for name in few if name.endswith((".jpg", ".xml"))]
    assert len(drawn) == 2 * (NUM_TRAIN + NUM_TEST) and all(few[name] == many[name] for name in drawn)


def test_the_splits_share_no_image(draw):
    pixels = Counter(path.read_bytes() for path in (draw("demo") / "JPEGImages").iterdir())
    assert len(pixels) == NUM_TRAIN + NUM_TEST


def test_the_catalogue_registers_splits_with_proposals_of_every_object(prepare):
    root = prepare("demo")
    assert register_catalog(root / "catalog.yaml") == ["demo_train", "demo_test"]
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        records, metadata = DatasetCatalog.get(f"demo_{split}"), MetadataCatalog.get(f"demo_{split}")
        assert len(records) == count and metadata.thing_classes == list(drawing.CLASS_NAMES)
        assert metadata.year == 2012
        proposals = read_proposals(metadata.proposal_file)
        assert set(proposals) == {record["image_id"] for record in records}
        assert proposal_recall(records, proposals, iou=0.5) >= 0.9


def test_a_crowd_is_one_region_and_its_objects_are_not_annotated(draw):
    root, plain = draw("crowds", "--crowds", 0.5), draw("plain")
    assert register_catalog(root / "catalog.yaml") == ["crowds_train", "crowds_test"]
    crowds = {name: [[a for a in r["annotations"] if a.get("iscrowd")] for r in DatasetCatalog.get(name)]
              for name in ("crowds_train", "crowds_test")}  # fmt: skip
    # Every second training image, and none to test on.
    assert [len(x) for x in crowds["crowds_train"]] == [0, 1, 0, 1] and not any(crowds["crowds_test"])
    for (crowd,) in crowds["crowds_train"][1::2]:
        (x1, y1, x2, y2), (width, height) = crowd["bbox"], (110, 90)
        assert width / 2 < x2 - x1 <= width and height / 2 < y2 - y1 <= height
    assert MetadataCatalog.get("crowds_train").thing_classes == list(drawing.CLASS_NAMES)
    same = [name for name in files(root) if files(root)[name] == files(plain).get(name)]
    drawn = {name.split("/")[-1] for name in same if name.endswith(".jpg")}
    assert drawn == {"train_00001.jpg", "train_00003.jpg", "test_00001.jpg", "test_00002.jpg"}


def test_a_share_of_crowds_out_of_range_is_refused(draw, capsys):
    with pytest.raises(SystemExit):
        draw("crowds", "--crowds", 1.5)
    assert "--crowds: must be in [0, 1], not 1.5" in capsys.readouterr().err


def test_a_second_run_changes_nothing_and_says_so(prepare, capsys):
    root = prepare("demo")
    before = [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    capsys.readouterr()
    prepare("demo")
    assert before == [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    assert "nothing to do" in capsys.readouterr().out


def test_other_parameters_need_overwrite(draw):
    root = draw("demo")
    with pytest.raises(SystemExit, match=r"'train': 4.*'train': 3.*--overwrite"):
        draw("demo", "--train", 3)
    assert len(list((root / "JPEGImages").iterdir())) == NUM_TRAIN + NUM_TEST
    draw("demo", "--train", 3, "--overwrite")
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
def test_impossible_sizes_are_refused(draw, options):
    with pytest.raises(SystemExit) as error:
        draw("demo", *options)
    assert error.value.code == 2


def labels(root, image_id):
    """(class, box in pixels from zero) of each object in the XML of an image."""
    elements = ET.parse(root / "Annotations" / f"{image_id}.xml").findall("object")
    numbers = [
        [int(e.find("bndbox").findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")] for e in elements
    ]
    return [(e.findtext("name"), [x1 - 1, y1 - 1, x2, y2]) for e, (x1, y1, x2, y2) in zip(elements, numbers)]


def changed(root, other):
    """The files that differ, without the stamp."""
    a, b = files(root), files(other)
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)} - {"demo.json"}


def test_wrong_labels_are_of_the_training_set_and_on_record(draw):
    plain, root = draw("plain"), draw("wrong", "--wrong-labels", "flipped=0.2", "deleted=0.1", "--train", 6)
    wrong = json.loads((root / "wrong_labels.json").read_text())
    truth = draw("six", "--train", 6)
    number = sum(len(labels(truth, f"train_{n:05d}")) for n in range(1, 7))
    assert Counter(w["kind"] for w in wrong) == {
        "flipped": round(0.2 * number),
        "deleted": round(0.1 * number),
    }
    of = {f"Annotations/{w['image_id']}.xml" for w in wrong}
    assert changed(truth, root) == of | {"wrong_labels.json"} and all("train" in name for name in of)
    for w in wrong:
        assert (w["truth"]["category"], w["truth"]["box"]) in labels(truth, w["image_id"])
        if w["kind"] == "flipped":
            found = labels(root, w["image_id"])[w["index"]]
            assert found == (w["label"]["category"], w["label"]["box"]) and w["label"] != w["truth"]
    assert not (plain / "wrong_labels.json").exists()


def test_a_class_is_dropped_from_the_training_set_alone(draw):
    plain, root = draw("plain"), draw("rare", "--drop", "disc=0.99", "square=0.99")
    names = [name for n in range(1, NUM_TRAIN + 1) for name, _ in labels(root, f"train_{n:05d}")]
    assert names and not {"disc", "square"} & set(names)
    assert all("train" in name for name in changed(plain, root))


def test_objects_and_hues_are_of_both_splits(draw):
    plain, root = draw("plain"), draw("ones", "--objects", 1, 1, "--look-alike", 1)
    assert changed(plain, root) == {name for name in files(root) if name.endswith((".jpg", ".xml"))}
    assert {len(labels(root, path.stem)) for path in (root / "Annotations").iterdir()} == {1}


def test_background_is_a_folder_of_its_own_to_train_on_and_images_among_those_to_test_on(prepare):
    plain, root = prepare("plain"), prepare("street", "--background", 3, 2)
    assert register_catalog(root / "catalog.yaml") == ["demo_train", "demo_test", "demo_background"]
    added = {f"JPEGImages/test_background_0000{n}.jpg" for n in (1, 2)}
    added |= {f"Annotations/test_background_0000{n}.xml" for n in (1, 2)}
    added |= {f"background/background_0000{n}.jpg" for n in (1, 2, 3)}
    others = {"catalog.yaml", "ImageSets/Main/test.txt", "proposals/test.safetensors"}
    assert changed(plain, root) == added | others | {"proposals/background.safetensors"}
    assert [len(r["annotations"]) > 0 for r in DatasetCatalog.get("demo_test")] == [True, True, False, False]
    street = DatasetCatalog.get("demo_background")
    assert [r["image_id"] for r in street] == [f"background_0000{n}.jpg" for n in (1, 2, 3)]
    proposals = read_proposals(MetadataCatalog.get("demo_background").proposal_file)
    assert all(proposals.count(r["image_id"]) > 0 for r in street)
    test = read_proposals(MetadataCatalog.get("demo_test").proposal_file)
    assert set(test) == {r["image_id"] for r in DatasetCatalog.get("demo_test")}
    assert len({path.read_bytes() for path in root.rglob("*background*.jpg")}) == 5


def test_distractors_are_left_out_of_the_training_set_alone(draw):
    plain, root = draw("plain"), draw("clean", "--distractors", 0, 0)
    assert {path.stem for path in map(Path, changed(plain, root))} >= {"train_00001", "train_00002"}
    assert all("train" in name for name in changed(plain, root))


def test_the_stamp_has_what_is_not_the_default(draw):
    always = {"seed": 0, "train": NUM_TRAIN, "test": NUM_TEST, "drawing": drawing.DRAWING_VERSION}
    assert json.loads((draw("plain", "--objects", 2, 5) / "demo.json").read_text()) == always
    options = ["--objects", 1, 3, "--drop", "star=0.5", "--wrong-labels", "shifted=0.1", "--look-alike", 0.5]
    root = draw("other", *options)
    assert json.loads((root / "demo.json").read_text()) == always | {
        "objects": [1, 3], "look_alike": 0.5, "drop": {"star": 0.5}, "wrong_labels": {"shifted": 0.1},
    }  # fmt: skip
    before = files(root)
    assert files(draw("other", *options)) == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--objects", 0, 2], "--objects must be at least 1"),
        (["--objects", 4, 2], "--objects must be at least 1, the first at most the second"),
        (["--distractors", 2, 1], "--distractors must be at least 0, the first at most the second"),
        (["--distractors", -1, 1], "--distractors must be at least 0"),
        (["--background", -1, 1], "--background must be at least 0"),
        (["--look-alike", 2], "--look-alike: must be in [0, 1], not 2"),
        (["--drop", "star=1"], "--drop: must be NAME=SHARE, a name of disc, square, triangle, "
         "star, cross and a share in [0, 0.99], not star=1"),
        (["--drop", "moon=0.5"], "not moon=0.5"),
        (["--drop", "star"], "not star"),
        (["--wrong-labels", "flipped=x"], "deleted, flipped, shifted and a share in [0, 1], not flipped=x"),
        (["--wrong-labels", "flipped=0.6", "deleted=0.6"], "the shares of --wrong-labels must not exceed 1"),
    ],
)  # fmt: skip
def test_options_without_meaning_are_refused(draw, capsys, options, message):
    with pytest.raises(SystemExit):
        draw("demo", *options)
    assert message in capsys.readouterr().err
