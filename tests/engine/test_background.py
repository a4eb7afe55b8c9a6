"""Training beside a folder of background images, from YAML and from Python configs."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

from ohem_d2.data import build_labelled_loader, build_train_loader, read_proposals, write_proposals
from ohem_d2.data.registered import first_class_names
from ohem_d2.engine import LazyTrainer, OHEMTrainer, detector, load_config, load_lazy_config
from ohem_d2.engine.classic_mining import grow_active_set
from ohem_d2.evaluation import build_evaluator

from ..toy import toy_options, write_toy, write_voc

STREET = ["s.jpg", "t.jpg"]
LAZY = """
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts, transforms as T
)
model = optimizer = lr_multiplier = dict(params=dict())
train = dict(output_dir="{folder}/out", init_checkpoint="", max_iter=9, device="cpu", eval_period=0,
             log_period=1, checkpointer=dict(period=5), amp=dict(enabled=False), ddp=dict())
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=["street", "toy_wide", "toy_none"]),
        mapper=L(DatasetMapper)(is_train=True, augmentations=[], image_format="BGR"),
        total_batch_size=2,
    ),
    catalogs=["{folder}/catalog.yaml"],
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The toy data, images z of a split none without objects, and two images of background, called street."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_toy(tmp_path)
    write_voc(tmp_path / "voc", {"z": []}, "none")
    boxes = read_proposals(tmp_path / "proposals.safetensors")["a"]
    (tmp_path / "street").mkdir()
    for name in STREET:
        Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "street" / name)
    write_proposals(tmp_path / "street.safetensors", dict.fromkeys(STREET, boxes))
    entries = (tmp_path / "catalog.yaml").read_text().replace("tall]", "tall, none]")
    entries += "street: {format: images, root: ./street, proposals: ./street.safetensors}\n"
    (tmp_path / "catalog.yaml").write_text(entries)
    return tmp_path


@pytest.fixture
def make_cfg(folder):
    """``make_cfg(training sets, *options)``: a small Fast R-CNN."""

    def make(train, *opts):
        base = [*toy_options(folder), "DATASETS.TRAIN", repr(tuple(train)), "OUTPUT_DIR", str(folder / "out")]
        return load_config("configs/Base-FastRCNN-small.yaml", [*base, *opts])

    return make


def names_of(batches):
    return {Path(x["file_name"]).name for batch in batches for x in batch}


@pytest.mark.parametrize(
    "sampler",
    [
        ("TrainingSampler",),
        ("RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.9"),
        pytest.param(
            ("RandomSubsetTrainingSampler", "DATALOADER.RANDOM_SUBSET_RATIO", "1.0"),
            marks=pytest.mark.skipif(
                "RANDOM_SUBSET_RATIO" not in get_cfg().DATALOADER,
                reason="this Detectron2 has no such sampler",
            ),
        ),
    ],
)
@pytest.mark.parametrize("proposals", ["True", "False"])
def test_every_sampler_draws_background_beside_the_labelled_images(make_cfg, sampler, proposals):
    cfg = make_cfg(
        ["street", "toy_wide"], "MODEL.LOAD_PROPOSALS", proposals, "DATALOADER.SAMPLER_TRAIN", *sampler
    )
    batches = iter(build_train_loader(cfg))
    drawn = [next(batches) for _ in range(12)]
    assert names_of(drawn) == {*STREET, "a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    street = [x for batch in drawn for x in batch if Path(x["file_name"]).name in STREET]
    assert all(len(x["instances"]) == 0 for x in street)
    assert proposals == "False" or all(len(x["proposals"]) == 30 for x in street)


def test_the_key_of_detectron2_is_for_the_labelled_sets_alone(make_cfg, folder):
    write_voc(folder / "voc", {"a": [("cat", (5, 5, 28, 25))], "b": []}, "wide")
    for filter_empty, kept in (("True", {"a.jpg"}), ("False", {"a.jpg", "b.jpg"})):
        cfg = make_cfg(["toy_wide", "street"], "DATALOADER.FILTER_EMPTY_ANNOTATIONS", filter_empty)
        assert names_of([build_train_loader(cfg).dataset]) == kept | set(STREET)


@pytest.mark.slow
@pytest.mark.parametrize("heads, batch", [("OHEMROIHeads", "1"), ("StandardROIHeads", "2")])
def test_it_trains_on_batches_without_any_object_and_looks_at_them(make_cfg, heads, batch):
    looks = ["MODEL.OHEM.VIS_PERIOD", "4", "TEST.ROI_LOSS.PERIOD", "4", "TEST.ROI_LOSS.NUM_IMAGES", "6"]
    few = [
        "MODEL.ROI_HEADS.NAME",
        heads,
        "SOLVER.IMS_PER_BATCH",
        batch,
        "SOLVER.MAX_ITER",
        "6",
        "SOLVER.STEPS",
        "(5,)",
    ]
    trainer = OHEMTrainer(make_cfg(["street", "toy_wide"], *few, *looks))
    drawn, step = [], trainer.run_step

    def run_step():
        step()
        drawn.append({Path(name).name for name in trainer._trainer.data_loader.file_names})

    trainer.run_step = run_step
    trainer.train()
    assert any(names <= set(STREET) for names in drawn) and not all(names <= set(STREET) for names in drawn)
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())


def test_without_proposals_for_background_one_line_says_where_they_belong(make_cfg, folder):
    (folder / "catalog.yaml").write_text(
        (folder / "catalog.yaml").read_text().replace(", proposals: ./street.safetensors", "")
    )
    cfg = make_cfg(["toy_wide", "street"])
    with pytest.raises(
        ValueError, match="data set 'street' has no proposal file: give it in .* catalogue entry"
    ):
        build_train_loader(cfg)


@pytest.mark.parametrize("evaluators", ["()", "('coco',)", "('voc12',)"])
def test_as_a_test_set_it_is_refused_before_anything_is_trained(make_cfg, evaluators):
    cfg = make_cfg(["toy_wide"], "DATASETS.TEST", "('street',)", "TEST.EVALUATORS", evaluators)
    message = "^data set 'street' is background without annotations: only to train on$"
    with pytest.raises(ValueError, match=message):
        OHEMTrainer(cfg)
    with pytest.raises(ValueError, match=message):
        build_evaluator("street", str(cfg.OUTPUT_DIR))


def test_alone_it_is_refused(make_cfg, folder):
    with pytest.raises(
        ValueError, match="^DATASETS.TRAIN is background alone, street; name the labelled data"
    ):
        make_cfg(["street"])
    (folder / "lazy.py").write_text(LAZY.format(folder=folder).replace(', "toy_wide", "toy_none"', ""))
    with pytest.raises(ValueError, match="^dataloader.train.dataset.names is background alone, street; name"):
        load_lazy_config(str(folder / "lazy.py"))


def test_classes_are_those_of_the_labelled_sets(make_cfg):
    cfg = make_cfg(["street", "toy_wide"], "MODEL.ROI_HEADS.NUM_CLASSES", "-1")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert first_class_names(cfg.DATASETS.TRAIN) == ["cat", "dog"] and first_class_names(["street"]) == []


def test_labelled_sets_beside_it_must_have_the_same_classes(make_cfg, folder):
    text = (folder / "catalog.yaml").read_text().replace("toy:", "farm:").replace("[cat, dog]", "[dog, cat]")
    (folder / "farm.yaml").write_text(text.splitlines()[0] + "\n" + text.splitlines()[1])
    catalogs = ["DATASETS.CATALOG", f"('{folder}/catalog.yaml', '{folder}/farm.yaml')"]
    with pytest.raises(ValueError, match="thing_classes"):
        build_train_loader(make_cfg(["street", "toy_wide", "farm_tall"], *catalogs))


def test_detections_have_the_classes_of_a_labelled_set(make_cfg):
    make_cfg(["toy_wide"])  # registers the data sets
    found = detector._detections(SimpleNamespace(num_classes=2), ["street", "toy_wide"])
    assert found.class_names == ["cat", "dog"]


def test_classic_mining_collects_false_positives_of_background(make_cfg):
    cfg = make_cfg(["street", "toy_wide"])
    proposals = read_proposals(cfg.DATASETS.CATALOG[0].replace("catalog.yaml", "street.safetensors"))
    loader = build_labelled_loader(cfg, "street", 9)
    images = list(grow_active_set(build_model(cfg), loader, proposals, None, min_score=0.0, num_random=4))
    # With a limit of 0 every RoI is a false positive, since no background is scored 0 by random weights.
    assert [(i.image_id, i.num_false_positives, len(i.boxes)) for i in images] == [
        (n, 30, 30) for n in STREET
    ]


def test_difficult_objects_are_dropped_of_the_labelled_sets_beside_it(make_cfg):
    cfg = make_cfg(["street", "toy_wide"], "DATASETS.VOC_DIFFICULT", "drop")
    assert len(build_train_loader(cfg).dataset) == 6


def test_its_images_can_be_looked_at_one_by_one(make_cfg):
    loader = build_labelled_loader(make_cfg(["street", "toy_wide"]), "street", 9)
    assert [x["image_id"] for (x,) in loader] == STREET


@pytest.mark.parametrize("filter_empty", ["True", "False", None])
def test_a_python_config_trains_on_it_too(folder, filter_empty, caplog):
    (folder / "lazy.py").write_text(LAZY.format(folder=folder))
    opts = [] if filter_empty is None else [f"+dataloader.train.dataset.filter_empty={filter_empty}"]
    cfg = load_lazy_config(str(folder / "lazy.py"), opts)
    with caplog.at_level(logging.INFO):
        loader = LazyTrainer.build_train_loader(cfg)
    found = [Path(record["file_name"]).name for record in loader.dataset]
    assert found == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "d.jpg",
        *(["z.jpg"] if filter_empty == "False" else []),
        *STREET,
    ]
    assert ("1 of 5 images have no object and are left out" in caplog.text) == (filter_empty != "False")
    batches = iter(loader)
    assert {x["image_id"] for _ in range(9) for x in next(batches)} >= set(STREET)


def test_the_dicts_of_a_map_style_data_set_of_a_python_config_are_left_alone(folder):
    class Mapped(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise AssertionError("nothing is read before training")

    DatasetCatalog.register("mapped", Mapped)
    text = LAZY.format(folder=folder).replace('["street", "toy_wide", "toy_none"]', '["mapped"]')
    (folder / "lazy.py").write_text(text)
    assert len(LazyTrainer.build_train_loader(load_lazy_config(str(folder / "lazy.py"))).dataset) == 2
