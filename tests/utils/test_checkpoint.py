"""Loading of weights."""

import io
import logging
import os
import pickle
import re
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from ohem_d2.modeling.backbones.weights import CAFFE_INPUT, save_checkpoint
from ohem_d2.utils.checkpoint import CheckedCheckpointer, ImageInput, load_trained
from ohem_d2.utils.weights_files import read_weights


class Model(nn.Module):
    def __init__(self, image_input=CAFFE_INPUT):
        super().__init__()
        self.backbone, self.new = nn.Linear(2, 2), nn.Linear(2, 1)
        self.input_format = image_input.format
        self.register_buffer("pixel_mean", torch.tensor(image_input.pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(image_input.pixel_std).view(-1, 1, 1), False)


@pytest.fixture
def warnings(caplog):
    """The warnings that a load logs; the loggers of Detectron2 may not propagate."""
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(caplog.handler)
    yield lambda: "\n".join(
        dict.fromkeys(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)
    )
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(
    "keys, told",
    [
        (None, "MODEL.WEIGHTS is empty"),
        (["backbone__weight"], "MODEL.WEIGHTS .*a.pth lacks 3 parameters of the model: .*new.weight"),
    ],
)
def test_weights_that_stay_random_are_an_error_unless_they_may(tmp_path, warnings, keys, told):
    path = "" if keys is None else write(tmp_path / "a.pth", **dict.fromkeys(keys, (2, 2)))
    load_trained(Model(), path, "MODEL.WEIGHTS", str(tmp_path), may_be_random=True)
    assert re.search(f"{told}.*; they are random, the model is not trained", warnings())
    with pytest.raises(ValueError, match=f"^{told}.*; give (weights that were|the file of the) trained"):
        load_trained(Model(), path, "MODEL.WEIGHTS", str(tmp_path))


@pytest.mark.parametrize("resume", [True, False])
def test_a_trained_model_loads_without_a_warning(tmp_path, warnings, resume):
    trained, model = Model(), Model()
    CheckedCheckpointer(trained, str(tmp_path)).save("model_final")
    path = "" if resume else str(tmp_path / "model_final.pth")
    load_trained(model, path, "MODEL.WEIGHTS", str(tmp_path), resume)
    assert torch.equal(model.new.weight, trained.new.weight) and not warnings()


def write(path, image_input=CAFFE_INPUT, **state):
    save_checkpoint(
        str(path), {k.replace("__", "."): torch.full(v, 7.0) for k, v in state.items()}, image_input, "test"
    )
    return str(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_every_missing_unexpected_and_misshapen_key_is_reported(tmp_path, warnings, suffix):
    model = Model()
    path = write(
        tmp_path / f"a.{suffix}", backbone__weight=(2, 2), new__weight=(3, 2), fc8__weight=(1,), extra=(1,)
    )
    CheckedCheckpointer(model).load(path)
    assert (model.backbone.weight == 7).all() and not (model.new.weight == 7).any()
    text = warnings()
    assert "'new.weight'" in text and "(3, 2) in the checkpoint but (1, 2)" in text
    missing, unexpected = text.split("not used by the model")
    assert "backbone.bias" in missing and "new.{bias, weight}" in missing.replace("\x1b[34m", "").replace(
        "\x1b[0m", ""
    )
    assert "fc8.weight" in unexpected and "extra" in unexpected


def test_a_complete_checkpoint_is_loaded_without_a_warning(tmp_path, warnings):
    path = write(
        tmp_path / "a.pth", backbone__weight=(2, 2), backbone__bias=(2,), new__weight=(1, 2), new__bias=(1,)
    )
    CheckedCheckpointer(Model()).load(path)
    assert warnings() == ""


@pytest.mark.parametrize(
    "state", [{"conv__weight": (2, 2), "conv__bias": (2,)}, {"backbone__weight": (3, 3), "new__bias": (4,)}]
)
def test_a_checkpoint_of_which_nothing_fits_is_an_error(tmp_path, state):
    path = write(tmp_path / "a.pth", **state)
    with pytest.raises(
        ValueError, match="a.pth fit no parameter of the model: they have .*; the model has backbone.weight, "
    ):
        CheckedCheckpointer(Model()).load(path)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
@pytest.mark.parametrize(
    "image_input",
    [
        CAFFE_INPUT.to("RGB"),
        ImageInput("RGB", CAFFE_INPUT.pixel_mean, CAFFE_INPUT.pixel_std),
        ImageInput("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        ImageInput("BGR", CAFFE_INPUT.pixel_mean, (57.375, 57.12, 58.395)),
    ],
)
def test_weights_for_other_images_are_an_error_that_says_what_to_set(tmp_path, image_input, suffix):
    path = write(tmp_path / f"a.{suffix}", image_input, backbone__weight=(2, 2))
    with pytest.raises(ValueError) as error:
        CheckedCheckpointer(Model()).load(path)
    has = "INPUT.FORMAT BGR MODEL.PIXEL_MEAN [102.9801,115.9465,122.7717] MODEL.PIXEL_STD [1.0,1.0,1.0]"
    assert (
        str(error.value) == f"{path} is for images of another kind: the config has {has}; set {image_input}"
    )
    CheckedCheckpointer(Model(image_input)).load(path)


def test_weights_that_do_not_say_for_which_images_are_taken(tmp_path):
    torch.save({"model": {"backbone.weight": torch.full((2, 2), 7.0)}}, tmp_path / "a.pth")
    model = Model()
    CheckedCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert (model.backbone.weight == 7).all()


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    write(path, backbone__weight=(2, 2))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{name} cannot be read: "):
        CheckedCheckpointer(Model()).load(str(path))


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth do not exist; tools/convert_weights.py makes"):
        CheckedCheckpointer(Model()).load(str(tmp_path / "none.pth"))


def test_no_file_is_no_error():
    assert CheckedCheckpointer(Model()).load("") == {}


def test_a_model_zoo_file_is_matched_by_name_as_ever(tmp_path):
    with open(tmp_path / "R-50.pkl", "wb") as file:
        state = {"weight": torch.full((2, 2), 7.0).numpy()}
        pickle.dump({"model": state, "__author__": "zoo", "matching_heuristics": True}, file)
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2)})
    CheckedCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    assert (model["backbone"].weight == 7).all()


class Runs:
    """Pickled as a call that creates the folder "ran"."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def pickled(value, path):
    path.write_bytes(pickle.dumps(value, 4))


def saved(value, path):
    torch.save(value, path)


def saved_in_the_old_format(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "name, write_file",
    [
        ("a.pkl", pickled),
        ("a.pth", saved),
        ("a.pth", saved_in_the_old_format),
        ("a.pth", pickled),
        ("a.pyth", saved),
        ("last", saved),
    ],
)
def test_weights_that_would_run_code_are_refused_before_they_do(tmp_path, monkeypatch, name, write_file):
    monkeypatch.chdir(tmp_path)
    write_file({"model": {"backbone.weight": Runs()}, "model_state": {}, "__author__": "x"}, tmp_path / name)
    (tmp_path / "last_checkpoint").write_text(name)
    with pytest.raises(ValueError, match=f"^weights {tmp_path / name} cannot be read: ") as caught:
        CheckedCheckpointer(Model()).load(str(tmp_path / name))
    with pytest.raises(ValueError, match="cannot be read|no checkpoint to resume from") as resumed:
        CheckedCheckpointer(Model(), str(tmp_path)).resume_or_load("other.pth")
    for text in (str(caught.value), str(resumed.value)):
        assert "\n" not in text and "weights_only" not in text and "safe_globals" not in text
    if write_file is not pickled or name == "a.pkl":
        assert "it holds posix.mkdir; only " in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_weights_of_third_party_scripts_are_read(tmp_path):
    """A state dict of torch tensors and parameters, pickled as it is."""
    model = nn.Linear(3, 2)
    state = model.state_dict()
    state["weight"] = nn.Parameter(torch.arange(6.0).reshape(3, 2).t())
    pickled({"model": state, "__author__": "third party", "matching_heuristics": True}, tmp_path / "a.pkl")
    CheckedCheckpointer(model).load(str(tmp_path / "a.pkl"))
    assert model.weight.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_blobs_of_caffe2_lose_their_momentum_and_are_matched_by_name(tmp_path):
    blobs = {"conv1_w": np.full((1, 1, 1, 1), 7, np.float32), "conv1_w_momentum": np.zeros(1)}
    for content in (blobs, {"blobs": blobs, "cfg": "text"}):
        pickled(content, tmp_path / "a.pkl")
        found = read_weights(str(tmp_path / "a.pkl"))
        assert found["__author__"] == "Caffe2" and found["matching_heuristics"]
        assert list(found["model"]) == ["conv1_w"]


def test_tensors_do_not_reach_beyond_their_storage(tmp_path):
    class Beyond:
        def __reduce__(self):
            storage = torch.storage.TypedStorage(4)
            return torch._utils._rebuild_tensor_v2, (storage, 0, (10**9,), (1,), False, OrderedDict())

    pickled({"model": {"w": Beyond()}, "__author__": "x"}, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="out of bounds for storage"):
        read_weights(str(tmp_path / "a.pkl"))


def rewritten(path, change):
    """A file of torch with another data.pkl."""
    buffer = io.BytesIO()
    torch.save({"model": {}}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(
                entry.filename, *change(content) if entry.filename.endswith("data.pkl") else [content]
            )


def _pickled_storage(size):
    """("storage", FloatStorage, "0", "cpu", size) as a persistent object."""
    kind = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    return kind + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + size + b"tQ"


HUGE = b"\x8a\x05\x00\x00\x00\x00\x01"  # 2**32
STORAGE = b"\x80\x02" + _pickled_storage(HUGE) + b"."
_VIEWED = b"(" + _pickled_storage(b"K\x01") + b"K\x00" + HUGE + b"\x85K\x01\x85\x89NtR."
VIEW = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + _VIEWED
ZEROS = b"\x80\x02c__builtin__\nbytearray\n" + HUGE + b"\x85R."
NESTED = b"\x80\x02}N" + b"\x85" * 300_000 + b"K\x01s."


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: [NESTED], "tuples are nested more than 100 deep"),
        (lambda _: [STORAGE], "a storage of 4294967296 elements, in a file of"),
        (lambda _: [VIEW], "a tensor of 4294967296 elements, in a storage of 1"),
        (lambda _: [ZEROS], "bytearray of 4294967296 elements, in a file of"),
        (lambda content: [content, zipfile.ZIP_DEFLATED], "data.pkl is compressed, as torch never does"),
    ],
)
def test_a_file_of_torch_that_would_end_the_process_is_refused(tmp_path, change, message):
    rewritten(tmp_path / "a.pth", change)
    with pytest.raises(ValueError, match=message):
        CheckedCheckpointer(Model()).load(str(tmp_path / "a.pth"))
    rewritten(tmp_path / "a.pth", lambda content: [content])
    assert read_weights(str(tmp_path / "a.pth")) == {"model": {}}


@pytest.mark.parametrize("content", [5, [1], {"model": 5, "model_state": 5, "blobs": 5}, {1: 2}])
@pytest.mark.parametrize("name, write_file", [("a.pkl", pickled), ("a.pth", saved), ("a.pyth", saved)])
def test_a_file_of_something_else_is_named(tmp_path, name, write_file, content):
    write_file(content, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} cannot be read: it holds no state dict"):
        CheckedCheckpointer(Model()).load(str(tmp_path / name))


def test_a_checkpoint_with_the_state_of_a_training_is_read(tmp_path):
    """Of an optimizer with momentum, a schedule, a gradient scaler and random numbers."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.backbone(torch.ones(2)).sum().backward()
    optimizer.step()
    parts = {"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 5)}
    CheckedCheckpointer(model, str(tmp_path), **parts).save("a", iteration=3, rng=torch.get_rng_state())
    assert CheckedCheckpointer(Model(), str(tmp_path), **parts).resume_or_load("")["iteration"] == 3
