"""Ignore regions from the files of a data set to the inputs of the heads."""

import json
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import get_cfg, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from ohem_d2 import add_ohem_config
from ohem_d2.data import RegionDatasetMapper, build_train_loader, register_catalog
from ohem_d2.data.checking import check_dataset
from ohem_d2.evaluation import VOCEvaluator
from ohem_d2.evaluation.coco_evaluation import COCOEvaluator

SIZE = 40, 30  # width, height
OBJECT, REGION = (4.0, 2.0, 24.0, 22.0), (10.0, 0.0, 30.0, 12.0)
PARAMETERS = {"is_train": True, "image_format": "BGR"}


@pytest.fixture
def record(tmp_path):
    """A dataset dict with an object and a crowd, whose box is of the other mode."""
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(tmp_path / "a.png")
    x1, y1, x2, y2 = REGION
    crowd = {
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 1,
    }
    annotation = {"bbox": list(OBJECT), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {"file_name": str(tmp_path / "a.png"), "height": SIZE[1], "width": SIZE[0], "image_id": "a",
            "annotations": [crowd, annotation]}  # fmt: skip


# What is done to the image, and where the object and the region are then.
TRANSFORMS = {
    "none": ([], OBJECT, [REGION]),
    "resize": ([T.ResizeTransform(30, 40, 60, 80)], (8, 4, 48, 44), [(20, 0, 60, 24)]),
    # x -> 40 - x
    "flip": ([T.HFlipTransform(40)], (16, 2, 36, 22), [(10, 0, 30, 12)]),
    # From (12, 6), 10 wide and 20 high: both are cut.
    "crop": ([T.CropTransform(12, 6, 10, 20)], (0, 0, 10, 16), [(0, 0, 10, 6)]),
    "crop beside it": ([T.CropTransform(4, 14, 10, 10)], (0, 0, 10, 8), []),
    # By 90 degrees counter-clockwise about the centre, the image is 30 x 40 then: (x, y) -> (y, 40 - x).
    "rotation": (lambda: [T.RotationTransform(30, 40, 90)], (2, 16, 22, 36), [(0, 10, 12, 30)]),
    "flip, resize": (
        [T.HFlipTransform(40), T.ResizeTransform(30, 40, 60, 80)],
        (32, 4, 72, 44),
        [(20, 0, 60, 24)],
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_regions_go_through_the_transforms_of_the_objects(record, name):
    transforms, expected, regions = TRANSFORMS[name]
    if callable(transforms):
        pytest.importorskip("cv2")
        transforms = transforms()
    before = json.dumps(record)
    mapped = RegionDatasetMapper(augmentations=transforms, **PARAMETERS)(record)
    instances = mapped["instances"]
    assert len(instances) == 1 and json.dumps(record) == before
    torch.testing.assert_close(instances.gt_boxes.tensor, torch.tensor([expected], dtype=torch.float32))
    expected = torch.tensor(regions, dtype=torch.float32).reshape(-1, 4)
    torch.testing.assert_close(instances.ignore_regions.tensor, expected, atol=1e-4, rtol=0)


def test_objects_and_random_numbers_are_detectron2s(record):
    augmentations = [
        T.RandomFlip(),
        T.RandomCrop("relative", (0.5, 0.5)),
        T.ResizeShortestEdge((20, 60), 90, "range"),
    ]
    mappers = (cls(augmentations=augmentations, **PARAMETERS) for cls in (RegionDatasetMapper, DatasetMapper))
    ours, theirs = ([], [])
    for mapper, found in zip(mappers, (ours, theirs)):
        for seed in range(8):
            np.random.seed(seed)
            found.append(mapper(record))
    for a, b in zip(ours, theirs):
        assert torch.equal(a["image"], b["image"]) and a["instances"].image_size == b["instances"].image_size
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
    assert type(theirs[0]["instances"]) is not type(ours[0]["instances"])


def test_a_mapper_of_a_config_hands_regions_on_only_if_they_are_ignored(record):
    cfg = get_cfg()
    add_ohem_config(cfg)
    off = RegionDatasetMapper(cfg, True)(record)["instances"]
    assert type(off) is type(DatasetMapper(cfg, True)(record)["instances"])
    cfg.MODEL.IGNORE_REGIONS.ENABLED = True
    mapper = pickle.loads(pickle.dumps(RegionDatasetMapper(cfg, True)))
    assert len(pickle.loads(pickle.dumps(mapper(record)))["instances"].ignore_regions) == 1


def test_a_python_config_takes_it_in_the_place_of_detectron2s(record):
    lazy = L(DatasetMapper)(augmentations=[L(T.HFlipTransform)(width=40)], **PARAMETERS)
    lazy._target_ = RegionDatasetMapper
    assert instantiate(lazy)(record)["instances"].ignore_regions.tensor.tolist() == [[10, 0, 30, 12]]


@pytest.fixture
def cells(make_voc, tmp_path):
    """A catalogue of images with a class, and another class and a mark that mean ignore."""
    objects = {"a": [("dog", (3, 4, 20, 25)), ("crowd", (11, 1, 30, 12))], "b": [("dog", (1, 1, 9, 9))]}
    xml = make_voc(objects, split="train") / "Annotations/b.xml"
    xml.write_text(xml.read_text().replace("</name>", "</name><occluded>1</occluded>"))
    entry = "format: voc, root: ./voc, splits: [train], classes: [dog], ignore: [crowd, occluded]"
    (tmp_path / "c.yaml").write_text(f"cells: {{{entry}}}")
    return register_catalog(tmp_path / "c.yaml")[0]


def test_a_catalogue_marks_regions_by_class_and_by_tag(cells):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = (cells,), 2, 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (30,), "none"
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS, cfg.MODEL.IGNORE_REGIONS.ENABLED = False, True
    images = {x["image_id"]: x["instances"] for x in next(iter(build_train_loader(cfg)))}
    assert {i: len(x) for i, x in images.items()} == {"a": 1, "b": 0}
    found = {i: x.ignore_regions.tensor.tolist() for i, x in images.items()}
    assert found == {"a": [[10, 0, 30, 12]], "b": [[0, 0, 9, 9]]}


def test_evaluation_and_checks_are_as_without_the_marks(cells, tmp_path):
    """A class that means ignore is none of the data set; an object with a mark is evaluated as any other."""
    assert "3 objects (0 difficult), no proposals, no problem" in str(check_dataset(cells))
    annotations = COCOEvaluator(cells, str(tmp_path))._coco_api.dataset["annotations"]
    assert [a["bbox"] for a in annotations] == [[2, 3, 18, 22], [0, 0, 9, 9]]
    assert not any(a["iscrowd"] for a in annotations)
    VOCEvaluator(cells, (2012,))


@pytest.mark.parametrize(
    "ignore, message",
    [
        ("[dog]", "'dog' is in classes and in ignore"),
        ("crowd", "ignore must be a list of names"),
    ],
)
def test_a_wrong_mark_is_named(tmp_path, ignore, message):
    entry = f"format: voc, root: ., splits: [train], classes: [dog], ignore: {ignore}"
    (tmp_path / "c.yaml").write_text(f"cells: {{{entry}}}")
    with pytest.raises(ValueError, match=message):
        register_catalog(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "mark, listed", [("iscrowd", ""), ("ignore", ""), ("group_of", "ignore: [group_of]")]
)
def test_marks_of_coco_files(tmp_path, mark, listed):
    boxes = [{"bbox": [1, 2, 10, 10]}, {"bbox": [5, 5, 20, 20], mark: 1}, {"bbox": [0, 0, 4, 4], mark: 0}]
    common = {"image_id": 1, "category_id": 1, "area": 9}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": i, "iscrowd": 0, **common, **b} for i, b in enumerate(boxes, 1)],
    }
    text = json.dumps(content)
    (tmp_path / "train.json").write_text(text)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    lines = ["street:", "  format: coco", "  root: .", "  splits: [train]", "  annotations: '{split}.json'"]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, f"  {listed}"]))
    (name,) = register_catalog(tmp_path / "c.yaml")
    (record,) = DatasetCatalog.get(name)
    assert [a["iscrowd"] for a in record["annotations"]] == [0, 1, 0]
    assert all(mark == "iscrowd" or mark not in a for a in record["annotations"])
    assert (
        MetadataCatalog.get(name).thing_classes == ["dog"] and (tmp_path / "train.json").read_text() == text
    )
