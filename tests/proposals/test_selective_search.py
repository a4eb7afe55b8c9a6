import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from ohem_d2.proposals import selective_search as module
from ohem_d2.proposals.selective_search import SelectiveSearch, generate_selective_search, selective_search

cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
needs_contrib = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="needs opencv-contrib-python")


def picture(seed=0, width=80, height=60):
    """Noise, and on it a bright rectangle from (20, 10) to (50, 40), exclusive."""
    image = np.random.default_rng(seed).integers(40, 70, (height, width, 3)).astype(np.uint8)
    image[10:40, 20:50] = (30, 200, 220)
    return image


@pytest.fixture
def records(tmp_path):
    for seed in range(5):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), picture(seed))
    return [{"file_name": str(tmp_path / f"{seed}.png"), "image_id": f"id{seed}"} for seed in range(5)]


@pytest.fixture
def found(monkeypatch):
    """``found([(x, y, w, h), ...])`` makes OpenCV find these and returns the images that it was given."""

    def install(rectangles):
        images = []
        searcher = SimpleNamespace(
            setBaseImage=images.append,
            switchToSelectiveSearchFast=lambda: None,
            switchToSelectiveSearchQuality=lambda: None,
            process=lambda: np.array(rectangles, np.int32).reshape(-1, 4),
        )
        fake = SimpleNamespace(createSelectiveSearchSegmentation=lambda: searcher)
        monkeypatch.setattr(module, "_segmentation_module", lambda: fake)
        return images

    return install


def as_set(boxes):
    return {tuple(box) for box in boxes.tolist()}


@needs_contrib
@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_an_object_is_among_the_boxes(mode):
    boxes = selective_search(picture(), mode)
    assert boxes.dtype == np.float32 and boxes.shape[1] == 4
    assert np.abs(boxes - [20, 10, 50, 40]).max(axis=1).min() <= 2
    assert (0, 0, 80, 60) in as_set(boxes)


@needs_contrib
def test_quality_finds_more_than_fast():
    assert len(selective_search(picture(), "quality")) > len(selective_search(picture(), "fast"))


@needs_contrib
def test_a_repeated_search_gives_the_same_boxes_in_the_same_order():
    first = selective_search(picture())
    selective_search(picture(seed=1))
    cv2.setRNGSeed(7)
    np.random.seed(7)
    assert np.array_equal(first, selective_search(picture()))


def test_the_order_depends_on_the_set_of_boxes_alone_and_duplicates_are_removed(found):
    rectangles = [(x, y, 10, 10) for x in range(10) for y in range(5)]
    found(rectangles)
    first = selective_search(picture())
    found(rectangles[::-1] + rectangles[:7])
    assert np.array_equal(first, selective_search(picture()))
    assert as_set(first) == {(x, y, x + 10, y + 10) for x, y, _, _ in rectangles} and len(first) == 50


def test_the_first_boxes_are_spread_over_the_image(found):
    found([(x, 0, 2, 2) for x in range(0, 80, 2)])
    left = selective_search(picture())[:20, 0] < 40
    assert 5 <= left.sum() <= 15  # in sorted order all 20 would lie in the left half


def test_width_and_height_become_corners(found):
    found([(3, 4, 10, 20)])
    assert selective_search(picture()).tolist() == [[3, 4, 13, 24]]


def test_boxes_of_a_scaled_search_are_in_pixels_of_the_original(found):
    images = found([(0, 0, 41, 30), (10, 5, 4, 6)])
    # 81 x 61 halves to 40 x 30: x is stretched by 81 / 40 = 2.025, y by 61 / 30; 41 * 2.025 is clipped to 81.
    boxes = selective_search(picture(width=81, height=61), scale=0.5)
    assert images[0].shape == (30, 40, 3)
    expected = [[0, 0, 81, 61], [20.25, 5 * 61 / 30, 28.35, 11 * 61 / 30]]
    assert np.allclose(sorted(boxes.tolist()), expected, atol=1e-4)


def test_a_large_image_is_shrunk_and_its_boxes_are_in_pixels_of_the_original(found):
    images = found([(0, 0, 40, 30), (10, 5, 4, 6)])
    boxes = selective_search(picture(width=80, height=60), max_side=40)  # half the size
    assert sorted(boxes.tolist()) == [[0, 0, 80, 60], [20, 10, 28, 22]]
    selective_search(picture(width=60, height=80), max_side=40)
    selective_search(picture(width=80, height=60), scale=0.25, max_side=40)
    selective_search(picture(width=80, height=60), max_side=80)
    selective_search(picture(width=700, height=10))
    selective_search(picture(width=700, height=10), max_side=0)
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    assert sizes == [(40, 30), (30, 40), (20, 15), (80, 60), (640, 9), (700, 10)]


@needs_contrib
def test_a_scale_of_nearly_nothing_still_gives_the_whole_image():
    assert selective_search(picture(), scale=1e-6).tolist() == [[0, 0, 80, 60]]


def test_boxes_with_a_side_under_min_size_are_dropped(found):
    found([(0, 0, 5, 9), (0, 0, 6, 6), (0, 0, 9, 5), (1, 1, 6, 5)])
    assert as_set(selective_search(picture(), min_size=6)) == {(0, 0, 6, 6)}
    assert len(selective_search(picture(), min_size=5)) == 4


def test_min_size_counts_pixels_of_the_original(found):
    found([(0, 0, 3, 3)])
    assert len(selective_search(picture(), scale=0.5, min_size=6)) == 1
    assert len(selective_search(picture(), scale=0.5, min_size=7)) == 0


@needs_contrib
@pytest.mark.parametrize("shape", [(1, 1), (2, 60), (40, 40)])
def test_a_flat_or_tiny_image_is_one_box(shape):
    image = np.full((*shape, 3), 127, np.uint8)
    assert selective_search(image, min_size=0).tolist() == [[0, 0, shape[1], shape[0]]]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "slow"}, "'slow'; choose from fast, quality"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"min_size": -1}, "min_size is -1"),
        ({"max_side": -1}, "max_side is -1"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        selective_search(picture(), **options)


@pytest.mark.parametrize("shape, dtype", [((4, 4), "uint8"), ((4, 4, 3), "float64"), ((0, 4, 3), "uint8")])
def test_what_is_not_a_colour_image_is_refused(shape, dtype):
    image = np.zeros(shape, dtype)
    with pytest.raises(ValueError, match="Selective Search needs"):
        selective_search(image)


@pytest.mark.parametrize("cv2_module", [None, SimpleNamespace()], ids=["no OpenCV", "plain OpenCV"])
def test_opencv_without_selective_search_names_the_package(monkeypatch, cv2_module):
    monkeypatch.setitem(sys.modules, "cv2", cv2_module)
    with pytest.raises(ImportError, match=r"uninstall opencv-python .*\[proposals\].*opencv-contrib-"):
        generate_selective_search([])


@needs_contrib
def test_two_processes_give_what_one_gives(records):
    one = generate_selective_search(records, workers=1, progress=False)
    two = generate_selective_search(records, workers=2, progress=False)
    assert list(one) == list(two) == ["id0", "id1", "id2", "id3", "id4"]
    for image_id in one:
        assert all(np.array_equal(a, b) for a, b in zip(one[image_id], two[image_id]))


@needs_contrib
def test_a_stream_of_images_is_searched_in_order_a_few_ahead():
    images = [picture(seed) for seed in range(12)]
    expected = list(map(selective_search, images))
    for workers, ahead in ((1, 1), (2, 8)):
        taken = []
        stream = (taken.append(1) or image for image in images)
        found = SelectiveSearch(workers=workers).search(stream)
        first = next(found)
        assert len(taken) == ahead
        for boxes, of_image in zip([first, *found], expected, strict=True):
            assert np.array_equal(boxes, of_image)


@needs_contrib
def test_the_result_of_an_image_does_not_depend_on_the_images_before_it(records):
    forward = generate_selective_search(records, workers=1, progress=False)
    backward = generate_selective_search(records[::-1], workers=1, progress=False)
    assert all(np.array_equal(forward[image_id][0], backward[image_id][0]) for image_id in forward)


@needs_contrib
def test_scores_descend_so_that_sorting_keeps_the_order(records):
    boxes, scores = generate_selective_search(records[:1], workers=1, progress=False)["id0"]
    assert scores.dtype == np.float32 and scores.tolist() == [-i for i in range(len(boxes))]
    assert np.array_equal(boxes, selective_search(picture(0)))


@needs_contrib
def test_no_image_is_no_proposal():
    assert generate_selective_search([], progress=False) == {}


@needs_contrib
def test_an_image_listed_twice_is_searched_once(records, monkeypatch):
    searched = []
    monkeypatch.setattr(module, "_read_image", lambda name: searched.append(name) or picture())
    assert list(generate_selective_search([*records, records[0]], workers=1, progress=False))[:1] == ["id0"]
    assert searched == [record["file_name"] for record in records]


@needs_contrib
def test_one_id_for_two_files_is_refused(records):
    twin = {"file_name": records[1]["file_name"], "image_id": "id0"}
    with pytest.raises(ValueError, match="'id0' stands for two files"):
        generate_selective_search([records[0], twin], workers=1, progress=False)


@needs_contrib
def test_an_image_that_opencv_cannot_read_is_read_as_in_training(tmp_path):
    """A turned TIFF."""
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tiff", tiffinfo={0x0112: 6})
    read = module._read_image(str(tmp_path / "a.tiff"))
    np.testing.assert_array_equal(read, read_image(str(tmp_path / "a.tiff"), "BGR"))


@needs_contrib
def test_an_unreadable_image_is_named(records, tmp_path):
    (tmp_path / "3.png").write_text("no image")
    with pytest.raises(ValueError, match=r"3\.png cannot be read as an image"):
        generate_selective_search(records, workers=1, progress=False)


@needs_contrib
def test_a_missing_image_is_named(records, tmp_path):
    (tmp_path / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image at .*2\.png"):
        generate_selective_search(records, workers=1, progress=False)


@needs_contrib
@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_workers_under_one_is_refused(records, workers):
    with pytest.raises(ValueError, match=f"workers is {workers}"):
        generate_selective_search(records, workers=workers, progress=False)


SLEEPERS = """
import signal, time
from ohem_d2.proposals.selective_search import _map

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for _ in _map(time.sleep, [0, 0, 0, 0, 600, 0, 0, 0, 600], 2):
        print("done", flush=True)
"""


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent(tmp_path, number):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "sleepers.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert [parent.stdout.readline() for _ in range(4)] == [b"done\n"] * 4
        workers = children(parent.pid)
        assert len(workers) >= 2
        parent.send_signal(number)
        parent.wait(timeout=10)
    deadline = time.monotonic() + 10
    while left := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
