"""Which evaluator a data set gets, and whole evaluations of an untrained model."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from ohem_d2.data import register_catalog, write_proposals
from ohem_d2.engine import OHEMTrainer, load_config
from ohem_d2.evaluation import COCOSubmission, VOCEvaluator, VOCSubmission
from ohem_d2.utils.checkpoint import CheckedCheckpointer

from ..engine.test_ddp import in_two_processes

ROOT = Path(__file__).resolve().parents[2]
IDS = ["2008_000001", "2008_000004", "2008_000005"]
# Not trained: every class has about the same score.
SMALL = [
    "MODEL.LOAD_PROPOSALS", "True", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
    "TEST.DETECTIONS_PER_IMAGE", "20", "INPUT.MIN_SIZE_TEST", "32", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip
CONFIG = ROOT / "configs/Base-FastRCNN-small.yaml"
TRAIN_NET = (sys.executable, ROOT / "train_net.py", "--config-file", CONFIG)


def config(folder, names, *opts):
    opts = [
        "DATASETS.TEST",
        repr(tuple(names)),
        "DATASETS.TRAIN",
        "()",
        "OUTPUT_DIR",
        str(folder / "out"),
        *SMALL,
        *opts,
    ]
    return load_config(str(ROOT / "configs/Base-FastRCNN-small.yaml"), opts)


def propose(file, ids, objects=()):
    """Thirty boxes an image, the first of which are those of the objects."""
    corners = np.random.default_rng(0).uniform(0, 15, (len(ids), 30, 2))
    boxes = np.concatenate([corners, corners + 12], axis=2).astype(np.float32)
    for of_image, found in zip(boxes, objects):
        of_image[: len(found)] = found
    write_proposals(file, {str(i): (of_image, np.zeros(30, np.float32)) for i, of_image in zip(ids, boxes)})


@pytest.fixture
def pets(make_voc, tmp_path):
    """A registered VOC data set with annotations and proposals."""
    make_voc({"a": [("cat", (5, 5, 30, 25))], "b": [("dog", (10, 4, 38, 28)), ("cat", (1, 1, 9, 9))]})
    propose(tmp_path / "proposals.safetensors", "ab", [[(4, 4, 30, 25)], [(9, 3, 38, 28), (0, 0, 9, 9)]])
    (tmp_path / "pets.yaml").write_text(
        "pets: {format: voc, root: ./voc, splits: [train], classes: [cat, dog], year: 2007, "
        "proposals: ./proposals.safetensors}"
    )
    register_catalog(tmp_path / "pets.yaml")
    return "pets_train"


def evaluate(cfg):
    torch.manual_seed(0)
    return OHEMTrainer.test(cfg, OHEMTrainer.build_model(cfg))


def test_three_evaluators_share_one_data_set_and_one_report(pets, tmp_path):
    opts = ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "TEST.EVALUATORS", "('voc12', 'coco', 'voc07')"]
    results = evaluate(config(tmp_path, [pets], *opts))
    assert list(results) == ["voc12", "voc07", "bbox"]
    assert results["voc07"]["AP50"] != results["voc12"]["AP50"] > 0
    rows = json.loads((tmp_path / "out/inference/pets_train/results.json").read_text())
    read = {(row["evaluator"], f"{row['metric']}-{row['class']}".rstrip("-")): row["value"] for row in rows}
    assert read == {
        (key, name): None if np.isnan(v) else v for key, of in results.items() for name, v in of.items()
    }
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP-dog"} <= set(results["bbox"])
    # The result of one evaluator, named or default (the data set is of 2007), is "bbox", as in Detectron2.
    for names in ("('voc07',)", "()"):
        alone = evaluate(config(tmp_path, [pets], *opts[:2], "TEST.EVALUATORS", names))
        assert alone == {"bbox": results["voc07"]}


@pytest.mark.parametrize("names, message", [
    ("('voc2007',)", r"TEST.EVALUATORS is \('voc2007',\); valid: any of 'voc07', 'voc12', 'coco'"),
    ("voc07", "Type mismatch .* TEST.EVALUATORS"),
])  # fmt: skip
def test_an_evaluator_that_does_not_exist_is_named(pets, tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        OHEMTrainer.build_evaluator(config(tmp_path, [pets], "TEST.EVALUATORS", names), pets)


def test_detections_of_no_image_leave_an_ap_of_zero(pets, tmp_path):
    opts = ["TEST.EVALUATORS", "('voc07', 'voc12', 'coco')", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.1"]
    cfg = config(tmp_path, [pets], "MODEL.ROI_HEADS.NUM_CLASSES", "2", *opts)
    results = evaluate(cfg)
    assert results["voc07"]["AP"] == results["voc12"]["AP"] == 0
    assert all(np.isnan(value) for value in results["bbox"].values())  # Detectron2's: COCO has no word for it
    assert (tmp_path / "out/inference/pets_train/results.csv").exists()


@pytest.fixture
def test_sets(tmp_path):
    """VOC2012 and COCO test sets of noise, without annotations, as in Detectron2's root, and proposals."""
    voc, coco = tmp_path / "VOC2012", tmp_path / "coco"
    for folder in (voc / "ImageSets/Main", voc / "JPEGImages", coco / "annotations", coco / "test2015"):
        folder.mkdir(parents=True)
    (voc / "ImageSets/Main/test.txt").write_text("\n".join(IDS))
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 40, "height": 30} for n in (3, 11)]
    categories = [{"id": entry["id"], "name": entry["name"]} for entry in COCO_CATEGORIES if entry["isthing"]]
    (coco / "annotations/image_info_test-dev2015.json").write_text(
        json.dumps({"images": images, "categories": categories})
    )
    for file in [
        *(f"VOC2012/JPEGImages/{i}.jpg" for i in IDS),
        *(f"coco/test2015/{image['file_name']}" for image in images),
    ]:
        pixels = np.random.default_rng(len(file)).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / file)
    propose(tmp_path / "voc.safetensors", IDS)
    propose(tmp_path / "coco.safetensors", [3, 11])
    return tmp_path


def save_weights(folder, num_classes):
    """Of an untrained model: a test without weights is refused."""
    cfg = config(folder, [], "MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes))
    CheckedCheckpointer(build_model(cfg), str(folder)).save(f"untrained{num_classes}")
    return str(folder / f"untrained{num_classes}.pth")


@pytest.mark.slow
def test_train_net_writes_what_is_submitted_for_test_sets_without_annotations(test_sets):
    """On the names that are built in, in processes whose ``$DETECTRON2_DATASETS`` has these sets."""
    inference = test_sets / "output/fast_rcnn/inference"
    tar = inference / "voc_2012_test/comp4_det_test.tar"
    zip = inference / "coco_2015_test-dev/detections_test-dev2015_fast-rcnn_results.zip"
    for path, proposals, images in ((tar, "voc", 3), (zip, "coco", 2)):
        weights = save_weights(test_sets, {"voc": 20, "coco": 80}[proposals])
        done = subprocess.run(
            [*TRAIN_NET, "--eval-only", "DATASETS.TEST", f"('{path.parent.name}',)",
             "DATASETS.PROPOSAL_FILES_TEST", f"('{proposals}.safetensors',)",
             "OUTPUT_DIR", "output/fast_rcnn", "MODEL.WEIGHTS", weights, *SMALL],
            cwd=test_sets, env={**os.environ, "DETECTRON2_DATASETS": str(test_sets)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert f"{20 * images} detections to submit, in {path.relative_to(test_sets)}" in done.stdout
    with tarfile.open(tar) as archive:
        names = archive.getnames()
        lines = [line for name in names for line in archive.extractfile(name).read().decode().splitlines()]
    assert len(names) == 20 and "results/VOC2012/Main/comp4_det_test_aeroplane.txt" in names
    assert {line.split()[0] for line in lines} == set(IDS)
    with zipfile.ZipFile(zip) as archive:
        results = json.loads(archive.read(zip.with_suffix(".json").name))
    assert {result["image_id"] for result in results} == {3, 11}
    assert {result["category_id"] for result in results} <= set(range(1, 91)) - {12}  # 12 is none of COCO's


@pytest.mark.slow
def test_a_data_set_that_cannot_be_evaluated_is_one_line_of_train_net(test_sets):
    (test_sets / "VOC2012/JPEGImages" / f"{IDS[1]}.jpg").unlink()
    done = subprocess.run(
        [*TRAIN_NET, "--eval-only", "DATASETS.TEST", "('voc_2012_test',)", "OUTPUT_DIR", "out", *SMALL,
         "MODEL.LOAD_PROPOSALS", "False", "MODEL.WEIGHTS", save_weights(test_sets, 20)],
        cwd=test_sets, env={**os.environ, "DETECTRON2_DATASETS": str(test_sets)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.match(
        rf"FileNotFoundError: .*1 of 3 images .* are missing: {IDS[1]}$", done.stderr.splitlines()[-1]
    )


def test_a_catalogues_images_without_annotations_are_submitted(test_sets, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "mine: {format: coco, root: ./coco, splits: [test-dev2015], images: test2015, "
        "annotations: 'annotations/image_info_{split}.json', proposals: ./coco.safetensors}"
    )
    register_catalog(tmp_path / "mine.yaml")
    cfg = config(tmp_path, ["mine_test-dev2015"], "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    assert isinstance(OHEMTrainer.build_evaluator(cfg, "mine_test-dev2015"), COCOSubmission)
    assert evaluate(cfg) == {}
    assert list((tmp_path / "out/inference/mine_test-dev2015").iterdir()) == [
        tmp_path / "out/inference/mine_test-dev2015/detections_test-dev2015_out_results.zip"
    ]


def one_image_each(rank):
    """Each process sees one image; only the first knows the results."""
    folder = Path(os.environ["PETS"])
    register_catalog(folder / "pets.yaml")
    MetadataCatalog.get("pets_train").has_annotations = False
    image_id, box = ("a", [4.0, 4, 30, 25]) if rank == 0 else ("b", [0.0, 0, 9, 9])
    found = Instances(
        (30, 40),
        pred_boxes=Boxes(torch.tensor([box])),
        scores=torch.tensor([0.5]),
        pred_classes=torch.tensor([0]),
    )
    returned = []
    for evaluator in (VOCEvaluator("pets_train"), VOCSubmission("pets_train", str(folder / "two"))):
        evaluator.reset()
        evaluator.process([{"image_id": image_id}], [{"instances": found}])
        returned.append(evaluator.evaluate())
    return returned


@pytest.mark.slow
def test_two_processes_evaluate_and_submit_all_images_once(pets, tmp_path, monkeypatch):
    monkeypatch.setenv("PETS", str(tmp_path))
    first, second = in_two_processes(one_image_each, tmp_path)
    assert first[0]["bbox"]["AP-cat"] == pytest.approx(100) and second == [None, {}]
    with tarfile.open(tmp_path / "two/comp4_det_train.tar") as archive:
        lines = (
            archive.extractfile("results/VOC2007/Main/comp4_det_train_cat.txt").read().decode().splitlines()
        )
    assert lines == ["a 0.500000 5.0 5.0 30.0 25.0", "b 0.500000 1.0 1.0 9.0 9.0"]
