import json
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

import ohem_d2
from ohem_d2.proposals import ProposalWriter, read_proposals, write_proposals
from ohem_d2.proposals.index import IdIndex
from ohem_d2.utils import files

BOXES = np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]], np.float32)
NUMBERS = st.floats(-1e6, 1e6, width=32)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@st.composite
def entry(draw):
    n = draw(st.integers(0, 5))
    corners = draw(arrays.arrays(np.float32, (n, 2), elements=NUMBERS))
    sizes = draw(arrays.arrays(np.float32, (n, 2), elements=st.floats(0, 1e6, width=32)))
    scores = draw(arrays.arrays(np.float32, (n,), elements=st.sampled_from([-1.5, 0, 0.25, 3])))
    return np.hstack([corners, corners + sizes]), scores


@given(st.dictionaries(TEXT, entry(), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_content_reads_back_sorted_and_stable(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("p") / "p.safetensors"
    write_proposals(path, content)
    proposals = read_proposals(path)
    assert list(proposals) == list(content) and proposals.num_boxes == sum(
        len(s) for _, s in content.values()
    )
    for image_id, (boxes, scores) in content.items():
        order = sorted(range(len(scores)), key=lambda i: -scores[i])  # Python's sort is stable
        np.testing.assert_array_equal(proposals[image_id][0], boxes[order])
        np.testing.assert_array_equal(proposals[image_id][1], scores[order])
        assert proposals.count(image_id) == len(scores)


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "p.safetensors"
    metadata = {"method": "mine", "parameters": {"b": 1, "a": [2]}}
    write_proposals(path, {"000001": (BOXES, [1, 3, 2]), 12: ([], []), "ü": (BOXES[:1], [5])}, metadata)
    return path


def test_the_file_is_what_the_module_says(store):
    tensors = load_file(store)  # the library's own reader
    assert {name: (t.dtype.str, t.shape) for name, t in tensors.items()} == {
        "boxes": ("<f4", (4, 4)),
        "scores": ("<f4", (4,)),
        "offsets": ("<i8", (4,)),
        "ids": ("|u1", (10,)),  # 6 + 2 + 2 bytes of UTF-8
        "id_offsets": ("<i8", (4,)),
        "id_hashes": ("<i8", (3,)),
        "id_rows": ("<i8", (3,)),
    }
    assert tensors["boxes"][:, 2].tolist() == [2, 3, 1, 1] and tensors["scores"].tolist() == [3, 2, 1, 5]
    assert tensors["offsets"].tolist() == [0, 3, 3, 4] and tensors["ids"].tobytes().decode() == "00000112ü"
    assert read_proposals(store).metadata == {
        "format": "ohem_d2.proposals",
        "version": "1",
        "box_convention": "XYXY_ABS",
        "tool": f"ohem_d2 {ohem_d2.__version__}",
        "method": "mine",
        "parameters": '{"a": [2], "b": 1}',
    }


def test_equal_content_gives_equal_bytes_and_a_copy_keeps_the_metadata(store, tmp_path):
    write_proposals(tmp_path / "q", read_proposals(store))
    assert (tmp_path / "q").read_bytes() == store.read_bytes()


def test_the_tables_are_aligned_whatever_the_number_of_boxes(store):
    assert read_proposals(store)._index.hashes.flags.aligned  # 4 boxes
    write_proposals(store, {"a": (BOXES, [1, 2, 3])})
    assert read_proposals(store)._index.hashes.flags.aligned and read_proposals(store)._offsets.flags.aligned


def test_arrays_are_read_only_views_of_the_mapped_file(store):
    boxes, scores = read_proposals(store)["000001"]
    assert not boxes.flags.owndata and not scores.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        boxes[:] = 0


def test_tensors_in_another_order_are_read(store, tmp_path):
    rewrite(store, {})  # the library sorts them by dtype
    assert read_proposals(store)["000001"][1].tolist() == [3, 2, 1]


def test_ids_of_equal_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr("ohem_d2.proposals.index._hash", lambda encoded: len(encoded))
    index = IdIndex.build(["aa", "b", "c", "dd", "e"])
    assert [index.find(i) for i in ("aa", "b", "c", "dd", "e", "f", "ff", "fff")] == [
        0,
        1,
        2,
        3,
        4,
        None,
        None,
        None,
    ]
    assert index.check() is None


def test_lookups_of_many_ids():
    ids = [str(i) for i in range(3000)]
    index = IdIndex.build(ids)
    assert [index.find(i) for i in ids] == list(range(3000)) and index.find("3000") is None


def test_a_pickle_holds_the_path_alone(store):
    data = pickle.dumps(read_proposals(store))
    assert len(data) < 300
    assert pickle.loads(data)["000001"][1].tolist() == [3, 2, 1]
    write_proposals(store, {"a": (BOXES, [1, 2, 3])})
    with pytest.raises(ValueError, match="has changed since it was opened"):
        pickle.loads(data)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes_read_it(store, method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_proposals(store).__getitem__, ("ü",))[1].tolist() == [5]


def test_ids_that_are_no_text_or_integer_are_refused(tmp_path):
    for image_id in (1.5, True, None, b"a", "\ud800"):
        with pytest.raises(ValueError, match="image id"):
            write_proposals(tmp_path / "p", {image_id: ([], [])})
    with pytest.raises(ValueError, match="'1' comes more than once"):
        write_proposals(tmp_path / "p", {1: ([], []), "1": ([], [])})
    assert list(tmp_path.iterdir()) == []


def test_a_number_beyond_float32_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image a: box 0 is not finite"):
        write_proposals(tmp_path / "p", {"a": ([[0, 0, 1, 1e39]], [0])})


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(store, monkeypatch):
    old = store.read_bytes()
    with pytest.raises(ValueError, match="p.safetensors, image b"):
        write_proposals(store, {"b": (BOXES, np.zeros(2))})

    def full(fd):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_proposals(store, {"b": (BOXES, np.zeros(3))})
    assert store.read_bytes() == old and list(store.parent.iterdir()) == [store]


KILLED = """
import os, signal, sys
import numpy as np
from ohem_d2.proposals import write_proposals
from ohem_d2.utils import files
when, path = sys.argv[1:]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def boxes():
    yield "a", (np.ones((5, 4)), np.ones(5))
    kill()
class Content(dict):
    def items(self):
        return boxes() if when == "adding" else [("a", (np.ones((5, 4)), np.ones(5)))]
if when != "adding":
    setattr(files.os, when, kill)
write_proposals(path, Content())
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["adding", "fsync", "replace"])
@pytest.mark.parametrize("old", [True, False])
def test_a_kill_leaves_the_old_file_or_none(store, when, old):
    content = store.read_bytes()
    if not old:
        store.unlink()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, when, str(store)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (store.read_bytes() == content) if old else not store.exists()


def rewrite(store, changes, metadata=None):
    """The store with other tensors or metadata, written by the library."""
    tensors = {**load_file(store), **changes}
    metadata = {**read_proposals(store).metadata, **(metadata or {})}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, store, metadata)


OFFSETS, NAN = np.array([0, 3, 3, 4]), np.float32("nan")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offsets": OFFSETS + 1}, "offsets of the images do not fit the 4 boxes"),
        ({"offsets": OFFSETS[[0, 2, 1, 3]] * 2}, "offsets of the images do not fit"),
        ({"offsets": np.array([0, 4, 3, 4])}, "offsets of the images do not fit"),
        ({"offsets": OFFSETS[1:]}, "tables of images and ids differ in length"),
        ({"offsets": OFFSETS.astype(np.int32)}, "its tensors are"),
        ({"boxes": np.zeros((4, 5), np.float32)}, "its tensors are"),
        ({"boxes": np.zeros((3, 4), np.float32)}, "3 boxes but 4 scores"),
        ({"scores": None}, "its tensors are"),
        ({"id_offsets": np.array([0, 6, 8, 9])}, "offsets of the image ids do not fit"),
        ({"id_rows": np.array([0, 1, 3])}, "table of image ids is damaged"),
        ({"id_rows": np.array([0, 1, -1])}, "table of image ids is damaged"),
        ({"ids": np.full(10, 255, np.uint8)}, "not UTF-8"),
    ],
)
def test_tables_that_do_not_fit_are_found_on_opening(store, refused, changes, message):
    rewrite(store, changes)
    refused(store, message)


def test_a_damaged_hash_is_no_silent_miss(store):
    rewrite(store, {"id_hashes": np.array([0, 0, 0])})
    with pytest.raises(ValueError, match="p.safetensors: the table of image ids is damaged"):
        assert "000001" in read_proposals(store)


def test_ids_twice_are_found_on_opening(store, refused):
    index = IdIndex.build(["a", "a"])
    text, offsets, hashes, rows = index.text, index.offsets, index.hashes, index.rows
    rewrite(
        store,
        {
            "ids": text,
            "id_offsets": offsets,
            "id_hashes": hashes,
            "id_rows": rows,
            "offsets": OFFSETS[1:] - 3,
        },
    )
    refused(store, "do not fit|image id 'a' comes more than once")
    rewrite_offsets = np.array([0, 3, 4])
    save_file({**load_file(store), "offsets": rewrite_offsets}, store, metadata_of(store))
    refused(store, "image id 'a' comes more than once")


def metadata_of(path):
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.array([[0, 0, 1, 1], [NAN, 0, 2, 2]] * 2, np.float32)},
        {"boxes": np.array([[0, 0, 1, 1], [0, 0, np.inf, 2]] * 2, np.float32)},
        {"boxes": np.array([[0, 0, 1, 1], [3, 0, 2, 2]] * 2, np.float32)},
        {"boxes": np.array([[0, 0, 1, 1], [0, 3, 2, 2]] * 2, np.float32)},
        {"scores": np.array([1, 2, 0, 0], np.float32)},
        {"scores": np.array([1, NAN, 0, 0], np.float32)},
        {"scores": np.array([np.inf, 1, 0, 0], np.float32)},
        {"scores": np.array([2, 1, -np.inf, 0], np.float32)},
    ],
)
def test_damaged_boxes_are_found_on_access_with_their_image(store, changes):
    rewrite(store, changes)
    proposals = read_proposals(store)
    with pytest.raises(ValueError, match=r"p.safetensors, image 000001: the file is damaged"):
        proposals["000001"]


def test_a_single_score_that_is_no_number_is_found(store):
    rewrite(store, {"scores": np.array([3, 2, 1, NAN], np.float32)})
    with pytest.raises(ValueError, match="image ü: the file is damaged"):
        read_proposals(store)["ü"]


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"version": "2"}, "version 2"),
        ({"box_convention": "XYWH"}, "XYWH"),
        ({"format": "x"}, "not of proposals"),
    ],
)
def test_another_format_or_version_is_said(store, refused, metadata, message):
    rewrite(store, {}, metadata)
    refused(store, message)


def test_weights_are_no_proposals(tmp_path, refused):
    save_file({"fc.weight": BOXES}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "not of proposals: its tensors are .'fc.weight'.")


def test_trailing_and_missing_bytes_are_found(store, refused):
    content = store.read_bytes()
    for damaged in (content + b"x", content[:-1], content[:1200], content[:100], content[:9]):
        store.write_bytes(damaged)
        refused(store)


def test_the_writer_takes_images_one_by_one(tmp_path):
    with ProposalWriter(tmp_path / "new" / "p", {"method": "x"}) as writer:
        writer.add("a", BOXES, [1, 2, 3])
        assert "a" in writer and "b" not in writer and not (tmp_path / "new" / "p").exists()
    assert read_proposals(tmp_path / "new" / "p").counts.tolist() == [3]
    assert os.listdir(tmp_path / "new") == ["p"]
