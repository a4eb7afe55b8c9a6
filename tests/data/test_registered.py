"""What is known of a data set before it is loaded; also tests/engine/test_num_classes.py."""

import json

import pytest
from detectron2.data import DatasetCatalog

from ohem_d2.data import register_catalog
from ohem_d2.data.registered import category_ids, class_names, require_images


@pytest.fixture
def coco(tmp_path):
    """``coco(content)`` registers pets_train, whose JSON has the content."""
    text = "pets: {format: coco, root: ., splits: [train], annotations: a.json}"
    (tmp_path / "catalog.yaml").write_text(text)
    register_catalog(tmp_path / "catalog.yaml")
    return lambda content: (tmp_path / "a.json").write_text(json.dumps(content))


def test_labels_are_those_of_the_loaded_data_set(coco):
    categories = [{"id": 9, "name": "dog"}, {"id": 5, "name": "cat"}]
    coco({"images": [], "annotations": [], "categories": categories})
    known = {"names": ["cat", "dog"], "ids": {0: 5, 1: 9}}
    assert {"names": class_names("pets_train"), "ids": category_ids("pets_train")} == known
    DatasetCatalog.get("pets_train")
    coco({})
    assert {"names": class_names("pets_train"), "ids": category_ids("pets_train")} == known


@pytest.mark.parametrize(
    "content", [{}, {"categories": []}, {"categories": [{"id": 1}]}, {"categories": 3}, []]
)
def test_a_file_without_categories_tells_nothing(coco, content):
    assert class_names("pets_train") is category_ids("pets_train") is None  # there is no file
    coco(content)
    assert class_names("pets_train") is category_ids("pets_train") is None


def test_a_data_set_of_detectron2_that_is_not_there_says_where_it_is_looked_for(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data/sets")
    for name in "voc_2007_test", "coco_2017_val":
        with pytest.raises(FileNotFoundError) as error:
            require_images(name)
        assert str(error.value).startswith(f"data set {name}: ")
        assert str(error.value).endswith("$DETECTRON2_DATASETS, here /data/sets (see datasets/README.md)")
