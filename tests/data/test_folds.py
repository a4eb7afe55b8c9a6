"""Folds of data sets in both layouts, registered from the catalogue that is written."""

import json
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ohem_d2.data import register_catalog
from ohem_d2.data.folds import draw_folds, rest_name, write_folds

from ..toy import write_toy, write_voc


def test_each_image_is_held_out_once():
    ids = [str(number) for number in range(11)]
    folds = draw_folds(ids, 3)
    assert sorted(len(fold) for fold in folds) == [3, 4, 4]
    assert sorted(i for fold in folds for i in fold) == sorted(ids)
    assert draw_folds(ids, 3) == folds != draw_folds(ids, 3, seed=1)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_there_are_at_least_two_folds_and_no_more_than_images(number):
    with pytest.raises(ValueError, match=f"{number} folds of 3 images; valid: 2 to 3"):
        draw_folds(["a", "b", "c"], number)


def check_rests(name, folder, ids):
    """Each fold leaves the other records as they are."""
    records, folds = {r["image_id"]: r for r in DatasetCatalog.get(name)}, [ids[:1], ids[1:]]
    registered = register_catalog(write_folds(name, folds, folder))
    assert registered == [rest_name(name, 0), rest_name(name, 1)]
    for rest, held_out in zip(registered, folds):
        left = DatasetCatalog.get(rest)
        assert [r["image_id"] for r in left] == [i for i in records if str(i) not in held_out]
        assert all(r == records[r["image_id"]] for r in left)
        assert MetadataCatalog.get(rest).thing_classes == MetadataCatalog.get(name).thing_classes


def test_what_is_left_of_a_voc_data_set_is_as_it_was(tmp_path):
    write_toy(tmp_path)
    register_catalog(tmp_path / "catalog.yaml")
    check_rests("toy_wide", tmp_path / "folds", ["c", "a", "b", "d"])
    file = MetadataCatalog.get("toy_wide_without_0").proposal_file
    assert file == str(tmp_path / "proposals.safetensors")


def test_proposals_in_several_files_stay_several(tmp_path):
    write_toy(tmp_path)
    entry = (tmp_path / "catalog.yaml").read_text()
    assert entry.count("proposals: ") == 1
    entry = re.sub("proposals: (.*)}", r"proposals: [\1, \1]}", entry)
    (tmp_path / "catalog.yaml").write_text(entry)
    register_catalog(tmp_path / "catalog.yaml")
    register_catalog(write_folds("toy_wide", [["a"], ["b"]], tmp_path / "folds"))
    files = MetadataCatalog.get("toy_wide_without_0").proposal_file
    assert list(files) == [str(tmp_path / "proposals.safetensors")] * 2


def test_a_folder_that_a_catalogue_would_change_is_refused(tmp_path):
    write_toy(tmp_path)
    register_catalog(tmp_path / "catalog.yaml")
    with pytest.raises(ValueError, match="folds{split}: a path with one of .* cannot stand in a config"):
        write_folds("toy_wide", [["a"], ["b"]], tmp_path / "folds{split}")
    assert not (tmp_path / "folds{split}").exists()


def test_ignore_regions_and_folders_of_other_names_are_kept(tmp_path):
    objects = {i: [("cat", (5, 5, 28, 25)), ("crowd", (1, 1, 9, 9))] for i in "xyz"}
    write_voc(tmp_path / "voc", objects, "all")
    (tmp_path / "voc/Annotations").rename(tmp_path / "voc/xml")
    (tmp_path / "catalog.yaml").write_text(
        "v: {format: voc, root: ./voc, splits: [all], classes: [cat], ignore: [crowd], annotations: xml}"
    )
    register_catalog(tmp_path / "catalog.yaml")
    check_rests("v_all", tmp_path / "folds", ["y", "x", "z"])
    assert [a.get("iscrowd", 0) for a in DatasetCatalog.get("v_all_without_1")[0]["annotations"]] == [0, 1]


def test_what_is_left_of_a_coco_data_set_is_as_it_was(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 8} for n in (3, 5, 9)]
    annotations = [
        {"id": n, "image_id": image, "category_id": 4, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": n % 2}
        for n, image in enumerate((3, 5, 5, 9), 1)
    ]
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (9, 8)).save(tmp_path / "images" / image["file_name"])
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "cat"}]}
    annotations[1]["hidden"] = 1  # an ignore region
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "images/3.png").rename(tmp_path / "elsewhere/3.png")
    images[0]["file_name"] = "../elsewhere/3.png"
    (tmp_path / "all.json").write_text(json.dumps(content))
    (tmp_path / "catalog.yaml").write_text(
        "c: {format: coco, root: ., splits: [all], annotations: '{split}.json', images: images, "
        "ignore: [hidden], images_outside: true}"
    )
    register_catalog(tmp_path / "catalog.yaml")
    check_rests("c_all", tmp_path / "folds", ["5", "3", "9"])
    left = json.loads((tmp_path / "folds/without_0.json").read_text())
    assert [a["image_id"] for a in left["annotations"]] == [3, 9]


def test_a_data_set_without_files_is_refused(tmp_path):
    DatasetCatalog.register("in_memory", list)
    with pytest.raises(ValueError, match="'in_memory' cannot be split into folds; valid: VOC and COCO"):
        write_folds("in_memory", [["a"]], tmp_path / "folds")
    with pytest.raises(ValueError, match="'nothing' is not registered"):
        write_folds("nothing", [["a"]], tmp_path / "folds")
    assert not (tmp_path / "folds").exists()
