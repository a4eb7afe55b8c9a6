"""Loading of weights."""

import logging
import pickle

import pytest
import torch
from torch import nn

from ohem_d2.modeling.backbones.weights import CAFFE_INPUT, save_checkpoint
from ohem_d2.utils.checkpoint import CheckedCheckpointer, ImageInput


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
