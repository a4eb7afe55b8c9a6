"""A run that was stopped and resumed trains as one that never stopped, to the bit (on the CPU)."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.engine import SimpleTrainer

from ohem_d2.engine import OHEMTrainer, load_config
from ohem_d2.engine.accumulation import AccumulatingTrainer
from ohem_d2.engine.batches import TrainingBatches
from ohem_d2.engine.finite_losses import PlainAMPTrainer
from ohem_d2.utils.metrics import drop_rows, read_metrics

from ..toy import toy_options, write_toy


@pytest.fixture
def make_cfg(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_toy(tmp_path)

    def make(name, *opts):
        options = [*toy_options(tmp_path), "OUTPUT_DIR", str(tmp_path / name), *opts]
        return load_config("configs/Base-FastRCNN-small.yaml", options)

    return make


class Killed(BaseException):
    pass


def train(cfg, resume=False, kill_at=None, seed=0, trainer_class=OHEMTrainer):
    """Train, from initial weights of `seed`, up to the iteration `kill_at`; the trainer has its `images`."""
    torch.manual_seed(seed)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    torch.manual_seed(seed + 1000 * resume)  # a new process has other random numbers
    trainer.images, step = [], trainer.run_step

    def run_step():
        if trainer.iter == kill_at:
            raise Killed
        step()
        trainer.images += trainer._trainer.data_loader.file_names

    trainer.run_step = run_step
    try:
        trainer.train()
    except Killed:
        pass
    return trainer


def assert_same(a, b):
    ours, theirs = a.model.state_dict(), b.model.state_dict()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    states = ([s["momentum_buffer"] for s in x._trainer.optimizer.state.values()] for x in (a, b))
    assert all(torch.equal(*pair) for pair in zip(*states, strict=True))


HEADS = "MODEL.ROI_HEADS.NAME"


@pytest.mark.parametrize(
    "opts",
    [
        ("SEED", "3"),  # Detectron2's sampler draws RoIs at random
        (HEADS, "OHEMROIHeads", "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("SOLVER.ACCUMULATE", "2", "DATALOADER.ASPECT_RATIO_GROUPING", "False"),
        pytest.param((HEADS, "OHEMROIHeads", "DATALOADER.NUM_WORKERS", "2"), marks=pytest.mark.slow),
    ],
    ids=["seed", "drawn seed", "accumulated", "workers"],
)
def test_a_resumed_run_is_that_of_one_that_never_stopped(make_cfg, opts):
    cfg = make_cfg("stopped", *opts)
    stopped = train(cfg, kill_at=5)
    seed = stopped._trainer.data_loader.state_dict()["seed"]
    whole = train(make_cfg("whole", *opts, "SEED", str(seed)))
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 3 and resumed.images == whole.images[len(whole.images) * 3 // 7 :]
    assert_same(resumed, whole)


def test_the_number_of_workers_does_not_change_a_run(make_cfg):
    opts = ("SEED", "3", "SOLVER.MAX_ITER", "3", "DATALOADER.NUM_WORKERS")
    assert_same(train(make_cfg("none", *opts, "0")), train(make_cfg("two", *opts, "2")))


def test_a_run_with_another_seed_is_another_run(make_cfg):
    opts = ("SOLVER.MAX_ITER", "3", "SEED")
    one, other = train(make_cfg("3", *opts, "3")), train(make_cfg("4", *opts, "4"))
    assert one.images != other.images
    assert not torch.equal(one.model.roi_heads.box_head.fc1.weight, other.model.roi_heads.box_head.fc1.weight)


def test_hooks_that_use_random_numbers_do_not_change_a_run(make_cfg):
    class Drawing(OHEMTrainer):
        def after_step(self):
            torch.rand(3), np.random.rand(3)
            super().after_step()

    # With a worker, so that no image that is mapped seeds this process.
    opts = ("SEED", "3", "SOLVER.MAX_ITER", "3", "DATALOADER.NUM_WORKERS", "1")
    assert_same(train(make_cfg("a", *opts)), train(make_cfg("b", *opts), trainer_class=Drawing))


def test_the_metrics_of_a_resumed_run_have_each_iteration_once(make_cfg, tmp_path):
    cfg = make_cfg("run")

    class Writing(OHEMTrainer):
        def after_step(self):
            super().after_step()
            for writer in self._hooks[-1]._writers:
                writer.write()

    train(cfg, kill_at=5, trainer_class=Writing)
    with open(tmp_path / "run/metrics.json", "a") as file:
        file.write('{"iteration": 5, "total_l')  # as a kill may leave it
    assert [row["iteration"] for row in read_metrics(tmp_path / "run/metrics.json")] == [0, 1, 2, 3, 4, 5]
    train(cfg, resume=True, trainer_class=Writing)
    rows = read_metrics(tmp_path / "run/metrics.json")
    assert [row["iteration"] for row in rows] == list(range(7))


def test_rows_behind_that_of_a_test_are_dropped_too(tmp_path):
    """A test stands after the iterations that are written with it."""
    file = tmp_path / "metrics.json"
    rows = [{"iteration": i, "loss": 1.0} for i in (19, 39, 59, 49, 79)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["iteration"] for row in read_metrics(file)] == [19, 39, 49, 59, 79]
    with open(file, "a") as writer:  # of the run that goes on
        drop_rows(file, 50)
        writer.write('{"iteration": 59}\n')
    assert [json.loads(line)["iteration"] for line in file.read_text().splitlines()] == [19, 39, 49, 59]


def test_a_loader_that_names_no_files_trains(make_cfg):
    class Nameless(OHEMTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            batches = super().build_train_loader(cfg)
            batches.loader = _without_names(batches.loader)
            return batches

    trainer = train(make_cfg("run", "SOLVER.MAX_ITER", "2"), trainer_class=Nameless)
    assert trainer.images == [""] * 4
    with pytest.raises(FloatingPointError, match="images of the batch: not known$"), trainer._named_batch():
        raise FloatingPointError("a loss")


def _without_names(loader):
    for batch in loader:
        yield [{key: value for key, value in x.items() if key != "file_name"} for x in batch]


def test_a_run_that_goes_on_in_mixed_precision_says_that_the_loss_scale_starts_over(caplog):
    """The checkpoint of a training in float32 has no loss scale or, with accumulation, an empty one."""
    model = torch.nn.Linear(1, 1)
    arguments = model, [], torch.optim.SGD(model.parameters(), 0.1)
    before = SimpleTrainer(*arguments).state_dict()
    for trainer, state in (
        (PlainAMPTrainer(*arguments, torch.amp.GradScaler("cpu")), before),
        (AccumulatingTrainer(*arguments, 2, True), {**before, "grad_scaler": {}}),
    ):
        trainer.grad_scaler = torch.amp.GradScaler("cpu")
        caplog.clear()
        trainer.load_state_dict(state)
        assert "the loss scale, which starts over" in caplog.text
        whole = {**before, "grad_scaler": {**trainer.grad_scaler.state_dict(), "scale": 8.0}}
        caplog.clear()
        trainer.load_state_dict(whole)
        assert trainer.grad_scaler.get_scale() == 8 and caplog.text == ""


def test_a_run_that_begins_in_the_folder_of_another_is_not_mixed_with_it(make_cfg, tmp_path, caplog):
    cfg = make_cfg("run")
    train(cfg)
    before = [(tmp_path / "run" / name).read_text() for name in ("last_checkpoint", "metrics.json")]
    train(cfg, kill_at=0)
    left = f"{tmp_path}/run has another run, with which --resume would have gone on; renamed to .old:"
    assert f"{left} last_checkpoint and metrics.json" in caplog.text
    kept = [(tmp_path / "run" / f"{name}.old").read_text() for name in ("last_checkpoint", "metrics.json")]
    assert kept == before
    assert train(cfg, resume=True).start_iter == 0
    assert {row["iteration"] for row in read_metrics(tmp_path / "run/metrics.json")} == {6}
    caplog.clear()
    train(make_cfg("new"))
    assert "another run" not in caplog.text


def test_a_run_that_goes_on_with_another_batch_size_says_so(make_cfg, caplog):
    cfg = make_cfg("run", "SOLVER.MAX_ITER", "3", "SEED", "1")
    train(cfg)
    changed = make_cfg("run", "SOLVER.IMS_PER_BATCH", "1", "SEED", "2")
    with caplog.at_level(logging.INFO):
        resumed = train(changed, resume=True)
    assert resumed._trainer.data_loader.state_dict()["num_batches"] == 6 + 4
    assert (
        "It was 2 images on each of 1 processes, it is 1 on 1; training goes on after as many" in caplog.text
    )
    assert "The seed of the checkpoint is used: 1" in caplog.text


def test_a_data_set_that_has_changed_is_noticed(make_cfg, caplog):
    train(make_cfg("run", "SOLVER.MAX_ITER", "3", "SEED", "1"))
    train(make_cfg("run", "DATASETS.TRAIN", "('toy_wide',)"), resume=True)
    assert "The data set, its order or the batch size has changed: batch 3 had images" in caplog.text


def test_values_of_the_optimizer_that_the_checkpoint_overrides_are_named(make_cfg, caplog):
    train(make_cfg("run", "SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "0.01"))
    train(
        make_cfg("run", "SOLVER.BASE_LR", "0.02", "SOLVER.MOMENTUM", "0.8", "SOLVER.MAX_ITER", "4"),
        resume=True,
    )
    assert "Taken from the checkpoint, not from the config: " in caplog.text
    assert "lr 0.01 (config: 0.02)" in caplog.text and "momentum 0.9 (config: 0.8)" in caplog.text
    assert "weight_decay" not in caplog.text
    assert "Taken from the config, not the checkpoint: 4 iterations (was: 3)" in caplog.text


def test_a_checkpoint_without_the_place_in_the_data_still_loads(make_cfg, caplog):
    trainer = train(make_cfg("run", "SOLVER.MAX_ITER", "3"))
    file = trainer.checkpointer.get_checkpoint_file()
    content = torch.load(file, weights_only=True)
    del content["trainer"]["batches"]
    torch.save(content, file)
    resumed = train(make_cfg("run", "SOLVER.MAX_ITER", "4"), resume=True)
    assert resumed.start_iter == 3
    assert caplog.text.count("Not restored, since the checkpoint lacks it: position in the data") == 1


def test_of_a_checkpoint_of_weights_alone_the_training_begins_anew(make_cfg, tmp_path, caplog):
    cfg = make_cfg("run")
    train(cfg)
    file = tmp_path / "run/model_final.pth"
    torch.save({"model": torch.load(file, weights_only=True)["model"], "iteration": 6}, file)
    trainer = OHEMTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 0
    assert "checkpoint lacks it: the state of the training; all but the weights starts over" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(make_cfg):
    train(make_cfg("run", "SOLVER.MAX_ITER", "3"))
    other = make_cfg("run", "MODEL.ROI_BOX_HEAD.FC_DIM", "32")
    match = (
        "model_final.pth is a checkpoint of another model, 6 parameters differ: roi_heads.box_head.fc1.weight"
    )
    with pytest.raises(ValueError, match=match):
        train(other, resume=True)
    weights = ("MODEL.WEIGHTS", str(make_cfg("run").OUTPUT_DIR) + "/model_final.pth", "SOLVER.MAX_ITER", "1")
    train(
        make_cfg("fresh", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", *weights)
    )  # without --resume what fits is taken


def test_a_loader_of_others_trains_and_says_that_it_starts_over(make_cfg, caplog):
    class Foreign(OHEMTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            ours = super().build_train_loader(cfg).loader
            return build_detection_train_loader(ours.dataset, mapper=ours._mapper, total_batch_size=2)

    for until in ("3", "4"):
        trainer = Foreign(make_cfg("run", "SOLVER.MAX_ITER", until))
        trainer.resume_or_load(resume=True)
        trainer.train()
    assert "Not restored: position in the data and random numbers; the loader is not ours" in caplog.text


def test_each_process_has_random_numbers_of_its_own(monkeypatch):
    drawn = []
    for rank in (0, 1, 0):
        monkeypatch.setattr("ohem_d2.engine.batches.comm.get_rank", lambda rank=rank: rank)
        next(iter(TrainingBatches([[{"file_name": "a"}]], 5)))
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[2] != drawn[1]


def test_a_run_on_another_number_of_processes_goes_on_after_as_many_images(make_cfg, monkeypatch, caplog):
    loader = OHEMTrainer.build_train_loader(make_cfg("run")).loader
    assert loader.batch_size == 2
    monkeypatch.setattr("ohem_d2.engine.batches.comm.get_world_size", lambda: 2)
    state = {**TrainingBatches(loader, 5).state_dict(), "num_batches": 6}
    assert state["num_processes"] == 2
    monkeypatch.setattr("ohem_d2.engine.batches.comm.get_world_size", lambda: 1)
    resumed = TrainingBatches(loader, 5)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["num_batches"] == 12
    assert "It was 2 images on each of 2 processes, it is 2 on 1" in caplog.text
