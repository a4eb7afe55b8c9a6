import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import AMPTrainer
from detectron2.evaluation import DatasetEvaluator

from ohem_d2.data import write_proposals
from ohem_d2.engine import OHEMTrainer, load_config, trainer
from ohem_d2.modeling import inspect_candidates

CATALOG = (
    "toy: {format: voc, root: voc, splits: [train], classes: [cat, dog], "
    "proposals: ./proposals.safetensors}\n"
)


@pytest.fixture
def make_cfg(tmp_path, make_voc, monkeypatch):
    """A config of the small Fast R-CNN on two drawn images, without randomness in the data."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_voc({"000001": [("cat", (5, 5, 30, 25))], "000002": [("dog", (10, 4, 38, 28))]})
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 15, (2, 30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 15, (2, 30, 2))], axis=2).astype(np.float32)
    scores = np.zeros(30, np.float32)
    write_proposals(
        tmp_path / "proposals.safetensors", {"000001": (boxes[0], scores), "000002": (boxes[1], scores)}
    )

    def make(name, *opts):
        return load_config(
            "configs/Base-FastRCNN-small.yaml",
            ["MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", "2",
             "DATASETS.CATALOG", f"('{tmp_path}/catalog.yaml',)",
             "DATASETS.TRAIN", "('toy_train',)", "DATASETS.TEST", "('toy_train',)",
             "INPUT.MIN_SIZE_TRAIN", "(32,)", "INPUT.MIN_SIZE_TEST", "32", "INPUT.RANDOM_FLIP", "none",
             "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "6",
             "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "(5,)", "OUTPUT_DIR", str(tmp_path / name), *opts],
        )  # fmt: skip

    return make


def train(cfg, resume=False, until=None):
    """Train, stop before iteration `until` as a kill would, and return the weights."""
    torch.manual_seed(0)
    trainer = OHEMTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if until is not None:
        step = trainer.run_step
        trainer.run_step = lambda: (
            step() if trainer.iter < until else (_ for _ in ()).throw(KeyboardInterrupt)
        )
    try:
        trainer.train()
    except KeyboardInterrupt:
        pass
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_a_resumed_training_goes_on_with_momentum_and_schedule(make_cfg):
    whole = train(make_cfg("whole"))
    stopped = make_cfg("stopped", "SOLVER.CHECKPOINT_PERIOD", "3")
    at_the_stop = train(stopped, until=4)
    resumed = train(stopped, resume=True)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-3, atol=1e-5)
    assert not torch.equal(
        at_the_stop["roi_heads.box_predictor.cls_score.bias"], whole["roi_heads.box_predictor.cls_score.bias"]
    )


def test_the_log_says_what_was_mined(make_cfg, caplog):
    with caplog.at_level("INFO", logger="ohem_d2.engine.mining_log"):
        train(make_cfg("log", "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()"))
    (line,) = [r.getMessage() for r in caplog.records if r.name == "ohem_d2.engine.mining_log"]
    assert re.fullmatch(r"mined \d+ of 3\d RoIs an image: \d+% foreground, loss .*, hardest dropped .*", line)


def test_a_loss_that_is_not_finite_names_the_files_and_keeps_the_checkpoint(make_cfg):
    cfg = make_cfg("nan", "SOLVER.CHECKPOINT_PERIOD", "2")
    trainer = OHEMTrainer(cfg)
    step = trainer.run_step

    def poisoned():
        if trainer.iter == 3:
            with torch.no_grad():
                trainer.model.roi_heads.box_predictor.cls_score.bias.fill_(float("nan"))
        step()

    trainer.run_step = poisoned
    with pytest.raises(
        FloatingPointError, match=r"iteration 3: .* not finite, .*images of the batch: .*00000[12].jpg"
    ):
        trainer.train()
    kept = torch.load(f"{cfg.OUTPUT_DIR}/model_0000001.pth", weights_only=False)["model"]
    assert all(value.isfinite().all() for value in kept.values())
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000001.pth")


def test_accumulated_batches_train_as_one_big_batch(make_cfg):
    """Both images in one batch, or one after the other, in the loader's order, with b = 8 RoIs from each."""
    # Batch normalisation sees each batch by itself, so it is frozen here. Two iterations: the second has
    # momentum; after more of them a rounding error can select another RoI.
    opts = ["MODEL.RESNETS.NORM", "FrozenBN", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8",
            "DATALOADER.ASPECT_RATIO_GROUPING", "False", "SOLVER.MAX_ITER", "2"]  # fmt: skip
    big = train(make_cfg("big", *opts))
    small = train(make_cfg("small", *opts, "SOLVER.IMS_PER_BATCH", "1", "SOLVER.ACCUMULATE", "2"))
    for name, value in big.items():
        torch.testing.assert_close(small[name], value, rtol=1e-6, atol=1e-6)


def test_a_number_of_batches_out_of_range_is_named(make_cfg):
    with pytest.raises(ValueError, match="SOLVER.ACCUMULATE is 0; valid: an integer >= 1"):
        make_cfg("none", "SOLVER.ACCUMULATE", "0")


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_a_checkpoint_has_the_optimizers_momentum(make_cfg, accumulate):
    trainer = OHEMTrainer(make_cfg("momentum", "SOLVER.ACCUMULATE", accumulate, "SOLVER.MAX_ITER", "2"))
    trainer.train()
    resumed = OHEMTrainer(make_cfg("momentum", "SOLVER.ACCUMULATE", accumulate))
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    for a, b in zip(trainer.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(a["momentum_buffer"], b["momentum_buffer"])


def test_mixed_precision_is_that_of_the_config(make_cfg):
    for amp in (False, True):
        opts = ("SOLVER.AMP.ENABLED", str(amp))
        assert isinstance(OHEMTrainer(make_cfg("one", *opts))._trainer, AMPTrainer) == amp
        assert OHEMTrainer(make_cfg("two", *opts, "SOLVER.ACCUMULATE", "2"))._trainer.amp == amp


def test_the_loss_over_all_rois_is_measured_alike_for_mined_and_plain_heads(make_cfg):
    """It is the mean of all candidates of the images, in float32, of the model as it is tested."""
    still = ["TEST.ROI_LOSS.PERIOD", "4", "SOLVER.BASE_LR", "0.0", "SOLVER.WEIGHT_DECAY", "0.0"]
    of_heads = []
    for heads in ("OHEMROIHeads", "StandardROIHeads"):
        cfg = make_cfg(heads, *still, "MODEL.ROI_HEADS.NAME", heads, "MODEL.OHEM.READONLY_DTYPE", "bfloat16")
        torch.manual_seed(1)
        trainer = OHEMTrainer(cfg)
        trainer.train()
        measured = trainer.storage.history("ohem/all_roi_loss").values()
        assert [iteration for _, iteration in measured] == [3, 5]
        model, loader = trainer.model.eval(), trainer._build_roi_loss_loader()
        losses = torch.cat([c.losses for batch in loader for c in inspect_candidates(model, batch)])
        assert len(losses) > 60 and measured[-1][0] == pytest.approx(float(losses.double().mean()))
        of_heads.append(measured)
    assert of_heads[0] == of_heads[1]


def test_the_loss_is_measured_on_images_of_all_training_sets(make_cfg, monkeypatch):
    asked = []
    monkeypatch.setattr(
        trainer, "build_labelled_loader", lambda cfg, *args, **kwargs: asked.append((args, kwargs))
    )
    cfg = make_cfg("sets", "TEST.ROI_LOSS.NUM_IMAGES", "5").clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ("one", "two")
    OHEMTrainer._build_roi_loss_loader(SimpleNamespace(cfg=cfg))
    assert asked == [((("one", "two"), 5), {"spread": True})]


def test_measuring_the_loss_does_not_change_the_training(make_cfg):
    without, with_loss = train(make_cfg("without")), train(make_cfg("with", "TEST.ROI_LOSS.PERIOD", "1"))
    for name, value in without.items():
        torch.testing.assert_close(with_loss[name], value, rtol=1e-5, atol=1e-7)


def test_an_unknown_evaluator_type_is_named(make_cfg):
    from detectron2.data import MetadataCatalog

    cfg = make_cfg("evaluator")
    MetadataCatalog.get("other").evaluator_type = "lvis"
    with pytest.raises(ValueError, match="'other' has evaluator_type 'lvis'; valid: pascal_voc, coco"):
        OHEMTrainer.build_evaluator(cfg, "other")


@pytest.mark.parametrize("field", ["pose", "truncated", "difficult", "name"])
def test_annotations_that_cannot_be_evaluated_are_found_before_the_training(make_cfg, tmp_path, field):
    cfg = make_cfg("unreadable")
    xml = tmp_path / "voc" / "Annotations" / "000002.xml"
    xml.write_text(xml.read_text().replace(f"{field}>", "other>"))
    with pytest.raises(ValueError, match=r"000002.xml"):
        OHEMTrainer(cfg)
    assert not list((tmp_path / "unreadable").glob("*.pth"))


class Collected(DatasetEvaluator):
    """Keeps the boxes and scores of all images."""

    def reset(self):
        self.found = []

    def process(self, inputs, outputs):
        self.found += [
            torch.cat([o["instances"].pred_boxes.tensor, o["instances"].scores[:, None]], dim=1)
            for o in outputs
        ]


def evaluate(cfg):
    collected = Collected()
    OHEMTrainer.test(cfg, OHEMTrainer.build_trained_model(cfg, resume=False), collected)
    return collected.found


def test_an_evaluation_follows_the_keys_of_testing(make_cfg):
    train(make_cfg("trained"))
    weights = (
        "MODEL.WEIGHTS",
        str(make_cfg("trained").OUTPUT_DIR) + "/model_final.pth",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "0.0",
    )
    one_scale = (
        "TEST.AUG.ENABLED",
        "True",
        "TEST.AUG.MIN_SIZES",
        "(32,)",
        "TEST.AUG.MAX_SIZE",
        "1333",
        "TEST.AUG.FLIP",
        "False",
    )
    plain = evaluate(make_cfg("plain", *weights))
    assert all(len(boxes) > 0 for boxes in plain)
    scaled = evaluate(make_cfg("scaled", *weights, *one_scale))
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))
    voted = evaluate(make_cfg("voted", *weights, "TEST.BOX_VOTING.ENABLED", "True"))
    assert not any(torch.equal(a, b) for a, b in zip(plain, voted, strict=True))


def test_the_evaluation_of_a_training_follows_them_too_and_leaves_the_model_in_training(make_cfg):
    cfg = make_cfg(
        "periodic", "TEST.EVAL_PERIOD", "2", "TEST.BOX_VOTING.ENABLED", "True", "TEST.BOX_VOTING.ROUNDS", "3"
    )
    trainer = OHEMTrainer(cfg)
    modes = []
    trainer.model.roi_heads.box_predictor.register_forward_hook(
        lambda module, *_: modes.append(module.training)
    )
    trainer.resume_or_load(resume=False)
    trainer.train()
    # Six iterations with one training pass each; three evaluations of two images in three rounds.
    assert (modes.count(False), trainer.model.training) == (
        3 * 2 * 3 + 6,
        True,
    )  # six read-only passes as well
