import gc
import json
import random
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohem_d2.proposals import read_proposals
from ohem_d2.proposals.conventions import CONVENTIONS, get_convention
from ohem_d2.proposals.formats.mat5 import read_mat5

from .conftest import CORNERS, KINDS, NUMBERS, cells, write_h5

scipy_io = pytest.importorskip("scipy.io", reason="needs SciPy, which writes MATLAB files")
loadmat, savemat = scipy_io.loadmat, scipy_io.savemat


@pytest.mark.parametrize("name", CONVENTIONS)
def test_numbers_of_each_convention_are_the_same_corners(name):
    assert get_convention(name).to_corners(NUMBERS[name]).tolist() == CORNERS.tolist()


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16])
def test_narrow_integers_do_not_wrap(dtype):
    top = np.iinfo(dtype).max
    boxes = get_convention("xywh1").to_corners(np.array([[0, 0, top, top]], dtype))
    assert boxes.tolist() == [[-1, -1, top - 1, top - 1]]
    assert get_convention("xyxy0-inclusive").to_corners(np.array([[0, 0, top, top]], dtype))[0, 2] == top + 1


def test_an_unknown_convention_lists_the_known():
    with pytest.raises(ValueError, match="'xyxy' is not known; choose from xyxy0, xyxy0-inclusive, xyxy1"):
        get_convention("xyxy")


def test_every_format_gives_the_same_proposals(any_file):
    proposals = read_proposals(any_file)
    boxes, scores = proposals["7"]
    assert boxes.tolist() == CORNERS.tolist()
    assert scores.tolist() == ([0, 0] if any_file.suffix == ".mat" else [2, 1])  # Fast R-CNN has no scores
    assert list(proposals) == (["7"] if any_file.suffix == ".json" else ["7", "8"])


@pytest.mark.parametrize("scores, convention", [(False, "xyxy0-inclusive"), (True, "yxyx1-inclusive")])
def test_a_folder_of_files_per_image(tmp_path, scores, convention):
    for name in ("000004_boxes.mat", "sub/COCO_9.mat"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        content = {"boxes": np.array(NUMBERS[convention], np.uint16), "other": {"a": 1}}
        savemat(tmp_path / name, {**content, "scores": np.array([[1.0], [2.0]])} if scores else content)
    proposals = read_proposals(tmp_path)
    assert list(proposals) == ["000004", "COCO_9"]
    assert proposals["COCO_9"][0].tolist() == (CORNERS[::-1] if scores else CORNERS).tolist()
    savemat(tmp_path / "z.mat", {"boxes": np.zeros((1, 4)), **({} if scores else {"scores": 1})})
    with pytest.raises(ValueError, match=r"z.mat: of another kind than .*000004_boxes.mat"):
        read_proposals(tmp_path)


DTYPES = ("u1", "i2", "u2", "i4", "f4", "f8", "u4", "i8")


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(DTYPES), st.text("ab.é", max_size=6)), max_size=4),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_matlab_files_read_as_scipy_reads_them(tmp_path_factory, rows, compress):
    path = tmp_path_factory.mktemp("m") / "p.mat"
    arrays = [np.arange(4 * n, dtype=d).reshape(n, 4) for n, d, _ in rows]
    savemat(path, {"boxes": cells(arrays), "images": cells([t for *_, t in rows])}, do_compression=compress)
    ours, theirs = read_mat5(path, ("boxes", "images")), loadmat(path)
    for key in ("boxes", "images"):
        expected = theirs[key].ravel()
        assert len(ours[key]) == len(expected)
        for a, b in zip(ours[key], expected):
            assert (a == (str(b[0]) if b.size else "")) if isinstance(a, str) else np.array_equal(a, b)


def test_empty_files_and_files_of_nothing_known(tmp_path, refused):
    for suffix in (".safetensors", ".pkl", ".mat", ".npz", ".json", ""):
        for content in (b"", b"\0" * 600, b"no proposals"):
            (tmp_path / f"p{suffix}").write_bytes(content)
            refused(tmp_path / f"p{suffix}")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "neither a store nor one of matlab, npz, coco, detectron2, mmdetection")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "it holds no list"),
        ('[{"image_id": 1}]', r"entry 0: needs image_id, bbox and score"),
        ('[{"image_id": 1, "bbox": [1, 2, 3], "score": 1}]', "entry 0: bbox must be four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, null], "score": 1}]', "entry 0: bbox must be four numbers"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": true}]', "entry 0: bbox must be four numbers"),
        ('[{"image_id": [1], "bbox": [1, 2, 3, 4], "score": 1}]', "entry 0: image_id must be"),
        ('[{"image_id": 1.0, "bbox": [1, 2, 3, 4], "score": 1}]', "entry 0: image_id must be"),
        ('[{"image_id": 1, "bbox": [1, 2, -3, 4], "score": 1}]', "image 1: box 0 has x1 > x2"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 1e999], "score": 1}]', "COCO|finite"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "not a COCO results file"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 1' + "0" * 400 + '], "score": 1}]', "too large|COCO|finite"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "sco', "not a COCO results file"),
        ("[" * 100000, "nests more than 100 deep"),
    ],
)
def test_bad_json_is_one_line_with_the_entry(tmp_path, refused, text, message):
    (tmp_path / "p.json").write_text(text)
    refused(tmp_path / "p.json", message)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"boxes": cells([np.zeros((1, 4))])}, "'images' is no cell array of names"),
        ({"boxes": cells([np.zeros((1, 4))]), "images": cells([1.0])}, "'images' is no cell array of names"),
        ({"boxes": cells([np.zeros((1, 4))]), "images": cells(["a", "b"])}, "2 images but boxes of 1"),
        ({"boxes": cells([np.zeros((2, 5))]), "images": cells(["a"])}, r"image a: boxes must have shape"),
        ({"boxes": cells([[[5, 0, 0, 0]]]), "images": cells(["a"])}, "image a: box 0 has x1 > x2 or y1 > y2"),
        ({"boxes": cells([cells([1])]), "images": cells(["a"])}, "boxes: an array of class 1"),
        ({"boxes": {"field": 1}}, "boxes: an array of class 2"),
        ({"x": 1}, "no variable 'boxes'"),
        ({"boxes": np.zeros((3, 5))}, r"image p: boxes must have shape \(n, 4\), not \(3, 5\)"),
        ({"boxes": np.zeros((3, 4)), "scores": np.zeros(2)}, "3 boxes but scores of shape"),
        ({"boxes": np.array([[0, 0, -32768, 5]], np.int16)}, "image p: box 0 has x1 > x2"),
        ({"boxes": np.array([[0, 0, np.inf, 5]])}, "image p: box 0 is not finite"),
    ],
)
def test_matlab_files_with_wrong_shapes_are_refused(tmp_path, refused, content, message):
    savemat(tmp_path / "p.mat", content)
    refused(tmp_path / "p.mat", message)


def test_hdf5_that_is_linked_elsewhere_or_of_groups_is_refused(tmp_path, refused):
    h5py = pytest.importorskip("h5py")
    write_h5(tmp_path / "other.h5", ["a"], [CORNERS])
    with h5py.File(tmp_path / "p.mat", "w") as file:
        file["boxes"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "boxes")
    refused(tmp_path / "p.mat", "boxes: not an array in this file")
    with h5py.File(tmp_path / "p.mat", "w") as file:
        file.create_group("boxes")
    refused(tmp_path / "p.mat", "boxes: not an array in this file")


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"offsets": [0, 1, 3]}, "offsets do not divide 2 boxes among 2 ids"),
        ({"offsets": [0, 3, 2]}, "offsets do not divide"),
        ({"offsets": [0.0, 1, 2]}, "offsets do not divide"),
        ({"offsets": [0, 2]}, "offsets do not divide"),
        ({"ids": ["7", "7"]}, "image id '7' comes more than once"),
        ({"ids": [1.5, 2]}, "an image id is a string or an integer"),
        ({"scores": [1.0]}, "do not fit"),
        ({"scores": [1.0, np.nan]}, "image 7: score 1 is not finite"),
        ({"boxes": np.zeros((2, 5))}, "image 7: boxes must have shape"),
        ({"ids": np.array(["7", {}], object)}, "'ids.npy' is damaged: it holds object"),
        ({"ids": np.array([55, 0x110000], "u4").view("U1")}, "'ids.npy' is damaged: its text is no Unicode"),
    ],
)
def test_npz_tables_that_do_not_fit_are_refused(tmp_path, refused, tables, message):
    plain = {"ids": ["7", "8"], "boxes": CORNERS, "scores": [2.0, 1.0], "offsets": [0, 2, 2]}
    np.savez(tmp_path / "p.npz", **{**plain, **tables})
    refused(tmp_path / "p.npz", message)


def bomb(path):
    """A small file of the format of ``path`` that unpacks to 128 MiB of zeros."""
    zeros = b"\0" * 2**20
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"shape": (2**23, 4), "fortran_order": False, "descr": "<f4"}
            )
            for _ in range(128):
                file.write(zeros)
    elif path.suffix == ".mat":
        packer = zlib.compressobj()
        packed = b"".join(packer.compress(zeros) for _ in range(128)) + packer.flush()
        head = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
        path.write_bytes(head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("boxes", (2**23, 4), "f4", chunks=(2**16, 4), compression="gzip")


@pytest.mark.parametrize("name", ["bomb.npz", "bomb.mat", "bomb.h5"])
def test_a_bomb_is_refused_before_it_unpacks(tmp_path, refused, name):
    path = tmp_path / name
    bomb(path)
    assert path.stat().st_size < 2**21
    tracemalloc.start()
    try:
        refused(path, "would unpack to .* bytes or more, from a file of .*: refused")
        assert tracemalloc.get_traced_memory()[1] < 2**26 + 4 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_cells_that_a_file_only_claims_take_no_memory(tmp_path, refused):
    savemat(tmp_path / "p.mat", {"boxes": cells([np.zeros((1, 4))]), "images": cells(["a"])})
    content = (tmp_path / "p.mat").read_bytes()
    one = b"\5\0\0\0\x08\0\0\0\1\0\0\0\1\0\0\0"  # dimensions 1 x 1
    (tmp_path / "p.mat").write_bytes(content.replace(one, one[:8] + b"\xff\xff\xff\x7f" * 2, 1))
    refused(tmp_path / "p.mat", "1 cells for shape .2147483647, 2147483647.")


def test_a_missing_library_names_the_extra(written, monkeypatch):
    for module, kind in (("h5py", "mat73.mat"), ("ijson", "coco.json")):
        path = written(kind)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf'needs {module}: pip install "ohem_d2\[proposals\]"$'):
            read_proposals(path)


def damaged(content, number, rng):
    """Truncations, flipped bits and overwritten runs."""
    if number % 3 == 0:
        return content[: rng.randrange(len(content))]
    content = bytearray(content)
    for _ in range(rng.choice([1, 2, 8])):
        place = rng.randrange(len(content))
        if number % 3 == 1:
            content[place] ^= 1 << rng.randrange(8)
        else:
            content[place : place + 4] = rng.choice(
                [b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0"]
            )
    return bytes(content)


def fuzz(path, rounds, seed=0):
    """Read damaged copies: each is read, with valid boxes, or refused by one line; bounded memory."""
    rng, content = random.Random(seed), path.read_bytes()
    refusals = 0
    for number in range(rounds):
        path.write_bytes(damaged(content, number, rng))
        try:
            for boxes, scores in read_proposals(path).values():
                assert (
                    np.isfinite(boxes).all()
                    and (boxes[:, :2] <= boxes[:, 2:]).all()
                    and len(boxes) == len(scores)
                )
        except ValueError as error:
            text = str(error)
            assert text.startswith(str(path)) and "\n" not in text and len(text) < 600, text
            refusals += 1
    gc.collect()
    return refusals


def resident(field):
    """Memory of this process in MiB: VmRSS now, VmHWM at most since its last reset."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def fuzz_with_bounded_memory(path, rounds, seed=0):
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    refusals = fuzz(path, rounds, seed)
    assert resident("VmHWM") - before < 100
    return refusals


def test_damaged_files_are_refused_or_valid(any_file):
    assert fuzz_with_bounded_memory(any_file, 60) >= 20  # a third is truncated


FUZZ = """
import sys
from tests.proposals.test_formats import Path, fuzz_with_bounded_memory
fuzz_with_bounded_memory(Path(sys.argv[1]), 1500, 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_do_not_crash_or_hang(written, kind):
    """In a process of its own: a crash of a library is a failure here, not the end of the tests."""
    command = [sys.executable, "-W", "ignore", "-c", FUZZ, str(written(kind))]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_json_is_grouped_by_image_in_any_order(tmp_path):
    items = [{"image_id": i % 3, "bbox": [i, 0, 1, 1], "score": i} for i in range(9)]
    (tmp_path / "p.json").write_text(json.dumps(items))
    proposals = read_proposals(tmp_path / "p.json")
    assert {i: boxes[:, 0].tolist() for i, (boxes, _) in proposals.items()} == {
        "0": [6, 3, 0],
        "1": [7, 4, 1],
        "2": [8, 5, 2],
    }
