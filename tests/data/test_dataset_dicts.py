"""Which images without objects are trained on, in data sets of any kind."""

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch.utils.data import Dataset

from ohem_d2.data.dataset_dicts import load_dataset_dicts

KEY = "DATALOADER.FILTER_EMPTY_ANNOTATIONS False (in a Python config, filter_empty=False)"


def box(*corners, **kwargs):
    return {"bbox": list(corners), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, **kwargs}


class MapDataset(Dataset):
    """Images that are made when they are asked for."""

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return {"file_name": f"{i}.jpg", "image_id": i, "annotations": []}


@pytest.fixture
def register():
    """``register(name, {id: annotations})``; of background there are none, and no classes."""

    def make(name, annotations, **metadata):
        dicts = [
            {"file_name": f"{i}.jpg", "image_id": i, "width": 40, "height": 30, "annotations": found}
            for i, found in annotations.items()
        ]
        DatasetCatalog.register(name, lambda: dicts)
        MetadataCatalog.get(name).set(**metadata)

    return make


@pytest.fixture
def pets(register):
    """Of five images one has an object, one a box outside of it, one a crowd, one a box without area."""
    annotations = {
        "object": [box(1, 2, 9, 9), box(2, 2, 8, 8, iscrowd=1)],
        "outside": [box(50, 50, 60, 60)],
        "crowd": [box(1, 2, 9, 9, iscrowd=1)],
        "flat": [box(5, 5, 5, 9)],
        "none": [],
    }
    register("pets", annotations, thing_classes=["dog"])


def ids(*args, **kwargs):
    return [record["image_id"] for record in load_dataset_dicts(*args, **kwargs)]


def test_images_without_objects_are_left_out_and_one_line_counts_them_and_names_the_key(pets, caplog):
    with caplog.at_level(logging.INFO):
        assert ids("pets") == ["object"]
    lines = [line for line in caplog.messages if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"pets: 4 of 5 images have no object and are left out; {KEY}")


def test_all_are_kept_without_a_word_where_the_key_says_so(pets, caplog):
    with caplog.at_level(logging.INFO):
        assert ids(["pets"], filter_empty=False) == ["object", "outside", "crowd", "flat", "none"]
    assert "left out" not in caplog.text


def test_background_is_kept_and_comes_last_whatever_is_left_out_of_the_others(pets, register):
    register("street", {"s": [], "t": []}, is_background=True)
    register("more", {"m": [box(0, 0, 9, 9, keypoints=[4, 4, 2])], "n": []}, thing_classes=["dog"])
    assert ids(["street", "pets", "more"]) == ["object", "m", "s", "t"]
    assert ids(["street", "more"], filter_empty=False) == ["m", "n", "s", "t"]
    assert ids(["more", "street"], min_keypoints=1, filter_empty=False) == ["m", "s", "t"]
    assert ids("street") == ["s", "t"]


def test_images_that_know_of_no_annotations_are_not_left_out():
    DatasetCatalog.register("raw", lambda: [{"file_name": "a.jpg", "image_id": "a"}])
    assert ids("raw") == ["a"]


def test_map_style_data_sets_are_left_as_they_are_and_background_follows_them(register):
    DatasetCatalog.register("mapped", MapDataset)
    register("street", {"s": []}, is_background=True)
    for names, expected in (("mapped", [0, 1]), (["street", "mapped", "mapped"], [0, 1, 0, 1, "s"])):
        found = load_dataset_dicts(names)
        assert isinstance(found, Dataset) and [record["image_id"] for record in found] == expected


def test_labelled_sets_beside_background_must_have_the_same_classes(pets, register):
    register("street", {"s": []}, is_background=True)
    register("farm", {"f": [box(0, 0, 9, 9)]}, thing_classes=["cow"])
    with pytest.raises(ValueError, match="thing_classes"):
        load_dataset_dicts(["street", "pets", "farm"])


def test_where_no_image_has_an_object_the_key_is_named(register):
    register("empty", {"a": []}, thing_classes=["dog"])
    with pytest.raises(
        ValueError, match="^data set 'empty': no image has an object; DATALOADER.FILTER_EMPTY_ANNOT"
    ):
        load_dataset_dicts("empty")


def test_a_misspelt_name_is_named(pets):
    with pytest.raises(ValueError, match="^data set 'pest' is not registered; did you mean pets"):
        load_dataset_dicts(["pest"])
