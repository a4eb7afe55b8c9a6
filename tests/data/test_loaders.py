import copy
import itertools
import logging
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    load_proposals_into_dataset,
)
from detectron2.utils import comm

from ohem_d2 import add_ohem_config
from ohem_d2.data import (
    ProposalDatasetMapper,
    build_labelled_loader,
    build_test_loader,
    build_train_loader,
    load_voc,
    loaders,
    read_proposals,
    workers,
    write_proposals,
)
from ohem_d2.proposals.formats import write_detectron2

DOG = [("dog", (3, 4, 20, 25))]
COVER = (np.array([[2, 3, 20, 25], [0, 0, 9, 9], [30, 20, 40, 30]], np.float32), np.ones(3))
EMPTY = (np.zeros((0, 4)), np.zeros(0))


@pytest.fixture
def dataset(make_voc, tmp_path):
    """``dataset(name, {id: proposals})`` registers a VOC data set and gives the path of its proposals."""

    def register(name, proposals, objects=DOG, images=("000001", "000002"), **kwargs):
        root = make_voc({image_id: objects for image_id in images}, name=name, **kwargs)
        path = tmp_path / f"{name}.safetensors"
        write_proposals(path, proposals)
        DatasetCatalog.register(name, lambda: load_voc(root, "train", ["dog"]))
        MetadataCatalog.get(name).set(thing_classes=["dog"])
        return str(path)

    return register


def config(train=(), files=(), test=(), test_files=()):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN = train, files
    cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST = test, test_files
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (60,), 60
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    for field in ("proposal_boxes", "objectness_logits"):
        a, b = ours["proposals"].get(field), theirs["proposals"].get(field)
        assert torch.equal(getattr(a, "tensor", a), getattr(b, "tensor", b)), field
    if "instances" in ours:
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)


def as_pickle(path):
    write_detectron2(path + ".pkl", read_proposals(path))
    return path + ".pkl"


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("form", [str, as_pickle])
def test_equals_detectron2s_own_path_to_the_bit_if_scores_differ(dataset, is_train, crop, form):
    rng = np.random.default_rng(0)
    corner = rng.uniform(-5, 35, (50, 2)).astype(np.float32)
    boxes = np.hstack([corner, corner + rng.uniform(0, 30, (50, 2)).astype(np.float32)])
    path = dataset("pets", {i: (boxes, rng.permutation(50)) for i in ("000001", "000002")})
    cfg = config()
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = crop, "relative", [0.8, 0.8]
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 20
    dicts = DatasetCatalog.get("pets")
    theirs_in = load_proposals_into_dataset(copy.deepcopy(dicts), as_pickle(path))
    ours = ProposalDatasetMapper(cfg, is_train, proposals=[read_proposals(form(path))])
    theirs, flipped = DatasetMapper(cfg, is_train), set()
    for seed in range(4):
        for record, with_proposals in zip(dicts, theirs_in):
            np.random.seed(seed), random.seed(seed)
            a = ours(record)
            np.random.seed(seed), random.seed(seed)
            assert_same(a, theirs(with_proposals))
            assert crop and is_train or len(a["proposals"]) == 20
            flipped.add(a["proposals"].proposal_boxes.tensor[0].numpy().tobytes())
    # Two images, flipped and not; crops all differ.
    assert len(flipped) == (2 if not is_train else 8 if crop else 4)
    assert "proposal_boxes" not in dicts[0]


def test_first_boxes_of_constant_scores_survive_the_cut(dataset):
    boxes = np.array([[0, 0, 1 + i % 30, 1 + i // 30] for i in range(600)], np.float32)
    path = dataset("pets", {i: (boxes, np.ones(600)) for i in ("000001", "000002")}, size=(60, 60))
    cfg = config(test=("pets",), test_files=(path,))
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 100
    loader = build_test_loader(cfg, "pets")  # 60 pixels in, 60 out: boxes keep their coordinates
    kept = next(iter(loader))[0]["proposals"].proposal_boxes.tensor.numpy()
    np.testing.assert_array_equal(kept, boxes[:100])
    cfg.DATASETS.PROPOSAL_FILES_TEST = (as_pickle(path),)
    theirs = next(iter(build_detection_test_loader(cfg, "pets")))[0]["proposals"].proposal_boxes.tensor
    assert not np.array_equal(theirs.numpy(), boxes[:100])


def test_mapper_survives_pickling(dataset):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    mapper = ProposalDatasetMapper(config(), False, proposals=[read_proposals(path)])
    (record, _) = DatasetCatalog.get("pets")
    assert_same(pickle.loads(pickle.dumps(mapper))(record), mapper(record))


def test_training_loader_yields_batches_and_reads_the_annotations_once(dataset, caplog):
    path = dataset("pets", {"000001": COVER, "000002": COVER, "of another split": COVER})
    loads, load = [], DatasetCatalog.pop("pets")
    DatasetCatalog.register("pets", lambda: loads.append(1) or load())
    with caplog.at_level(logging.INFO):
        batch = next(iter(build_train_loader(config(("pets",), (path,)))))
    assert len(loads) == 1
    assert [len(image["proposals"]) for image in batch] == [3, 3]
    assert all(len(image["instances"]) == 1 and "proposal_source" not in image for image in batch)
    line = "pets: proposals for 2 of 2 images, 3 to 3 boxes per image (median 3), recall 1.000 at IoU 0.5"
    assert line in caplog.text


def test_images_of_too_few_keypoints_are_left_out_where_there_is_a_head_for_them(monkeypatch):
    asked = []

    def load(names, **options):
        asked.append(options["min_keypoints"])
        raise LookupError("asked")

    monkeypatch.setattr(loaders, "load_dataset_dicts", load)
    MetadataCatalog.get("people").set(keypoint_names=["nose"], keypoint_flip_map=[])
    cfg = config(("people",))
    cfg.MODEL.LOAD_PROPOSALS, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = False, 3
    for cfg.MODEL.KEYPOINT_ON in (False, True):
        with pytest.raises(LookupError, match="asked"):
            build_train_loader(cfg)
    assert asked == [0, 3]


def test_equal_ids_in_two_data_sets_keep_their_own_proposals(dataset):
    small = dataset("small", {"000001": COVER, "000002": COVER})
    large = dataset("large", {"000001": EMPTY, "000002": EMPTY})
    loader = iter(build_train_loader(config(("small", "large"), (small, large))))
    images = [image for _ in range(8) for image in next(loader)]
    seen = {(image["file_name"].split("/")[-3], len(image["proposals"])) for image in images}
    assert seen == {("small", 3), ("large", 0)}


def test_file_comes_from_the_metadata_where_the_config_has_none(dataset):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    MetadataCatalog.get("pets").proposal_file = path
    assert len(next(iter(build_train_loader(config(("pets",)))))[0]["proposals"]) == 3
    assert len(next(iter(build_test_loader(config(), "pets")))[0]["proposals"]) == 3
    other = config(test=("x", "y"), test_files=("no.pkl", "no.pkl"))  # files for other data sets do not count
    assert len(next(iter(build_test_loader(other, "pets")))[0]["proposals"]) == 3


def test_no_file_and_a_wrong_number_of_files_name_the_keys(dataset):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    both = "'pets' has no proposal file: give it in DATASETS.PROPOSAL_FILES_{}, or as `proposals`.*_file`"
    with pytest.raises(ValueError, match=both.format("TRAIN")):
        build_train_loader(config(("pets",)))
    with pytest.raises(ValueError, match=both.format("TEST")):
        build_test_loader(config(), "pets")
    with pytest.raises(ValueError, match="DATASETS.PROPOSAL_FILES_TRAIN has 2 files for 1 data sets: pets; "):
        build_train_loader(config(("pets",), (path, path)))
    with pytest.raises(FileNotFoundError, match="none.pkl does not exist"):
        build_train_loader(config(("pets",), ("none.pkl",)))


@pytest.mark.parametrize("source", ["pattern", "list", "metadata"])
def test_several_stores_serve_one_data_set(dataset, tmp_path, source):
    dataset("pets", {})
    files = tuple(str(tmp_path / f"shard-{i}.safetensors") for i in (1, 2))
    for file, image_id in zip(files, ("000001", "000002")):
        write_proposals(file, {image_id: COVER})
    named = files if source == "list" else str(tmp_path / "shard-*")
    if source == "metadata":
        MetadataCatalog.get("pets").proposal_file = named
    given = () if source == "metadata" else (named,)
    cfg = config(("pets",), given, ("pets",), given)
    assert [len(image["proposals"]) for image in next(iter(build_train_loader(cfg)))] == [3, 3]
    assert [len(image["proposals"]) for (image,) in build_test_loader(cfg, "pets")] == [3, 3]


def test_images_that_all_stores_lack_are_counted_over_all(dataset, tmp_path):
    dataset("pets", {}, images=[f"{i:06}" for i in range(4)])
    for i in (0, 2):
        write_proposals(tmp_path / f"shard-{i}", {f"{i:06}": COVER})
    pattern = str(tmp_path / "shard-*")
    with pytest.raises(ValueError, match=r"shard-\*: no proposals for 2 of 4 images .*: 000001, 000003$"):
        build_train_loader(config(("pets",), (pattern,)))


def test_files_of_one_data_set_that_are_taken_for_those_of_several_are_explained(dataset):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    with pytest.raises(
        ValueError, match="several files of one data set are a pattern, or a tuple of their own"
    ):
        build_train_loader(config(("pets",), (path, path)))


def test_images_without_an_entry_are_counted_and_named(dataset):
    images = [f"{i:06}" for i in range(8)]
    path = dataset("pets", {"000000": COVER}, images=images)
    names = "7 of 8 images of data set 'pets': 000001, 000002, 000003, 000004, 000005 and 2 more$"
    with pytest.raises(ValueError, match=f"pets.safetensors: no proposals for {names}"):
        build_train_loader(config(("pets",), (path,)))


@pytest.mark.parametrize("other", ["1", "JPEGImages/000001.jpg"])
def test_ids_of_another_form_are_pointed_out(dataset, other):
    path = dataset("pets", {other: COVER, "000002": COVER})
    with pytest.raises(ValueError, match=f"000001 .the file has '{other}'; ids are compared as strings"):
        build_test_loader(config(test=("pets",), test_files=(path,)), "pets")


def test_image_with_no_box_is_legal_and_said(dataset, caplog):
    path = dataset("pets", {"000001": COVER, "000002": EMPTY})
    loader = build_test_loader(config(test=("pets",), test_files=(path,)), "pets")
    assert [len(image["proposals"]) for (image,) in loader] == [3, 0]
    assert "1 images have no proposal at all: 000002" in caplog.text


def test_boxes_outside_the_image_are_dropped_and_counted(dataset, caplog):
    outside = (np.array([[40, 0, 50, 9], [0, 0, 9, 9], [-9, -9, 0, 0]]), np.ones(3))  # images are 40 wide
    path = dataset("pets", {"000001": outside, "000002": COVER})
    loader = build_test_loader(config(test=("pets",), test_files=(path,)), "pets")
    assert [len(image["proposals"]) for (image,) in loader] == [1, 3]
    assert "2 boxes lie outside their image and are dropped" in caplog.text


@pytest.mark.parametrize("filter_empty, images", [(True, {"dog"}), (False, {"dog", "none"})])
def test_images_without_ground_truth_follow_detectron2s_key(dataset, filter_empty, images):
    files = [dataset("dog", {"a": COVER}, images="a"), dataset("none", {"b": COVER}, objects=[], images="b")]
    merged = DatasetCatalog.get("dog") + DatasetCatalog.get("none")
    DatasetCatalog.register("both", lambda: merged)
    write_proposals(files[0], {"a": COVER, "b": COVER})
    cfg = config(("both",), (files[0],))
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    loader = iter(build_train_loader(cfg))
    assert {image["file_name"].split("/")[-3] for _ in range(6) for image in next(loader)} == images


def test_without_proposals_the_loaders_are_detectron2s(dataset):
    dataset("pets", {"000001": COVER})
    cfg = config(("pets",), ("no.pkl", "no.pkl"))
    cfg.MODEL.LOAD_PROPOSALS = False
    assert "proposals" not in next(iter(build_train_loader(cfg)))[0]
    assert "proposals" not in next(iter(build_test_loader(cfg, "pets")))[0]


@pytest.mark.parametrize("load_proposals", [True, False])
def test_for_many_scales_images_and_proposals_keep_their_own_size(dataset, load_proposals):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    cfg = config(test=("pets",), test_files=(path,))
    cfg.MODEL.LOAD_PROPOSALS, cfg.TEST.AUG.ENABLED = load_proposals, True
    for (image,) in build_test_loader(cfg, "pets"):
        assert image["image"].shape == (3, 30, 40)
        if load_proposals:
            assert image["proposals"].image_size == (30, 40)
            np.testing.assert_array_equal(image["proposals"].proposal_boxes.tensor.numpy(), COVER[0])


def test_workers_started_by_spawn_get_the_proposals(dataset):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    cfg = config(test=("pets",), test_files=(path,))
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_test_loader(cfg, "pets")
    loader.multiprocessing_context = "spawn"
    assert [len(image["proposals"]) for (image,) in loader] == [3, 3]


def test_both_loaders_wait_for_workers_as_long_as_the_config_says(dataset, monkeypatch):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    cfg = config(("pets",), (path,), ("pets",), (path,))
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TIMEOUT = 1, 7
    waits, watch = [], workers._Watch
    monkeypatch.setattr(workers, "_Watch", lambda w, seconds: waits.append(seconds) or watch(w, seconds))
    next(iter(build_train_loader(cfg)))
    next(iter(build_test_loader(cfg, "pets")))
    assert waits == [7, 7]


def test_the_data_room_needs_no_opencv():
    code = "import sys; sys.modules['cv2'] = None; import ohem_d2.data"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("append_gt, boxes", [(True, []), (False, [[2, 3, 20, 25]])])
def test_training_images_without_proposals_get_their_ground_truth_if_told(dataset, caplog, append_gt, boxes):
    path = dataset("pets", {"000001": COVER})
    cfg = config(("pets",), (path,), ("pets",), (path,))
    cfg.DATASETS.PROPOSALS_MISSING = "ground_truth"
    cfg.MODEL.ROI_HEADS.PROPOSAL_APPEND_GT = append_gt  # then the heads add it
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (30,), "none"  # the size of the images
    loader = iter(build_train_loader(cfg))
    seen = {image["image_id"]: image["proposals"].proposal_boxes for _ in range(6) for image in next(loader)}
    assert seen["000002"].tensor.tolist() == boxes and len(seen["000001"]) == 3
    assert "no proposals for 1 of 2 images of data set 'pets': 000002; they are trained on" in caplog.text
    with pytest.raises(ValueError, match="no proposals for 1 of 2"):  # ground truth is no proposal in a test
        build_test_loader(cfg, "pets")


def test_a_file_without_any_image_of_the_data_set_is_an_error_in_any_case(dataset):
    cfg = config(("pets",), (dataset("pets", {"1": COVER}),))
    cfg.DATASETS.PROPOSALS_MISSING = "ground_truth"
    with pytest.raises(ValueError, match="no proposals for 2 of 2 .* .the file has '1'"):
        build_train_loader(cfg)
    cfg.DATASETS.PROPOSALS_MISSING = "skip"
    with pytest.raises(
        ValueError, match="PROPOSALS_MISSING is 'skip'; valid: one of 'error', 'ground_truth'"
    ):
        build_train_loader(cfg)


@pytest.mark.parametrize("load_proposals", [True, False])
def test_labelled_images_are_the_first_or_evenly_spread_over_all_data_sets(
    dataset, load_proposals, monkeypatch
):
    one, two = [str(i) for i in range(4)], [str(i) for i in range(4, 6)]
    files = [
        dataset(name, dict.fromkeys(ids, COVER), images=ids) for name, ids in (("one", one), ("two", two))
    ]
    cfg = config(("one", "two"), tuple(files))
    cfg.MODEL.LOAD_PROPOSALS = load_proposals

    def ids(*args, **kwargs):
        return [image["image_id"] for (image,) in build_labelled_loader(cfg, *args, **kwargs)]

    assert ids("two", 1) == ["4"] and ids(["one", "two"], 3) == ["0", "1", "2"]
    assert ids(["one", "two"], 3, spread=True) == ["0", "2", "4"]
    assert ids(["one", "two"], 99, spread=True) == [*one, *two]
    assert ids(["one", "two"], 9, image_ids=["5", "0"]) == ["5", "0"]
    monkeypatch.setattr(comm, "get_world_size", lambda: 4)  # one process looks at all of them
    assert ids(["one", "two"], 3, spread=True) == ["0", "2", "4"]
    with pytest.raises(ValueError, match="^2 images are not in one, two: 05, x .the file has '5'"):
        ids(["one", "two"], 9, image_ids=["05", "0", "x"])


@pytest.mark.parametrize("skip", [False, True])
def test_half_a_jpeg_is_named_or_skipped(dataset, caplog, skip):
    path = dataset("pets", {"000001": COVER, "000002": COVER})
    image = Path(DatasetCatalog.get("pets")[0]["file_name"])
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    cfg = config(("pets",), (path,), ("pets",), (path,))
    cfg.DATASETS.UNREADABLE_IMAGES = "skip" if skip else "error"
    batches = iter(build_train_loader(cfg))
    message = rf"{image} cannot be read as an image: image file is truncated"
    if skip:
        names = {x["image_id"] for batch in itertools.islice(batches, 4) for x in batch}
        assert names == {"000002"}
        assert [m for m in caplog.messages if message in m and m.endswith("(unreadable images so far: 1)")]
    else:
        with pytest.raises(ValueError, match=message):
            list(itertools.islice(batches, 4))
    loader = build_labelled_loader(cfg, "pets", 2, spread=True)
    if skip:
        assert [x["image_id"] for (x,) in loader] == ["000002"]
    else:
        with pytest.raises(ValueError, match=message):
            list(loader)
    with pytest.raises(ValueError, match=message):  # a test set is tested whole
        list(build_test_loader(cfg, "pets"))


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("with_proposals", [False, True])
def test_training_on_no_object_at_all_is_refused_with_the_file(dataset, with_proposals, filtered):
    path = dataset("pets", {"000001": COVER, "000002": COVER}, objects=[])
    MetadataCatalog.get("pets").set(dirname="/data/pets", split="train")
    cfg = config(("pets",), (path,))
    cfg.MODEL.LOAD_PROPOSALS, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = with_proposals, filtered
    with pytest.raises(
        ValueError, match=r"^data set 'pets' \(/data/pets/ImageSets/Main/train.txt\): [Nn]o"
    ) as e:
        build_train_loader(cfg)
    assert "\n" not in str(e.value)
