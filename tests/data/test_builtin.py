import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from ohem_d2.data.builtin import register_builtin

PAPER = [
    *(f"voc_{year}_{split}" for year in (2007, 2012) for split in ("train", "val", "trainval", "test")),
    *(f"coco_2014_{split}" for split in ("train", "val", "minival", "valminusminival")),
    *("coco_2015_test-dev", "coco_2017_train", "coco_2017_val", "coco_2017_test-dev"),
]
THEIRS = {name: dict(MetadataCatalog.get(name).as_dict()) for name in PAPER}


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """The names as if neither Detectron2 nor this project had registered them, under another root."""
    kept = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in PAPER}
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_builtin()
    yield tmp_path
    for name, (loader, metadata) in kept.items():
        DatasetCatalog[name], MetadataCatalog[name] = loader, metadata


def test_every_data_set_of_the_paper_has_a_name():
    assert set(PAPER) <= set(DatasetCatalog)


@pytest.mark.parametrize(
    "name", [name for name in PAPER if name not in ("voc_2012_test", "coco_2015_test-dev")]
)
def test_what_is_added_is_what_detectron2_registers(elsewhere, name):
    ours, theirs = MetadataCatalog.get(name).as_dict(), THEIRS[name]
    paths = {key for key in ("dirname", "json_file", "image_root", "proposal_file") if key in theirs}
    assert {k: v for k, v in ours.items() if k not in paths} == {
        k: v for k, v in theirs.items() if k not in paths
    }
    for key in paths:
        assert ours[key].endswith(theirs[key].removeprefix("datasets")) and ours[key].startswith(
            str(elsewhere)
        )


def test_every_data_set_has_a_proposal_file_of_its_name(elsewhere):
    files = {name: MetadataCatalog.get(name).proposal_file for name in PAPER}
    assert files == {name: f"{elsewhere}/proposals/{name}.safetensors" for name in PAPER}


def test_a_name_that_is_taken_keeps_its_meaning():
    before = {name: DatasetCatalog[name] for name in PAPER}
    register_builtin()
    assert all(DatasetCatalog[name] is loader for name, loader in before.items())


def test_a_test_set_needs_no_annotations(elsewhere):
    (elsewhere / "VOC2012/ImageSets/Main").mkdir(parents=True)
    (elsewhere / "VOC2012/JPEGImages").mkdir()
    (elsewhere / "VOC2012/ImageSets/Main/test.txt").write_text("2008_000001\n2008_000004\n")
    Image.new("RGB", (50, 30)).save(elsewhere / "VOC2012/JPEGImages/2008_000001.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (50, 30)).save(elsewhere / "VOC2012/JPEGImages/2008_000004.jpg", exif=exif)
    first, second = DatasetCatalog.get("voc_2012_test")
    assert first == {
        "file_name": str(elsewhere / "VOC2012/JPEGImages/2008_000001.jpg"),
        "image_id": "2008_000001",
        "height": 30,
        "width": 50,
    }
    assert (second["width"], second["height"]) == (30, 50)
    metadata = MetadataCatalog.get("voc_2012_test")
    assert len(metadata.thing_classes) == 20 and (metadata.split, metadata.year) == ("test", 2012)
    (elsewhere / "VOC2012/JPEGImages/2008_000004.jpg").write_text("no image")
    with pytest.raises(ValueError, match="2008_000004.jpg cannot be read as an image"):
        DatasetCatalog.get("voc_2012_test")


def test_a_coco_test_set_loads_from_its_list_of_images(elsewhere):
    (elsewhere / "coco/annotations").mkdir(parents=True)
    images = [{"id": 1, "file_name": "COCO_test2015_000000000001.jpg", "width": 5, "height": 4}]
    categories = [{"id": entry["id"], "name": entry["name"]} for entry in COCO_CATEGORIES if entry["isthing"]]
    content = json.dumps({"images": images, "categories": categories})
    (elsewhere / "coco/annotations/image_info_test-dev2015.json").write_text(content)
    (record,) = DatasetCatalog.get("coco_2015_test-dev")
    assert record["file_name"] == str(elsewhere / "coco/test2015/COCO_test2015_000000000001.jpg")
