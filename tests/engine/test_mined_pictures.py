"""Pictures of the hardest RoIs while a model trains."""

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from ohem_d2.engine import LazyTrainer, OHEMTrainer
from ohem_d2.engine.mined_pictures import MinedPictures

from .test_lazy import toy  # noqa: F401 (a fixture)
from .test_trainer import make_cfg, train  # noqa: F401 (a fixture)


@pytest.fixture
def drawn(monkeypatch):
    """(iteration, name, picture) of what is put into the storage."""
    pictures = []
    monkeypatch.setattr(
        EventStorage, "put_image", lambda self, name, image: pictures.append((self.iter, name, image))
    )
    return pictures


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "StandardROIHeads"])
def test_every_so_many_iterations_training_images_are_drawn(make_cfg, drawn, heads):  # noqa: F811
    train(make_cfg("drawn", "MODEL.OHEM.VIS_PERIOD", "4", "MODEL.ROI_HEADS.NAME", heads))
    assert [(iteration, name) for iteration, name, _ in drawn] == [(3, "mined/000001"), (3, "mined/000002")]
    for *_, picture in drawn:
        assert picture.dtype == np.uint8 and picture.shape[0] == 3
        assert picture.shape[2] >= 480 and picture.shape[1] % 32 == 0  # the input of 43 x 32, enlarged


def test_tensorboard_has_the_pictures(make_cfg, tmp_path):  # noqa: F811
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(make_cfg("board", "MODEL.OHEM.VIS_PERIOD", "3"))
    events = accumulator.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["images"] == ["mined/000001", "mined/000002"]
    assert [event.step for event in events.Images("mined/000001")] == [2, 5]


@pytest.mark.parametrize("rule", ["hardest", "pool"])
def test_drawing_does_not_change_the_training(make_cfg, rule):  # noqa: F811
    """Also by a rule that draws at random."""
    without = train(make_cfg("without", "MODEL.OHEM.RULE", rule))
    drawn = train(make_cfg("with", "MODEL.OHEM.RULE", rule, "MODEL.OHEM.VIS_PERIOD", "1"))
    for name, value in without.items():
        torch.testing.assert_close(drawn[name], value, rtol=1e-5, atol=1e-7)


def test_a_rule_that_draws_at_random_leaves_the_random_state(make_cfg, drawn):  # noqa: F811
    opts = ("MODEL.OHEM.RULE", "pool", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "SOLVER.MAX_ITER", "1")
    trainer = OHEMTrainer(make_cfg("state", *opts, "MODEL.OHEM.VIS_PERIOD", "1"))
    trainer.train()
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, MinedPictures)]
    state, before = torch.get_rng_state(), len(drawn)
    hook.after_step()
    assert len(drawn) == before + 2 and torch.equal(torch.get_rng_state(), state)


def test_the_hardest_are_drawn_with_their_duplicates(make_cfg, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(
        "ohem_d2.engine.mined_pictures.draw_mined",
        lambda image, hard, dropped, names, number: asked.append((image, hard, dropped, names)) or image,
    )
    train(make_cfg("asked", "MODEL.OHEM.VIS_PERIOD", "6", "MODEL.OHEM.NMS_THRESH", "0.3"))
    for image, hard, dropped, names in asked:
        assert list(names) == ["cat", "dog"] and 0 < len(hard.labels) <= 12 and set(hard.labels) <= {0, 1, 2}
        losses = np.add(hard.cls_losses, hard.box_losses)
        assert (np.diff(losses) <= 0).all()
        assert len(dropped.labels) and max(np.add(dropped.cls_losses, dropped.box_losses)) <= losses[0]
        assert hard.boxes.max() <= max(image.shape) and hard.boxes.max() > 100  # in pixels of the picture
        assert image[..., 0].std() > 10


def test_by_default_nothing_is_drawn_and_no_images_are_read(make_cfg):  # noqa: F811
    trainer = OHEMTrainer(make_cfg("none"))
    assert not any(isinstance(hook, MinedPictures) for hook in trainer._hooks)


@pytest.mark.slow
def test_the_trainer_of_python_configs_draws_too(toy, drawn):  # noqa: F811
    trainer = LazyTrainer(toy("model.roi_heads.ohem.vis_period=2"))
    trainer.train()
    assert [(iteration, name) for iteration, name, _ in drawn] == [(1, f"mined/{i}") for i in "abcd"]
    (hook,) = [hook for hook in trainer._hooks if isinstance(hook, MinedPictures)]
    assert hook._names == ["cat", "dog"]
