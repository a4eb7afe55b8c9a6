import pickle
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from detectron2.data import load_proposals_into_dataset
from detectron2.structures import BoxMode

from ohem_d2.proposals import Proposals, read_proposals
from ohem_d2.proposals.formats import write_detectron2

BOXES = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 4, 4]], np.float32)


def content(**changes):
    """A well-formed file of two images, "000001" with two boxes and "2" with none."""
    plain = {
        "ids": ["000001", 2],
        "boxes": [BOXES[:2], np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.array([0.5, 0.7], np.float32), np.zeros(0, np.float32)],
        "bbox_mode": BoxMode.XYXY_ABS,
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


@pytest.fixture
def dump(tmp_path):
    def dump(value, protocol=4):
        (tmp_path / "p.pkl").write_bytes(pickle.dumps(value, protocol))
        return tmp_path / "p.pkl"

    return dump


def test_boxes_come_by_descending_score_and_ties_in_file_order():
    _, scores = Proposals([("a", BOXES, [1, 3, 1, 3])])["a"]
    boxes, _ = Proposals([("a", BOXES, [1, 3, 1, 3])])["a"]
    assert scores.tolist() == [3, 3, 1, 1]
    assert boxes[:, 2].tolist() == [2, 4, 1, 3]  # the x2 of rows 1, 3, then 0, 2


def test_ties_among_many_boxes_keep_file_order():
    scores = np.arange(3000) % 3
    boxes = np.zeros((3000, 4))
    boxes[:, 2] = np.arange(3000)
    expected = [i for score in (2, 1, 0) for i in range(3000) if i % 3 == score]
    assert Proposals([("a", boxes, scores)])["a"][0][:, 2].tolist() == expected


def test_scores_that_float32_cannot_tell_apart_keep_their_order():
    boxes, scores = Proposals([("a", BOXES[:2], np.array([1.0, 1.0 + 1e-12]))])["a"]
    assert boxes[:, 2].tolist() == [2, 1] and scores.dtype == np.float32


def test_unsigned_scores_and_coordinates_do_not_wrap(dump):
    pixels = np.array([[250, 1, 250, 9]], np.uint8)
    path = dump(content(boxes=[pixels, []], objectness_logits=[np.zeros(1, np.uint8), []], bbox_mode=1))
    assert read_proposals(path)["000001"][0].tolist() == [[250, 1, 500, 10]]
    assert Proposals([("a", BOXES[:2], np.array([0, 3], np.uint8))])["a"][1].tolist() == [3, 0]


def test_mapping_of_string_ids_to_read_only_float32():
    proposals = Proposals([(1, BOXES[:1], [1]), ("b", [], [])])
    assert list(proposals) == ["1", "b"] and len(proposals) == 2 and "c" not in proposals
    boxes, scores = proposals["b"]
    assert boxes.shape == (0, 4) and scores.shape == (0,) and boxes.dtype == scores.dtype == np.float32
    for copy in (proposals, pickle.loads(pickle.dumps(proposals))):
        with pytest.raises(ValueError, match="read-only"):
            copy["1"][0][:] = 0
    with pytest.raises(KeyError):
        proposals["c"]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_reads_what_detectron2_users_write(dump, protocol, container):
    proposals = read_proposals(dump(container(content()), protocol))
    assert list(proposals) == ["000001", "2"]
    assert proposals["000001"][0][:, 2].tolist() == [2, 1]
    assert proposals["2"][0].shape == (0, 4)


@pytest.mark.parametrize("protocol", [2, 3])  # they store a name as a line of text
@pytest.mark.parametrize("modules", [(b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")])
def test_reads_the_module_names_of_numpy_1_and_2(dump, protocol, modules):
    path = dump(content(ids=[np.int64(5), np.int64(6)]), protocol)
    path.write_bytes(path.read_bytes().replace(*modules))
    assert modules[1] in path.read_bytes() and list(read_proposals(path)) == ["5", "6"]


def test_reads_detectron1_keys_and_xywh_boxes(dump):
    old = content(ids=None, objectness_logits=None, bbox_mode=BoxMode.XYWH_ABS)
    boxes = [np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.zeros((0, 4))]
    old.update(indexes=[1, 2], scores=[np.ones(2), np.ones(0)], boxes=boxes)
    assert read_proposals(dump(old))["1"][0].tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]
    old["boxes"][1] = [[1, 2, 3]]
    with pytest.raises(ValueError, match="p.pkl, image 2: boxes must have shape"):
        read_proposals(dump(old))


def test_enum_stored_by_name_is_read_and_other_attributes_are_not(dump):
    class ByName:
        def __init__(self, owner, name):
            self.value = getattr, (owner, name)

        def __reduce__(self):
            return self.value

    assert len(read_proposals(dump(content(bbox_mode=ByName(BoxMode, "XYXY_ABS"))))) == 2
    with pytest.raises(ValueError, match="attribute 'mro' is not admitted"):
        read_proposals(dump(content(bbox_mode=ByName(BoxMode, "mro"))))


def test_a_pickle_that_would_run_code_is_refused_before_it_does(dump, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    with pytest.raises(ValueError, match="p.pkl: not a proposal file: it holds .*open; only arrays"):
        read_proposals(dump(content(extra=Evil())))
    assert not (tmp_path / "touched").exists()


NAN = np.float32("nan")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ids": ["a"]}, "differ in length: {'ids': 1, 'boxes': 2, 'objectness_logits': 2}"),
        ({"ids": ["1", 1]}, "image id '1' comes more than once"),
        ({"ids": None}, "no 'ids' among its keys"),
        ({"bbox_mode": 4}, r"bbox_mode must be XYXY_ABS \(0\) or XYWH_ABS \(1\), not 4"),
        ({"boxes": [BOXES, []]}, "image 000001: 4 boxes but scores of shape"),
        ({"boxes": [BOXES[0], []]}, r"image 000001: boxes must have shape \(n, 4\), not \(4,\)"),
        ({"boxes": [BOXES[:2] * NAN, []]}, "image 000001: box 0 is not finite"),
        ({"objectness_logits": [np.array([0, NAN]), []]}, r"image 000001: score 1 is not finite: .nan.$"),
        ({"boxes": [[[0, 0, 1, 1], [5, 0, 4, 1]], []]}, r"image 000001: box 1 has x1 > x2 .*: \[5.0, 0.0"),
        ({"boxes": [[[0, 0, 1, 1], [0, 5, 1, 4]], []]}, "image 000001: box 1 has x1 > x2 or y1 > y2"),
        ({"boxes": [[[0, 0, 1, 1], "box"], []]}, "image 000001: boxes and scores must be numbers"),
    ],
)
def test_bad_content_is_one_line_with_file_and_image(dump, changes, message):
    path = dump(content(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_proposals(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_no_file_no_pickle_no_dict(dump, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pkl does not exist"):
        read_proposals(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match="a list, as mmdetection writes it, has no image ids"):
        read_proposals(dump([]))
    for broken in (b"", b"junk\n", dump(content()).read_bytes()[:-40]):
        (tmp_path / "p.pkl").write_bytes(broken)
        with pytest.raises(ValueError, match="p.pkl: not a proposal file"):
            read_proposals(tmp_path / "p.pkl")


def test_what_is_exported_reads_back_here_and_in_detectron2(tmp_path):
    path = tmp_path / "new/p.pkl"
    write_detectron2(path, Proposals([("a", BOXES, [4.0, 1, 2, 3]), (5, [], [])]))
    boxes, scores = read_proposals(path)["a"]
    assert boxes[:, 2].tolist() == [1, 4, 3, 2] and scores.tolist() == [4, 3, 2, 1]
    first, second = load_proposals_into_dataset([{"image_id": "a"}, {"image_id": 5}], str(path))
    np.testing.assert_array_equal(first["proposal_boxes"], boxes)
    assert first["proposal_bbox_mode"] is BoxMode.XYXY_ABS and second["proposal_boxes"].shape == (0, 4)


def test_detectrons_pickles_of_python_2_are_read(tmp_path):
    """Protocol 2 as Python 2 wrote it: text and arrays as 8-bit strings, to be taken as latin1."""
    pixels = np.array([[200, 1, 255, 9]], np.uint8).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x04\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04" + pixels + b"tb"
    )
    content = (
        b"\x80\x02}(U\x07indexes](U\x06000005eU\x05boxes]("
        + array
        + b"eU\x06scores](](G?\xe0\0\0\0\0\0\0eeu."
    )
    (tmp_path / "p.pkl").write_bytes(content)
    boxes, scores = read_proposals(tmp_path / "p.pkl")["000005"]
    assert boxes.tolist() == [[200, 1, 255, 9]] and scores.tolist() == [0.5]


def laughs(depth):
    nested = [0] * 10
    for _ in range(depth):
        nested = [nested] * 10
    return nested


LARGE = np.zeros((5000, 4), np.float32)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"boxes": [laughs(9), []]},
            "image 000001: boxes and scores must be numbers",
        ),  # 10 GB if it were unrolled
        ({"boxes": laughs(9)[:2]}, "image 000001: boxes and scores must be numbers"),
        (
            {"ids": list(range(900)), "boxes": [LARGE] * 900, "objectness_logits": [LARGE[:, 0]] * 900},
            "refused",
        ),
        ({"ids": [laughs(9), "2"]}, "an image id is a string or an integer"),
        ({"bbox_mode": laughs(1)}, "bbox_mode must be"),
        ({"boxes": "ab"}, "boxes must be a list, not a str"),
    ],
)
def test_a_small_pickle_cannot_fill_the_memory(dump, changes, message):
    path = dump(content(**changes))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            read_proposals(path)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "call", [(np.ndarray, ((10**9,),)), (np.zeros(1).__reduce__()[0], (np.ndarray, (10**9,), b"d"))]
)
def test_arrays_of_any_size_cannot_be_asked_for(dump, call):
    class Large:
        def __reduce__(self):
            return call

    with pytest.raises(ValueError, match="not a proposal file"):
        read_proposals(dump(content(extra=Large())))
