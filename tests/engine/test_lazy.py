"""Python configs: what is read, refused and built. They are trained in tests/test_end_to_end.py."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import get_event_storage
from torch.nn.parallel import DistributedDataParallel

from ohem_d2 import OHEMOptions, OHEMROIHeads
from ohem_d2.config import BoxVotingOptions, MultiScaleOptions, SoftNMSOptions
from ohem_d2.data import workers
from ohem_d2.engine import LazyTrainer, load_lazy_config
from ohem_d2.engine.accumulation import AccumulatingTrainer
from ohem_d2.engine.lazy import _build_test_loader
from ohem_d2.evaluation import RCNNWithTTA

from ..builders import make_inputs, tiny_cfg
from ..toy import write_toy

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


@pytest.mark.parametrize(
    "opt, error, message",
    [
        ("+test.box_votin=1", KeyError, "unknown key test.box_votin; valid: aug, box_voting, soft_nms"),
        ("test.box_voting.rounds=0", ValueError, "TEST.BOX_VOTING.ROUNDS is 0; valid: an integer >= 1"),
        ("test.aug.combine=min", ValueError, "TEST.AUG.COMBINE is 'min'; valid: one of 'detections'"),
        ("test.soft_nms.sigm=1", ValueError, "test.soft_nms cannot be built: .*'sigm'"),
        ("test.soft_nms=1", ValueError, r"test.soft_nms is 1; valid: L\(SoftNMSOptions\)"),
        ("train.roi_loss.num_images=0", ValueError, "TEST.ROI_LOSS.NUM_IMAGES is 0; valid: an integer >= 1"),
        ("train.accumulate=0", ValueError, "SOLVER.ACCUMULATE is 0; valid: an integer >= 1"),
    ],
)
def test_options_of_training_and_testing_are_checked_at_once(config, opt, error, message):
    with pytest.raises(error, match=message):
        load_lazy_config(str(config), [opt])


def test_every_config_has_the_options_with_the_defaults_of_yaml(config):
    cfg = load_lazy_config(str(config), ["test.box_voting.enabled=True", "test.aug.min_sizes=[480,600]"])
    assert instantiate(cfg.test.box_voting) == BoxVotingOptions(enabled=True)
    assert instantiate(cfg.test.soft_nms) == SoftNMSOptions() and cfg.train.accumulate == 1
    yaml = MultiScaleOptions.from_config(tiny_cfg())
    assert replace(instantiate(cfg.test.aug), min_sizes=yaml.min_sizes) == yaml
    assert list(instantiate(cfg.test.aug).min_sizes) == [480, 600]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The example with all options, on drawn images."""
    write_toy(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def load(*opts):
        sizes = [f"dataloader.{s}.mapper.augmentations.0.short_edge_length" for s in ("train", "test")]
        return load_lazy_config(
            str(CONFIGS / "demo_all_options.py"),
            [f"dataloader.catalogs=[{tmp_path}/catalog.yaml]", "dataloader.train.dataset.names=toy_wide",
             "dataloader.test.dataset.names=toy_tall", "model.roi_heads.num_classes=2", f"{sizes[0]}=[40]",
             f"{sizes[1]}=32", "test.aug.min_sizes=[32,48]", "test.aug.reference_size=32",
             "train.max_iter=2", "train.eval_period=0", "train.log_period=1", "train.roi_loss.period=2",
             "train.roi_loss.num_images=3", f"train.output_dir={tmp_path}/out", *opts],
        )  # fmt: skip

    return load


@pytest.mark.slow
def test_the_example_accumulates_measures_and_reports_per_class(toy, tmp_path, caplog):
    torch.manual_seed(0)
    cfg = toy()
    with caplog.at_level("INFO"):
        trainer = LazyTrainer(cfg)
        trainer.train()
        results = LazyTrainer.test(cfg, trainer.model)
    assert isinstance(trainer._trainer, AccumulatingTrainer)
    assert trainer._trainer.data_loader.state_dict()["num_batches"] == 2 * 2
    measured = trainer.storage.history("ohem/all_roi_loss").values()
    assert [iteration for _, iteration in measured] == [1]
    assert sum(record.getMessage().startswith("mined ") for record in caplog.records) == 2
    assert list(results) == ["voc07", "voc12", "bbox"]
    rows = json.loads((tmp_path / "out/inference/toy_tall/results.json").read_text())
    known = {(row["evaluator"], row["class"], row["metric"]) for row in rows}
    assert {(e, c, m) for e in results for c in ("cat", "dog") for m in ("AP", "AP50", "AP75")} <= known


def test_the_heads_know_the_length_of_the_training_and_its_precision(toy):
    cfg = toy()
    assert LazyTrainer.build_model(cfg).roi_heads.max_iter == 2
    cfg.model.roi_heads.max_iter = 7
    assert LazyTrainer.build_model(cfg).roi_heads.max_iter == 7
    for amp in (False, True):
        assert LazyTrainer(toy(f"train.amp.enabled={amp}"))._trainer.amp == amp


def test_training_images_of_the_measured_loss_are_resized_as_in_testing_and_labelled(toy):
    loader = LazyTrainer._build_roi_loss_loader(SimpleNamespace(cfg=toy()))
    images = [x for batch in loader for x in batch]
    assert [x["image_id"] for x in images] == ["a", "b", "c"]  # 3 of abcd, spread: 0, 1, 2
    assert all(min(x["image"].shape[1:]) == 32 and len(x["instances"]) == 2 for x in images)


def test_images_keep_their_size_where_each_scale_resizes_them(toy):
    for enabled, num in (("True", 0), ("False", 1)):
        cfg = toy(f"test.aug.enabled={enabled}")
        assert len(LazyTrainer.build_test_mapper(cfg).augmentations.augs) == num
        assert len(cfg.dataloader.test.mapper.augmentations) == 1


def test_both_loaders_wait_for_workers_as_long_as_the_config_says(toy, monkeypatch):
    waits, watch = [], workers._Watch
    monkeypatch.setattr(workers, "_Watch", lambda w, seconds: waits.append(seconds) or watch(w, seconds))
    workers_of_both = [f"dataloader.{split}.num_workers=1" for split in ("train", "test")]
    cfg = toy("dataloader.train.timeout=7", *workers_of_both)
    next(iter(LazyTrainer.build_train_loader(cfg)))
    next(iter(_build_test_loader(cfg)))
    assert waits == [7, 7]


def test_the_model_is_tested_as_the_options_say(toy):
    off = ["test.aug.enabled=False", "test.box_voting.enabled=False"]
    cfg = toy()
    model = LazyTrainer.build_model(cfg)
    tested = LazyTrainer.build_test_model(cfg, model)
    assert isinstance(tested, RCNNWithTTA) and tested.combine == "candidates" and tested.voting.enabled
    predictor = model.roi_heads.box_predictor
    assert (tested.score_thresh, tested.topk) == (predictor.test_score_thresh, predictor.test_topk_per_image)
    assert LazyTrainer.build_test_model(toy(*off), model) is model
    soft = LazyTrainer.build_test_model(toy(*off, "test.soft_nms.enabled=True"), model)
    assert soft.soft_nms.enabled and soft.nms_thresh == predictor.test_nms_thresh
    with pytest.raises(ValueError, match="are for R-CNNs; Identity is none"):
        LazyTrainer.build_test_model(cfg, torch.nn.Identity())


def test_a_model_of_several_processes_is_tested_as_the_one_inside(toy):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        cfg = toy()
        model = LazyTrainer.build_model(cfg)
        assert LazyTrainer.build_test_model(cfg, DistributedDataParallel(model)).model is model
    finally:
        torch.distributed.destroy_process_group()


def test_what_cannot_be_evaluated_is_found_before_the_model_is_built(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(LazyTrainer, "build_model", lambda cfg: pytest.fail("the model is built first"))
    cfg = toy()
    (tmp_path / "voc/Annotations/f.xml").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 XML files are missing: f"):
        LazyTrainer(cfg)
    cfg = toy("dataloader.evaluator.evaluators=[voc2007]")
    with pytest.raises(ValueError, match=r"TEST.EVALUATORS is \('voc2007',\); valid: any of"):
        LazyTrainer(cfg)


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
