"""Detection in files: the same detections as in a test set, and files that cannot be read."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, Instances
from PIL import Image

from ohem_d2.data import build_test_mapper
from ohem_d2.evaluation import (
    Detections,
    Detector,
    Frame,
    build_test_model,
    detect,
    find_media,
    read_frames,
)
from ohem_d2.utils.video import open_video, read_video

from .models import AUG, RPN, SOFT, VOTING, assert_same, cfg_of, inputs_of, model_of, record_of


def rgb(record):
    return np.asarray(Image.open(record["file_name"]).convert("RGB"))


@pytest.mark.parametrize(
    "opts",
    [(), RPN, VOTING, (*SOFT, *AUG, "(48, 64)"), ("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "7"),
     ("INPUT.FORMAT", "RGB")],
)  # fmt: skip
def test_an_array_is_detected_in_as_the_image_of_a_test_set(tmp_path, opts):
    cfg, record = cfg_of(*opts), record_of(tmp_path)
    model = build_test_model(cfg, model_of(cfg))
    with torch.no_grad():
        expected = model([inputs_of(cfg, record)])[0]["instances"]
    detector = Detector(
        model, build_test_mapper(cfg), lambda images: (record["proposal_boxes"] for _ in images)
    )
    (found,) = detector([rgb(record)])
    assert len(found) > 5
    assert_same([found], [expected])


def test_proposals_are_computed_on_bgr_for_each_image_and_not_at_all_with_an_rpn(tmp_path):
    records, seen = [record_of(tmp_path, seed=seed) for seed in (0, 1)], []

    def propose(images):
        for bgr in images:
            seen.append(bgr)
            yield np.float32([[0, 0, 40, 40]])

    for opts, num_seen in (((), 2), (RPN, 2)):
        cfg = cfg_of(*opts)
        Detector(model_of(cfg), build_test_mapper(cfg), propose)([rgb(record) for record in records])
        assert len(seen) == num_seen
    assert np.array_equal(seen[1], rgb(records[1])[:, :, ::-1])


def test_a_model_on_proposals_without_a_way_to_compute_them_is_refused():
    with pytest.raises(ValueError, match="needs proposals, and nothing computes them"):
        Detector(torch.nn.Identity(), build_test_mapper(cfg_of()))


def test_a_model_that_detects_nothing_is_named():
    mapper = DatasetMapper(False, augmentations=[], image_format="BGR")
    detector = Detector(lambda inputs: [{"sem_seg": 0}], mapper)
    with pytest.raises(ValueError, match="function does not detect objects"):
        detector([np.zeros((4, 5, 3), np.uint8)])


class Counting:
    """In place of a `Detector`: proposes the number in the first pixel, and detects what is proposed."""

    def __init__(self):
        self.sizes = []

    def proposals(self, images):
        return (int(image[0, 0, 0]) for image in images)

    def __call__(self, images, proposals):
        self.sizes.append(len(images))
        assert [int(image[0, 0, 0]) for image in images] == list(proposals)
        return proposals


def test_batches_are_of_the_size_asked_for_and_keep_the_order():
    read = []
    frames = (read.append(i) or Frame("x", i, np.full((2, 2, 3), i, np.uint8)) for i in range(5))
    detector = Counting()
    found = detect(detector, frames, 2)
    assert next(found)[1] == 0 and read == [0, 1]  # a video is not read whole
    assert [(frame.number, boxes) for frame, boxes in found] == [(i, i) for i in range(1, 5)]
    assert detector.sizes == [2, 2, 1]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "day").mkdir(parents=True)
    for name in ("b.png", "day/a.JPG"):
        Image.fromarray(np.full((6, 8, 3), 50, np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    (tmp_path / "in" / "notes.txt").write_text("none")
    return tmp_path / "in"


def test_a_folder_is_searched_and_an_image_that_cannot_be_read_is_named_not_fatal(folder):
    files, unreadable = find_media([folder]), []
    assert list(files) == ["b.png", "broken.jpg", "day/a.JPG"]
    assert [frame.name for frame in read_frames(files, unreadable)] == ["b.png", "day/a.JPG"]
    assert unreadable == [str(folder / "broken.jpg")]


def test_what_is_not_there_and_two_files_of_one_name_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        find_media([folder / "none"])
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no image or video: .avi, "):
        find_media([folder / "empty"])
    (folder / "day" / "b.png").write_bytes((folder / "b.png").read_bytes())
    with pytest.raises(ValueError, match="have one name; give the folder that both are in"):
        find_media([folder, folder / "day" / "b.png"])


def test_a_video_is_read_frame_by_frame_and_written_whole(tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV")
    shades = (20, 120, 220)
    with open_video(tmp_path / "clip.mp4", 10) as writer:
        for shade in shades:
            image = np.zeros((48, 64, 3), np.uint8)
            image[..., 0] = shade  # red
            writer.write(image)
        assert not (tmp_path / "clip.mp4").exists()
    frames = list(read_frames({"clip.mp4": tmp_path / "clip.mp4"}, []))
    assert [(frame.name, frame.number) for frame in frames] == [("clip.mp4", i) for i in range(3)]
    for frame, shade in zip(frames, shades):
        assert abs(frame.image[..., 0].mean() - shade) < 12 and frame.image[..., 2].mean() < 20
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_broken_video_is_one_that_cannot_be_read_and_a_failed_block_leaves_none(tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    unreadable = []
    assert not list(read_frames({"clip.mp4": tmp_path / "clip.mp4"}, unreadable))
    assert unreadable == [str(tmp_path / "clip.mp4")]
    with pytest.raises(KeyboardInterrupt), open_video(tmp_path / "out.mp4", 10) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_without_opencv_a_video_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=r'video needs OpenCV: pip install "ohem_d2\[opencv\]"'):
        list(read_frames({"clip.mp4": "clip.mp4"}, []))
    with pytest.raises(ImportError):
        next(read_video("clip.mp4"))


def found(*boxes):
    instances = Instances((50, 60))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([0.75, 0.5][: len(boxes)])
    instances.pred_classes = torch.tensor([1, 0][: len(boxes)])
    return instances


def test_detections_are_results_of_coco_and_rows_of_csv(tmp_path):
    image = np.zeros((50, 60, 3), np.uint8)
    detections = Detections(["cat", "dog"], {0: 17, 1: 18}, numeric_ids=True)
    with detections.writing(tmp_path):
        detections.add(Frame("000042.jpg", None, image), found((1, 2, 11, 22), (0, 0, 5, 5)))
        detections.add(Frame("day/clip.mp4", 3, image), found((1, 2, 11, 22)))
        detections.add(Frame("empty.jpg", None, image), found())
    results = json.loads((tmp_path / "detections.json").read_text())
    keys = ("image_id", "category_id", "bbox", "score", "file_name")
    assert [tuple(result[key] for key in keys) for result in results] == [
        (42, 18, [1, 2, 10, 20], 0.75, "000042.jpg"),
        (42, 17, [0, 0, 5, 5], 0.5, "000042.jpg"),
        ("day/clip/000003", 18, [1, 2, 10, 20], 0.75, "day/clip.mp4"),
    ]
    assert results[2]["frame"] == 3 and "frame" not in results[0]
    rows = list(csv.reader((tmp_path / "detections.csv").open()))
    assert rows[0] == ["file_name", "frame", "class", "score", "x1", "y1", "x2", "y2"]
    assert rows[1] == ["000042.jpg", "", "dog", "0.75", "1.0", "2.0", "11.0", "22.0"]
    assert rows[3][:3] == ["day/clip.mp4", "3", "dog"] and len(rows) == 4


def test_no_detections_are_an_empty_list_and_a_failure_changes_no_file(tmp_path):
    detections = Detections(["cat", "dog"])
    with detections.writing(tmp_path):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert (tmp_path / "detections.csv").read_text() == "file_name,frame,class,score,x1,y1,x2,y2\n"
    with pytest.raises(KeyError), detections.writing(tmp_path):
        detections.add(Frame("a.jpg", None, None), found((1, 2, 11, 22)))
        raise KeyError
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["detections.csv", "detections.json"]


def test_what_is_found_is_not_kept_in_memory(tmp_path):
    detections = Detections(["cat", "dog"])
    tracemalloc.start()
    with detections.writing(tmp_path):
        sizes = []
        for number in range(200):
            detections.add(Frame("clip.mp4", number, None), found(*[(1, 2, 11, 22)] * 2))
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[-1] - sizes[100] < 20_000  # 200 detections would take 200 kB


def test_names_of_digits_are_text_outside_of_coco(tmp_path):
    detections = Detections(["cat", "dog"])
    with detections.writing(tmp_path):
        detections.add(Frame("000042.jpg", None, None), found((1, 2, 11, 22)))
    (result,) = json.loads((tmp_path / "detections.json").read_text())
    assert (result["image_id"], result["category_id"]) == ("000042", 1)
