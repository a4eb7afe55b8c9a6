"""Python configs: what is read, refused and built. They are trained in tests/test_end_to_end.py."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import get_event_storage

from ohem_d2 import OHEMOptions, OHEMROIHeads
from ohem_d2.engine import LazyTrainer, load_lazy_config

from ..builders import make_inputs

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "lazy"
TEXT = """
from detectron2.config import LazyCall as L
from ohem_d2 import OHEMOptions
model = L(OHEMOptions)(nms_thresh=0.5)
optimizer = dict(params=dict())
lr_multiplier = dict()
dataloader = dict(train=dict(), catalogs=[])
train = dict(output_dir="{out}", init_checkpoint="", max_iter=9, device="cuda", eval_period=0, log_period=1,
             checkpointer=dict(period=5), amp=dict(enabled=False), ddp=dict())
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(TEXT.format(out=tmp_path / "out"))
    return file


def test_overrides_are_applied_and_defaults_added(config, tmp_path, caplog):
    cfg = load_lazy_config(str(config), ["train.max_iter=7", "model.budget=batch", "+train.note=mine"])
    assert (cfg.train.max_iter, cfg.train.seed, cfg.train.note) == (7, -1, "mine")
    assert instantiate(cfg.model) == OHEMOptions(nms_thresh=0.5, budget="batch")
    assert cfg.train.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.cuda.is_available() or "train.device is 'cuda', but there is no CUDA device" in caplog.text
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    "opt, error, message",
    [
        (
            "train.max_iters=7",
            KeyError,
            "command line: unknown key train.max_iters; valid: output_dir, init_checkpoint, max_iter",
        ),
        ("trian.max_iter=7", KeyError, "command line: unknown key trian.max_iter: there is no section trian"),
        ("train.max_iter", ValueError, "'train.max_iter' has no value; valid with a .py config: KEY=VALUE"),
        ("train.max_iter=[7", ValueError, r"command line: 'train.max_iter=\[7': "),
        ("train.output_dir=/dev/null/out", OSError, "train.output_dir /dev/null/out cannot be written"),
        ("dataloader.catalogs=[none.yaml]", FileNotFoundError, "none.yaml"),
    ],
)
def test_a_bad_override_is_one_line(config, opt, error, message):
    with pytest.raises(error, match=message) as caught:
        load_lazy_config(str(config), [opt])
    assert "\n" not in str(caught.value)


def test_a_config_without_a_needed_key_names_it(config):
    config.write_text(config.read_text().replace("lr_multiplier", "lr_mult"))
    with pytest.raises(KeyError, match="config.py: there is no lr_multiplier; needed: model, optimizer"):
        load_lazy_config(str(config))


def test_a_config_file_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="config file none.py does not exist"):
        load_lazy_config("none.py")


def test_a_misspelt_argument_is_named_with_its_call(config):
    cfg = load_lazy_config(str(config), ["model.nms_tresh=0.5"])
    with pytest.raises(ValueError, match="model cannot be built: .*unexpected keyword argument 'nms_tresh'"):
        LazyTrainer.build_model(cfg)


def test_a_bad_value_is_named(config):
    cfg = load_lazy_config(str(config), ["model.nms_thresh=2.0"])
    with pytest.raises(ValueError, match="MODEL.OHEM.NMS_THRESH is 2.0; valid: a number in"):
        LazyTrainer.build_model(cfg)


def test_the_coco_config_mines_with_detectron2s_own_model():
    cfg = LazyConfig.load(str(CONFIGS / "faster_rcnn_R_50_FPN_ohem.py"))
    heads = instantiate(cfg.model.roi_heads)
    assert type(heads) is OHEMROIHeads and heads.ohem == OHEMOptions() and heads.batch_size_per_image == 128
    assert cfg.dataloader.evaluator.output_dir == "./output/inference"


def test_a_lazily_built_model_trains_as_its_options_say(storage):
    cfg = LazyConfig.load(str(CONFIGS / "demo_faster_rcnn_ohem.py"))
    LazyConfig.apply_overrides(
        cfg, ["model.roi_heads.ohem.nms_thresh=1.0", "model.roi_heads.batch_size_per_image=4"]
    )
    model = instantiate(cfg.model).train()
    losses = model(
        [{"image": torch.rand(3, 64, 64) * 255, "instances": target} for target in make_inputs()[2]]
    )
    sum(losses.values()).backward()
    latest = {name: value[0] for name, value in get_event_storage().latest().items()}
    assert latest["ohem/num_selected"] == 4
    assert latest["ohem/num_survivors"] == latest["ohem/num_candidates"] > 4
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
