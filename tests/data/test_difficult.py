import logging

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc

from ohem_d2 import add_ohem_config
from ohem_d2.data import (
    build_labelled_loader,
    build_test_loader,
    build_train_loader,
    register_catalog,
    write_proposals,
)
from ohem_d2.data.difficult import training_config, without_difficult

EASY, HARD = ("dog", (3, 4, 20, 25)), ("dog", (1, 1, 40, 30))
XML_HARD = "<difficult>1</difficult>"


@pytest.fixture
def root(make_voc):
    """Image a has an easy and a difficult object, image b a difficult one."""
    root = make_voc({"a": [EASY, HARD], "b": [HARD]})
    for image_id in ("a", "b"):
        path = root / "Annotations" / f"{image_id}.xml"
        head, _, tail = path.read_text().rpartition("<difficult>0</difficult>")
        path.write_text(head + XML_HARD + tail)
    return root


@pytest.fixture(params=["Detectron2's loader", "catalogue"])
def name(request, root, tmp_path):
    if request.param == "catalogue":
        (tmp_path / "c.yaml").write_text("pets: {format: voc, root: ./voc, splits: [train], classes: [dog]}")
        return register_catalog(tmp_path / "c.yaml")[0]
    register_pascal_voc("pets_train", str(root), "train", 2007, ["dog"])
    MetadataCatalog.get("pets_train").evaluator_type = "pascal_voc"
    return "pets_train"


def config(name, difficult):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.DATASETS.VOC_DIFFICULT = difficult
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 2
    return cfg


def objects(cfg, batches=4):
    """File stem -> number of objects, as the training loader gives them."""
    loader = iter(build_train_loader(cfg))
    images = [image for _ in range(batches) for image in next(loader)]
    return {image["file_name"].split("/")[-1][0]: len(image["instances"]) for image in images}


def test_training_keeps_or_drops_difficult_objects(name, caplog):
    assert objects(config(name, "keep")) == {"a": 2, "b": 1}
    with caplog.at_level(logging.INFO, "ohem_d2"):
        assert objects(config(name, "drop")) == {"a": 1}  # b is without objects now, which Detectron2 filters
    assert "pets_train: 2 difficult objects dropped" in caplog.text
    cfg = config(name, "drop")
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert objects(cfg) == {"a": 1, "b": 0}


def test_difficult_objects_become_ignore_regions(name, caplog):
    cfg = config(name, "ignore")
    cfg.MODEL.IGNORE_REGIONS.ENABLED, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True, False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (30,), "none"
    with caplog.at_level(logging.INFO, "ohem_d2"):
        images = {x["file_name"][-5]: x["instances"] for x in next(iter(build_train_loader(cfg)))}
    assert {i: len(x) for i, x in images.items()} == {"a": 1, "b": 0}
    # The image is 40 x 30 and so is the box, which begins at pixel 1.
    assert all(x.ignore_regions.tensor.tolist() == [[0, 0, 40, 30]] for x in images.values())
    assert "pets_train: 2 difficult objects are ignore regions" in caplog.text
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True
    assert objects(cfg) == {"a": 1}  # an image with regions alone is one without objects


def test_training_from_proposals_and_the_labelled_images_drop_them_too(name, tmp_path):
    write_proposals(tmp_path / "p", {i: ([[0, 0, 9, 9]], [1]) for i in "ab"})
    cfg = config(name, "drop")
    cfg.MODEL.LOAD_PROPOSALS, cfg.DATASETS.PROPOSAL_FILES_TRAIN = True, (str(tmp_path / "p"),)
    assert objects(cfg) == {"a": 1}
    (batch,) = build_labelled_loader(cfg, name, 1)
    assert len(batch[0]["instances"]) == 1 and len(batch[0]["proposals"]) == 1


def test_the_boxes_that_stay_and_the_test_set_are_as_before(name):
    before = {image["file_name"]: image for (image,) in build_test_loader(config(name, "keep"), name)}
    after = {image["file_name"]: image for (image,) in build_test_loader(config(name, "drop"), name)}
    assert before.keys() == after.keys() and all(
        torch.equal(before[f]["image"], after[f]["image"]) for f in before
    )
    kept, full = DatasetCatalog.get(without_difficult(name))[0], DatasetCatalog.get(name)[0]
    assert kept["annotations"][0]["bbox"] == full["annotations"][0]["bbox"]
    assert all(kept[key] == full[key] for key in ("file_name", "image_id", "width", "height"))


def test_the_config_itself_is_not_changed_and_its_names_may_be_used_again(name):
    cfg = config(name, "drop")
    for _ in range(2):
        assert training_config(cfg).DATASETS.TRAIN == ("pets_train_without_difficult",)
    assert cfg.DATASETS.TRAIN == (name,) and training_config(config(name, "keep")).DATASETS.TRAIN == (name,)


def test_a_data_set_of_another_layout_is_left_alone():
    DatasetCatalog.register("other", lambda: [])
    MetadataCatalog.get("other").set(thing_classes=["dog"], json_file="x.json")
    assert without_difficult("other") == "other"


def test_a_wrong_value_and_an_unknown_data_set_are_named():
    with pytest.raises(
        ValueError, match="DATASETS.VOC_DIFFICULT is 'skip'; valid: one of 'keep', 'drop', 'ig"
    ):
        build_train_loader(config("voc_2007_train", "skip"))
    with pytest.raises(KeyError, match="'voc_2008_train' is not registered; choose from .*voc_2007_train"):
        build_train_loader(config("voc_2008_train", "drop"))
