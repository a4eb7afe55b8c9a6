import logging
import pickle

import numpy as np
import pytest

from ohem_d2.proposals import read_proposals, write_proposals
from ohem_d2.proposals.conventions import better_convention, measure_fits
from ohem_d2.proposals.conversion import clean_boxes, convert_proposals

from .conftest import CORNERS, NUMBERS

# Two objects of an image of 60 x 40; the first boxes lie on them, the next ones reach the four borders.
OBJECTS = [[10, 4, 30, 36], [41, 9, 55, 21]]
BOXES = np.array([*OBJECTS, [0, 0, 20, 40], [7, 3, 60, 13], [0, 3, 9, 40]], np.float64)


def record(image_id, file_name="a/000001.jpg", **size):
    annotations = [{"bbox": box, "bbox_mode": 0, "category_id": 0} for box in OBJECTS]
    return {"image_id": image_id, "file_name": file_name, "annotations": annotations, **size}


SIZED = record("000001", width=60, height=40)


def inverse(corners, convention):
    """The numbers that a format of this convention writes for XYXY_ABS boxes."""
    x1, y1, x2, y2 = (np.asarray(corners, np.float64) + int("1" in convention)).T
    x2, y2 = (x2 - 1, y2 - 1) if "inclusive" in convention else (x2, y2)
    order = {"xyxy": (x1, y1, x2, y2), "yxyx": (y1, x1, y2, x2), "xywh": (x1, y1, x2 - x1, y2 - y1)}
    return np.stack(order[convention[:4]], axis=1)


@pytest.fixture
def source(tmp_path):
    def write(ids=("000001",), boxes=None, scores=None):
        boxes = [BOXES] * len(ids) if boxes is None else boxes
        scores = [np.zeros(len(b)) for b in boxes] if scores is None else scores
        content = {"ids": list(ids), "boxes": boxes, "objectness_logits": scores}
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(content))
        return tmp_path / "p.pkl"

    return write


def test_the_inverse_of_these_tests_is_right():
    assert all(np.array_equal(inverse(CORNERS, name), numbers) for name, numbers in NUMBERS.items())


def test_boxes_are_clipped_deduplicated_and_small_ones_dropped():
    boxes = np.array(
        [
            [0, 0, 9, 9],
            [-5, 0, 9, 9],
            [0, 0, 9, 9],
            [2, 2, 3.5, 9],
            [2, 2, 9, 4],
            [-0.0, 0, 9, 9],
            [12, 0, 30, 5],
        ],
        np.float32,
    )
    kept, scores, removed = clean_boxes(boxes, np.arange(7.0)[::-1], (10, 8), 2)
    # Clipped to 10 x 8: rows 0, 1, 2, 3, 5 lose a pixel below, 1 one at the left too, 6 lies beside: width 0.
    assert kept.tolist() == [[0, 0, 9, 8], [2, 2, 9, 4]] and scores.tolist() == [6, 2]
    assert (removed.clipped, removed.duplicates, removed.small) == (6, 3, 2)


def test_without_a_size_nothing_is_clipped_and_the_minimum_is_kept():
    boxes = np.array([[-5, 0, 9, 99], [0, 0, 2, 2], [0, 0, 1.99, 2], [-0.0, 0, 2, 2]], np.float32)
    kept, _, removed = clean_boxes(boxes, np.zeros(4), None, 2)
    assert kept.tolist() == boxes[:2].tolist()
    assert (removed.clipped, removed.duplicates, removed.small) == (0, 1, 1)  # -0 is 0


CONVENTIONS = list(NUMBERS)


@pytest.mark.parametrize("true", CONVENTIONS)
@pytest.mark.parametrize("taken", CONVENTIONS)
def test_a_wrong_convention_is_told_from_the_right_one(true, taken):
    fits = measure_fits([(inverse(BOXES, true), SIZED)])
    assert better_convention(fits, taken) == (None if taken == true else true)
    assert (fits[true].invalid, fits[true].gap, fits[true].recall, fits[true].iou) == (0, 0, 1, 1)


@pytest.mark.parametrize("true", ["xyxy0-inclusive", "xyxy1-inclusive", "xyxy1"])
def test_without_ground_truth_a_pixel_at_the_border_tells(true):
    samples = [(inverse(BOXES, true), {**SIZED, "annotations": []})]
    fits = measure_fits(samples)
    # A pixel at the two sides on the right, at the two on the left, at all four (two of them outside).
    assert fits["xyxy0"].gap == {"xyxy0-inclusive": 0.5, "xyxy1-inclusive": 0.5, "xyxy1": 1}[true]
    assert better_convention(fits, "xyxy0") == true


def test_a_conversion_says_what_it_did(source, tmp_path, caplog):
    path = source(boxes=[[*BOXES, BOXES[0], [5, 5, 6, 9], [50, 0, 70, 9]]])
    with caplog.at_level(logging.INFO):
        report = convert_proposals(path, tmp_path / "q", dataset_dicts=[SIZED], metadata={"dataset": "x"})
    text = caplog.text
    assert "p.pkl: Detectron2 or Detectron, boxes as xyxy0 (declared by the file or default" in text
    assert "* xyxy0 " in text and "fits better" not in text
    line = (
        "6 boxes of 1 images (Detectron2 or Detectron, xyxy0): 1 clipped; removed: 1 duplicates, 1 too small"
    )
    assert str(report) == line and line in text
    proposals = read_proposals(tmp_path / "q")
    assert proposals["000001"][0].tolist() == [*BOXES.tolist(), [50, 0, 60, 9]]
    assert proposals.metadata["dataset"] == "x" and proposals.metadata["source"] == "p.pkl"


def test_a_wrong_choice_is_reported(source, tmp_path, caplog):
    path = source(boxes=[inverse(BOXES, "yxyx1-inclusive")])
    convert_proposals(path, tmp_path / "q", dataset_dicts=[SIZED], convention="yxyx1-inclusive")
    assert "fits better" not in caplog.text
    assert read_proposals(tmp_path / "q")["000001"][0].tolist() == BOXES.tolist()
    convert_proposals(path, tmp_path / "q", dataset_dicts=[SIZED])
    assert "the boxes are taken as xyxy0, but yxyx1-inclusive fits better" in caplog.text


def test_reversed_boxes_name_the_convention_and_the_better_one(source, tmp_path):
    path = source(boxes=[inverse(BOXES, "xywh0")])
    message = r"p.pkl, image 000001: box 1 .* has x1 > x2 or y1 > y2 when taken as xyxy0; xywh0 fits better"
    with pytest.raises(ValueError, match=message):
        convert_proposals(path, tmp_path / "q", dataset_dicts=[SIZED])
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize("file_id", ["000001", "COCO_x"])
def test_ids_of_the_data_set_and_names_of_its_files_are_matched(source, tmp_path, file_id):
    path = source(ids=[file_id, "another"])
    data = [record("000001" if file_id == "000001" else 9, "a/COCO_x.jpg")]
    report = convert_proposals(path, tmp_path / "q", dataset_dicts=data)
    assert list(read_proposals(tmp_path / "q")) == [str(data[0]["image_id"])]
    assert report.unknown_ids == ["another"]
    assert "1 images are not in the data set and left out" in str(report)


def test_an_integer_that_lost_its_zeros_is_an_error_with_a_hint(source, tmp_path):
    message = r"no proposals for 1 of 1 images: 000001 \(the file has '1'; .*\): is it of another data set\?"
    with pytest.raises(ValueError, match=message):
        convert_proposals(source(ids=[1]), tmp_path / "q", dataset_dicts=[record("000001", "b.jpg")])
    assert not (tmp_path / "q").exists()


def test_images_that_the_file_lacks_are_named(source, tmp_path, caplog):
    convert_proposals(source(), tmp_path / "q", dataset_dicts=[SIZED, record("000002", "b.jpg")])
    assert "no proposals for 1 of 2 images: 000002" in caplog.text


def test_mmdetections_list_takes_the_ids_of_the_data_set(tmp_path):
    path, data = tmp_path / "p.pkl", [record("a", "a.jpg"), record(7, "b.jpg")]
    path.write_bytes(pickle.dumps([np.c_[CORNERS, [1, 2]], CORNERS[:1]]))
    convert_proposals(path, tmp_path / "q", format="mmdetection", dataset_dicts=data)
    proposals = read_proposals(tmp_path / "q")
    assert proposals["a"][1].tolist() == [2, 1] and proposals["7"][0].tolist() == CORNERS[:1].tolist()
    with pytest.raises(ValueError, match="2 images, but the data set has 1"):
        convert_proposals(path, tmp_path / "q", format="mmdetection", dataset_dicts=data[:1])
    with pytest.raises(ValueError, match="has no image ids: give the data set"):
        convert_proposals(path, tmp_path / "q", format="mmdetection")
    path.write_bytes(pickle.dumps([np.zeros((2, 6)), CORNERS]))
    with pytest.raises(ValueError, match=r"p.pkl, image a: needs an \(n, 4\) or \(n, 5\) array"):
        convert_proposals(path, tmp_path / "q", format="mmdetection", dataset_dicts=data)


def test_any_format_converts(any_file, tmp_path):
    convert_proposals(any_file, tmp_path / "q")
    assert read_proposals(tmp_path / "q")["7"][0].tolist() == CORNERS.tolist()


def test_a_store_keeps_how_it_was_made(tmp_path):
    write_proposals(tmp_path / "p", {"a": (CORNERS, [1, 2])}, {"method": "m", "dataset": "d"})
    convert_proposals(tmp_path / "p", tmp_path / "q", metadata={"dataset": "e"})
    metadata = read_proposals(tmp_path / "q").metadata
    assert (metadata["method"], metadata["dataset"]) == ("m", "e")


def test_a_bad_image_late_in_the_file_leaves_nothing(source, tmp_path):
    bad = CORNERS * np.nan
    path = source(ids=range(250), boxes=[CORNERS] * 249 + [bad])
    with pytest.raises(ValueError, match="p.pkl, image 249: box 0 is not finite"):
        convert_proposals(path, tmp_path / "q")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "x"}, "format 'x' is not known; choose from matlab, npz, coco, detectron2, mmdetection"),
        ({"convention": "x"}, "convention 'x' is not known"),
        ({"min_size": float("nan")}, "min_size is nan"),
    ],
)
def test_unknown_options_list_the_choices(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert_proposals(source(), tmp_path / "q", **options)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        convert_proposals(tmp_path / "none", tmp_path / "q")


def test_real_selective_search_boxes_reach_the_borders_of_their_images(real_data, tmp_path):
    """The two images are 500 pixels wide, 406 and 375 high; the numbers of rows are those of the files."""
    report = convert_proposals(real_data / "fast_rcnn_demo", tmp_path / "q", min_size=0)
    proposals = read_proposals(tmp_path / "q")
    assert {i: len(boxes) for i, (boxes, _) in proposals.items()} == {"000004": 2888, "001551": 2057}
    assert proposals["000004"][0].max(axis=0).tolist()[2:] == [500, 406]
    assert proposals["001551"][0].max(axis=0).tolist()[2:] == [500, 375]
    assert report.convention == "xyxy0-inclusive" and report.removed.duplicates == 0
