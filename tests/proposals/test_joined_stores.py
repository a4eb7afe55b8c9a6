import json
import multiprocessing
import pickle

import numpy as np
import pytest

from ohem_d2.proposals import joined_stores, proposal_recall, read_proposals, write_proposals
from ohem_d2.proposals.inspection import inspect_proposals

# Images without boxes at the borders of files, and a file without images.
CONTENTS = ({"a": 2, "b": 0}, {}, {"c": 0}, {"ü": 3, "d": 1})
COUNTS = {image_id: count for content in CONTENTS for image_id, count in content.items()}


def entry(image_id, count):
    """Boxes that tell their image."""
    return [[0, 0, k + 1, ord(image_id)] for k in range(count)], -np.arange(count)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"s-{i}.safetensors" for i in range(len(CONTENTS))]
    for number, (path, content) in enumerate(zip(paths, CONTENTS)):
        metadata = {"method": "mine", "number": number}
        write_proposals(path, {i: entry(i, count) for i, count in content.items()}, metadata)
    return paths


@pytest.fixture(params=["pattern", "list", "patterns"])
def joined(request, files, tmp_path):
    paths = {
        "pattern": tmp_path / "s-*.safetensors",
        "list": files,
        "patterns": [str(files[0]), str(tmp_path / "*-1.*"), tmp_path / "?-2*", files[3]],
    }
    return read_proposals(paths[request.param])


def test_several_files_are_read_as_one(joined):
    assert list(joined) == list(COUNTS) and len(joined) == 5 and joined.num_boxes == 6
    assert joined.counts.tolist() == list(COUNTS.values())
    for image_id, count in COUNTS.items():
        boxes, scores = entry(image_id, count)
        assert joined[image_id][0].tolist() == boxes and joined[image_id][1].tolist() == scores.tolist()
        assert joined.count(image_id) == count and image_id in joined
    assert "e" not in joined and joined.count("e") == 0 and joined.get("e") is None
    with pytest.raises(KeyError, match="e"):
        joined["e"]


def test_boxes_are_views_of_the_mapped_files_and_metadata_those_of_all(joined):
    boxes, _ = joined["a"]
    assert not boxes.flags.owndata and not boxes.flags.writeable
    assert joined.metadata["method"] == "mine" and "number" not in joined.metadata


def test_an_image_in_two_files_is_an_error_that_names_them(files, tmp_path):
    write_proposals(files[2], {"a": entry("a", 1), "c": entry("c", 1)})  # the first after a border
    with pytest.raises(ValueError, match=f"^image a is in {files[0]} and in {files[2]}$"):
        read_proposals(tmp_path / "s-*")


def test_a_pickle_holds_the_paths_and_refuses_a_file_that_changed(files, joined):
    data = pickle.dumps(joined)
    assert str(files[0]).encode() in data and joined["ü"][0].tobytes() not in data
    assert pickle.loads(data)["ü"][1].tolist() == joined["ü"][1].tolist()
    write_proposals(files[3], {"ü": entry("ü", 1)})
    with pytest.raises(ValueError, match="s-3.safetensors has changed since it was opened"):
        pickle.loads(data)


def test_another_process_reads_them(joined):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(joined.__getitem__, ("d",))[1].tolist() == [0]


def test_only_the_last_files_used_stay_open(tmp_path, mapped, monkeypatch):
    monkeypatch.setattr(joined_stores, "_MAX_OPEN", 3)
    for i in range(20):
        write_proposals(tmp_path / f"s-{i:02}", {str(i): ([[0, 0, 1, i]], [1])})
    proposals = read_proposals(tmp_path / "s-*")
    for i in np.random.default_rng(0).permutation(np.repeat(range(20), 5)):
        assert proposals[str(i)][0].tolist() == [[0, 0, 1, i]]
    assert mapped() == 4  # one more while the oldest is given up


def test_of_several_files_each_is_a_store(files, tmp_path):
    (tmp_path / "s-4.json").write_text(json.dumps([{"image_id": 7, "bbox": [0, 0, 1, 1], "score": 1}]))
    with pytest.raises(ValueError, match="s-4.json: of several proposal files each must be a store"):
        read_proposals(tmp_path / "s-*")


def test_a_pattern_without_a_file_and_an_empty_list_are_one_line(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^no proposal file matches {tmp_path}/t-\\*$"):
        read_proposals(tmp_path / "t-*")
    with pytest.raises(FileNotFoundError, match=r"^no proposal file matches .*t-\?$"):
        read_proposals([files[0], tmp_path / "t-?"])
    with pytest.raises(
        FileNotFoundError, match="^proposal file none does not exist; datasets/prepare_proposals.py"
    ):
        read_proposals([files[0], "none"])
    with pytest.raises(ValueError, match="empty list"):
        read_proposals([])


def test_brackets_are_no_pattern_and_a_file_named_like_one_is_that_file(files, tmp_path):
    (tmp_path / "[s]").mkdir()
    for path in files:
        path.rename(tmp_path / "[s]" / path.name)
    assert list(read_proposals(tmp_path / "[s]/s-*.safetensors")) == list(COUNTS)
    write_proposals(tmp_path / "[s]/s-*.safetensors", {"only": entry("a", 1)})
    assert list(read_proposals(tmp_path / "[s]/s-*.safetensors")) == ["only"]


def test_inspection_and_recall_take_several_files(joined):
    record = {"image_id": "a", "annotations": [{"bbox": [0, 0, 2, ord("a")], "bbox_mode": 0}]}
    assert proposal_recall([record], joined, 0.9) == 1
    inspection = inspect_proposals("joined", joined)
    assert inspection.counts.tolist() == list(COUNTS.values()) and inspection.empty == ["b", "c"]
