"""Reading Caffe's weight files."""

import builtins
import io
import zipfile

import numpy as np
import pytest

from ohem_d2.modeling.backbones.caffe import read_caffemodel, read_npz

from .caffe_files import net_parameter, write_caffemodel

RNG = np.random.default_rng(0)
BLOBS = {
    "conv1": [RNG.normal(size=(4, 3, 5, 5)).astype(np.float32), RNG.normal(size=4).astype(np.float32)],
    "fc6": [RNG.normal(size=(6, 8)).astype(np.float32), RNG.normal(size=6).astype(np.float32)],
}


@pytest.mark.parametrize("double", [False, True], ids=["float", "double"])
@pytest.mark.parametrize("kind", ["v0", "v1", "new"])
def test_every_version_of_caffe_is_read_to_the_bit(tmp_path, kind, double):
    blobs = read_caffemodel(str(write_caffemodel(tmp_path / "a.caffemodel", BLOBS, kind, double)))
    assert list(blobs) == ["conv1", "fc6"]  # not "data", which has no weights
    for name, arrays in BLOBS.items():
        for found, array in zip(blobs[name], arrays, strict=True):
            assert found.dtype == np.float32
            assert found.shape == (array.shape if kind == "new" else (1,) * (4 - array.ndim) + array.shape)
            assert np.array_equal(found.ravel(), array.ravel())


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_file_is_an_error(tmp_path, keep):
    path = write_caffemodel(tmp_path / "a.caffemodel", BLOBS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="a.caffemodel is no .caffemodel, or is truncated"):
        read_caffemodel(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"PK\x03\x04" + bytes(100), b"layer { name: 'conv1' }"]
)
def test_another_file_is_an_error(tmp_path, content):
    (tmp_path / "a.caffemodel").write_bytes(content)
    with pytest.raises(ValueError, match="a.caffemodel is no .caffemodel, or"):
        read_caffemodel(str(tmp_path / "a.caffemodel"))


def test_a_blob_whose_numbers_do_not_fill_its_shape_is_named(tmp_path):
    net = net_parameter()
    net.layer.add(name="conv1").blobs.add(data=[1.0, 2.0, 3.0]).shape.dim.extend([2, 2])
    (tmp_path / "a.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ValueError, match=r"layer 'conv1' has a blob of shape \(2, 2\) with 3 values"):
        read_caffemodel(str(tmp_path / "a.caffemodel"))


def test_a_file_that_does_not_exist_is_an_error(tmp_path):
    for read in read_caffemodel, read_npz:
        with pytest.raises(FileNotFoundError, match="none"):
            read(str(tmp_path / "none.npz"))


def test_without_protobuf_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("google.protobuf"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "ohem_d2\[caffe\]"'):
        read_caffemodel("a.caffemodel")


def test_blobs_in_npz_are_read(tmp_path):
    np.savez(
        tmp_path / "a.npz",
        **{f"{name}.{i}": a for name, arrays in BLOBS.items() for i, a in enumerate(arrays)},
    )
    blobs = read_npz(str(tmp_path / "a.npz"))
    assert {k: len(v) for k, v in blobs.items()} == {"conv1": 2, "fc6": 2}
    assert all(np.array_equal(a, b) for name in BLOBS for a, b in zip(blobs[name], BLOBS[name]))


@pytest.mark.parametrize("names", [["conv1_W"], ["conv1.1"], ["conv1.0", "conv1.2"], ["0"]])
def test_other_names_in_npz_are_an_error(tmp_path, names):
    np.savez(tmp_path / "a.npz", **{name: np.zeros(1) for name in names})
    with pytest.raises(ValueError, match=rf"a.npz is no .npz of blobs: it has '{names[-1]}'; valid: LAYER.0"):
        read_npz(str(tmp_path / "a.npz"))


def test_what_is_no_npz_is_an_error(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ValueError, match="a.npz: not an npz file"):
        read_npz(str(tmp_path / "a.npz"))
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(ValueError, match="b.npy: not an npz file"):
        read_npz(str(tmp_path / "b.npy"))


@pytest.mark.parametrize("dims", [[-1, -3], [0, 2**62], [2**40]])
def test_impossible_shapes_are_refused(tmp_path, dims):
    net = net_parameter()
    net.layer.add(name="conv1").blobs.add(data=[1.0, 2.0, 3.0]).shape.dim.extend(dims)
    (tmp_path / "a.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(ValueError, match="a.caffemodel .*layer 'conv1' has a blob of shape"):
        read_caffemodel(str(tmp_path / "a.caffemodel"))


def test_an_array_of_a_huge_claimed_shape_is_not_allocated(tmp_path):
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("conv1.0.npy", array.getvalue())
    with pytest.raises(ValueError, match=r"a.npz: array 'conv1.0.npy' is damaged"):
        read_npz(str(tmp_path / "a.npz"))


def test_an_array_of_many_packed_zeros_is_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{"conv1.0": np.zeros(2**25, np.float32)})
    with pytest.raises(ValueError, match="would unpack to .*: refused"):
        read_npz(str(tmp_path / "a.npz"))
