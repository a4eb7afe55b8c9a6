"""Numbers that are not finite end a training: what is said, and which checkpoint is left."""

from pathlib import Path

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage

from ohem_d2.engine import OHEMTrainer
from ohem_d2.engine.accumulation import build_inner_trainer

from ..pretended_cuda import pretended_cuda
from .test_resume import HEADS, make_cfg  # noqa: F401 (make_cfg is a fixture)

NAN = float("nan")
OPTS = ("SEED", "1", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "1")


def failing(cfg, spoil, at=2):
    """The error of a training in which `spoil` is called with the model before the step of an iteration.

    And the names of the images of that iteration, and the last checkpoint.
    """

    class Spoilt(OHEMTrainer):
        def run_step(self):
            if self.iter == at:
                spoil(self.model)
            super().run_step()

    trainer = Spoilt(cfg)
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    files = getattr(trainer._trainer, "batch_files", trainer.batch_files)
    kept = (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text()
    weights = torch.load(Path(cfg.OUTPUT_DIR) / kept, weights_only=True)["model"]
    assert all(value.isfinite().all() for value in weights.values())
    return str(error.value), files, kept


def spoil_weights(model):
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.fill_(NAN)


def spoil_features(model):
    model.backbone.register_forward_hook(lambda *args: {k: v * NAN for k, v in args[2].items()})


def spoil_gradient(model):
    model.roi_heads.box_predictor.cls_score.bias.register_hook(lambda gradient: gradient * NAN)


def images(files):
    return f"images of the batch: {', '.join(files)}"


def test_weights_in_the_read_only_pass(make_cfg):  # noqa: F811
    error, files, kept = failing(make_cfg("run", HEADS, "OHEMROIHeads", *OPTS), spoil_weights)
    assert error.startswith("iteration 2: 6") and "of the batch: classification loss; " in error
    assert error.endswith(
        f"not finite: of the weights roi_heads.box_predictor.cls_score.bias; {images(files)}"
    )
    assert len(files) == 2 and kept == "model_0000001.pth"


def test_features_in_the_read_only_pass(make_cfg):  # noqa: F811
    error, files, kept = failing(make_cfg("run", HEADS, "OHEMROIHeads", *OPTS), spoil_features)
    (name,) = make_cfg("other").MODEL.ROI_HEADS.IN_FEATURES
    assert f"of the batch: feature map {name}, classification loss, box loss; not finite: none of" in error
    assert error.endswith(images(files)) and kept == "model_0000001.pth"


def test_losses(make_cfg):  # noqa: F811
    error, files, kept = failing(make_cfg("run", *OPTS), spoil_weights)
    assert error == (
        "iteration 2: the loss is not finite, loss_cls is nan; not finite: of the weights "
        f"roi_heads.box_predictor.cls_score.bias; {images(files)}"
    )
    assert kept == "model_0000001.pth"


@pytest.mark.parametrize("value, told", [(NAN, "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_every_kind_of_loss_that_is_not_finite(value, told):
    model = torch.nn.Linear(1, 1)
    trainer = build_inner_trainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1), 1, False)
    losses = {"loss_cls": torch.tensor(1.0), "loss_box_reg": torch.tensor(value)}
    with pytest.raises(FloatingPointError, match=f"^the loss is not finite, loss_box_reg is {told}$"):
        trainer._write_metrics(losses, 0.1)


def test_losses_of_several_batches(make_cfg):  # noqa: F811
    error, files, _ = failing(make_cfg("run", *OPTS, "SOLVER.ACCUMULATE", "3"), spoil_weights)
    assert len(files) == 6 and error.endswith(images(files))


def test_a_gradient_that_spoils_the_weights_replaces_no_checkpoint(make_cfg):  # noqa: F811
    error, files, kept = failing(make_cfg("run", *OPTS), spoil_gradient)
    name = "roi_heads.box_predictor.cls_score.bias"
    assert error == (
        f"iteration 2: model_0000002.pth is not written: {name} is not finite; not finite: of the weights "
        f"{name}; {images(files)}"
    )
    assert kept == "model_0000001.pth"


def test_a_signal_after_such_a_gradient_replaces_none_either(make_cfg):  # noqa: F811
    def spoil_and_stop(model):
        spoil_gradient(model)
        trainer_hooks["stop"]._received = "SIGTERM"

    trainer_hooks = {}

    class Watched(OHEMTrainer):
        def build_hooks(self):
            hooks = super().build_hooks()
            trainer_hooks["stop"] = next(h for h in hooks if type(h).__name__ == "StopOnSignal")
            return hooks

    opts = (*OPTS, "SOLVER.CHECKPOINT_PERIOD", "2")
    cfg = make_cfg("run", *opts)
    trainer = Watched(cfg)
    step = trainer.run_step
    trainer.run_step = lambda: (spoil_and_stop(trainer.model) if trainer.iter == 2 else None, step())
    with pytest.raises(FloatingPointError, match="model_0000002.pth is not written"):
        trainer.train()
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000001.pth"


def test_boxes_of_a_cascade(make_cfg):  # noqa: F811
    """Detectron2 asserts that they are finite."""
    cascade = (HEADS, "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True")
    error, files, _ = failing(make_cfg("run", *cascade, *OPTS), spoil_features)
    assert error.startswith("iteration 2: Box tensor contains infinite or NaN!; not finite: none of the")
    assert error.endswith(images(files))


def test_another_assertion_is_left_as_it_is(make_cfg):  # noqa: F811
    trainer = OHEMTrainer(make_cfg("run", *OPTS))
    trainer.register_hooks([])
    trainer.iter = 0
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.run_step()


def test_the_check_of_losses_adds_no_synchronisation():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    syncs = []
    for trainer in (SimpleTrainer(model, [], optimizer), build_inner_trainer(model, [], optimizer, 1, False)):
        with pretended_cuda() as kernels, EventStorage():
            losses = {name: torch.tensor(1.0).cuda() for name in ("loss_cls", "loss_box_reg")}
            kernels.syncs.clear()
            trainer._write_metrics(losses, 0.1)
            syncs.append(kernels.syncs.total())
    assert syncs[0] == syncs[1] > 0
