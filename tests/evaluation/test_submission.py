"""The files for the servers of VOC and COCO."""

import io
import json
import logging
import tarfile
import zipfile

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from ohem_d2.evaluation import COCOSubmission, VOCSubmission
from ohem_d2.evaluation.submission import check_coco_submission, check_voc_submission

SIZES = {"000001": (40, 30), "000002": (40, 30)}
FILES = ["results/VOC2012/Main/comp4_det_test_cat.txt", "results/VOC2012/Main/comp4_det_test_dog.txt"]
MEMBER = "detections_test-dev2015_mine_results.json"
COCO_SIZES = {7: (40, 30), 9: (40, 30)}


def instances(*found):
    """(class, score, box) each."""
    result = Instances(
        (30, 40),
        pred_boxes=Boxes(torch.tensor([box for *_, box in found], dtype=torch.float32).reshape(-1, 4)),
    )
    result.scores = torch.tensor([score for _, score, _ in found])
    result.pred_classes = torch.tensor([index for index, *_ in found], dtype=torch.long)
    return {"instances": result}


def submit(evaluator, outputs):
    """{image: [(class, score, box)]} -> what `evaluate` returns."""
    evaluator.reset()
    for image_id, found in outputs.items():
        evaluator.process([{"image_id": image_id}], [instances(*found)])
    return evaluator.evaluate()


def register(name, sizes, **metadata):
    records = [
        {"image_id": i, "width": w, "height": h, "file_name": f"{i}.jpg"} for i, (w, h) in sizes.items()
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], **metadata)
    return name


@pytest.fixture
def voc(tmp_path):
    return VOCSubmission(
        register("voc_test", SIZES, dirname="VOC2012", split="test", year=2012), str(tmp_path / "out")
    )


@pytest.fixture
def coco(tmp_path):
    ids = {
        "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1},
        "json_file": "annotations/image_info_test-dev2015.json",
    }
    return COCOSubmission(register("coco_test", COCO_SIZES, **ids), str(tmp_path / "out"), "my ohem_1.0")


def test_voc_counts_pixels_from_one_and_has_a_file_for_every_class(voc, caplog):
    """[2, 3, 20.04, 30] covers pixels 3 to 20.0 and 4 to 30; a fifth of a pixel at the corner covers one."""
    with caplog.at_level(logging.INFO):
        found = [
            (1, 0.12345678, [2, 3, 20.04, 30]),
            (1, 1e-5, [39.8, 29.8, 40, 30]),
            (1, 1.0, [0, 0, 0.2, 0.2]),
        ]
        assert submit(voc, {"000001": [], "000002": found}) == {}
    assert "3 detections to submit, in" in caplog.text and voc.path in caplog.text
    with tarfile.open(voc.path) as archive:
        assert archive.getnames() == FILES
        contents = [archive.extractfile(name).read().decode() for name in FILES]
    assert contents == [
        "",
        "000002 0.123457 3.0 4.0 20.0 30.0\n"
        "000002 0.000010 40.0 30.0 40.0 30.0\n"
        "000002 1.000000 1.0 1.0 1.0 1.0\n",
    ]


def test_coco_has_its_own_ids_and_boxes_by_width_and_height(coco):
    submit(coco, {7: [(1, 0.1234567, [2.26, 3, 20, 30])], 9: []})
    assert coco.path.endswith("out/detections_test-dev2015_my-ohem-1.0_results.zip")
    with zipfile.ZipFile(coco.path) as archive:
        (name,) = archive.namelist()
        results = json.loads(archive.read(name))
    assert name == "detections_test-dev2015_my-ohem-1.0_results.json"
    assert results == [{"image_id": 7, "category_id": 18, "bbox": [2.3, 3.0, 17.7, 27.0], "score": 0.123457}]


def test_no_detections_are_empty_files_for_voc_and_refused_for_coco(voc, coco):
    assert submit(voc, {}) == {}
    with tarfile.open(voc.path) as archive:
        assert [member.size for member in archive] == [0, 0]
    with pytest.raises(ValueError, match="results.zip is not written: .*at least one; found \\[\\]$"):
        submit(coco, {7: []})


@pytest.mark.parametrize(
    "score, box", [(float("nan"), [1, 1, 9, 9]), (0.5, [1, 1, 9, float("inf")]), (0.5, [1, 1, 41, 9])]
)
def test_what_the_server_would_refuse_is_one_line_and_leaves_the_old_file(voc, coco, score, box):
    for evaluator, image_id in ((voc, "000001"), (coco, 7)):
        submit(evaluator, {image_id: [(0, 0.5, [1, 1, 9, 9])]})
        before = open(evaluator.path, "rb").read()
        with pytest.raises(ValueError, match=f"^{evaluator.path} is not written: [^\n]*$"):
            submit(evaluator, {image_id: [(0, 0.5, [1, 1, 9, 9]), (0, score, box)]})
        assert open(evaluator.path, "rb").read() == before


def test_a_model_with_more_classes_than_the_data_set_is_named(voc):
    with pytest.raises(ValueError, match="the model predicts class 2; the data set has 2 classes"):
        submit(voc, {"000001": [(2, 0.5, [1, 1, 9, 9])]})


def tar(contents):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    file.seek(0)
    return file


def test_a_right_tar_passes():
    check_voc_submission(tar([(FILES[1], "000002 -0.5 1 1 40 30\n"), (FILES[0], "")]), FILES, SIZES)


@pytest.mark.parametrize(
    "contents, message",
    [
        ([(FILES[0], "")], f"{FILES[1]} is missing; 2 files are asked for, found 1"),
        ([(FILES[0], ""), (FILES[1], ""), ("other.txt", "")], "other.txt is not asked for"),
        ([(FILES[0], ""), (FILES[1], ""), (FILES[1], "")], "not asked for or comes twice"),
        ([(FILES[0], ""), (FILES[1].replace("comp4", "comp3"), "")], "comp4_det_test_dog.txt is missing"),
    ],
)
def test_a_file_for_every_class_and_no_other(contents, message):
    with pytest.raises(ValueError, match=message):
        check_voc_submission(tar(contents), FILES, SIZES)


@pytest.mark.parametrize(
    "line, message",
    [
        ("1 0.5 1 1 9 9", "image id '1' is none of the test set's"),
        ("000003 0.5 1 1 9 9", "image id '000003' is none"),
        ("000001 nan 1 1 9 9", "is not an image id, a score and four coordinates"),
        ("000001 0.5 1 1 9 inf", "is not an image id"),
        ("000001 5e-1 1 1 9 9", "is not an image id"),
        ("000001 0,5 1 1 9 9", "is not an image id"),
        ("000001 0.5 1 1 9", "is not an image id"),
        ("000001 0.5 1 1 9 9 cat", "is not an image id"),
        ("", "is not an image id"),
        ("000001 0.5 0.9 1 9 9", "no box within the pixels 1 to 40 and 1 to 30"),
        ("000001 0.5 1 0 9 9", "no box within"),
        ("000001 0.5 1 1 40.1 9", "no box within"),
        ("000001 0.5 1 1 9 30.1", "no box within"),
        ("000001 0.5 9 1 8 9", "no box within"),
        ("000001 0.5 1 9 9 8", "no box within"),
    ],
)
def test_every_line_is_a_detection_of_the_split(line, message):
    file = tar([(FILES[0], ""), (FILES[1], f"000001 0.5 1 1 9 9\n{line}\n")])
    with pytest.raises(ValueError, match=f"{FILES[1]}, line 2: .*{message}"):
        check_voc_submission(file, FILES, SIZES)


def zipped(content, name=MEMBER):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    file.seek(0)
    return file


GOOD = {"image_id": 7, "category_id": 18, "bbox": [0, 0.5, 40.0, 29.5], "score": 1}


def test_a_right_zip_passes():
    check_coco_submission(zipped(json.dumps([GOOD])), MEMBER, [17, 18], COCO_SIZES)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_id": 8}, "image id 8 is none"),
        ({"image_id": "7"}, "image id '7' is none"),
        ({"image_id": 7.0}, "image id 7.0 is none"),
        ({"image_id": [7]}, r"image id \[7\] is none"),
        ({"category_id": 1}, "category_id 1 is none"),
        ({"category_id": 18.0}, "category_id 18.0 is none"),
        ({"bbox": [0, 0, 9]}, "four finite numbers"),
        ({"bbox": [0, 0, 9, float("nan")]}, "four finite numbers"),
        ({"bbox": [0, 0, 9, "9"]}, "four finite numbers"),
        ({"bbox": None}, "four finite numbers"),
        ({"bbox": [-1, 0, 9, 9]}, "not within the 40 x 30 pixels"),
        ({"bbox": [0, 0, -9, 9]}, "not within"),
        ({"bbox": [32, 0, 9, 9]}, "not within"),
        ({"bbox": [0, 22, 9, 9]}, "not within"),
        ({"score": float("inf")}, "a finite score"),
        ({"score": True}, "a finite score"),
        ({"area": 81}, "does not have the keys bbox, category_id, image_id, score alone"),
    ],
)
def test_every_entry_is_a_detection_of_the_test_set(change, message):
    with pytest.raises(ValueError, match=f"{MEMBER}, entry 1: .*{message}"):
        check_coco_submission(zipped(json.dumps([GOOD, {**GOOD, **change}])), MEMBER, [17, 18], COCO_SIZES)


@pytest.mark.parametrize(
    "content, name, message",
    [
        (json.dumps([GOOD]), "results.json", f"{MEMBER} is missing"),
        (json.dumps({"annotations": [GOOD]}), MEMBER, "must hold a list of detections"),
        ("[]", MEMBER, "at least one"),
        ("[", MEMBER, "Expecting value"),
        (json.dumps([1]), MEMBER, "entry 0: 1 does not have the keys"),
    ],
)
def test_the_zip_holds_one_list(content, name, message):
    with pytest.raises(ValueError, match=message):
        check_coco_submission(zipped(content, name), MEMBER, [17, 18], COCO_SIZES)
