"""The log of what is mined."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from ohem_d2.engine import OHEMTrainer
from ohem_d2.engine.mined_log import MinedLog
from ohem_d2.modeling import OHEMMixin
from ohem_d2.utils.mined_rois import MinedRoIs, join, read_mined

from .test_resume import make_cfg, train  # noqa: F401 (make_cfg is a fixture)

MINED = ("MODEL.ROI_HEADS.NAME", "OHEMROIHeads")


def records(iterations, images, rois=2, seed=0):
    """Visits of `images` in `iterations`, each with `rois` RoIs of random boxes."""
    num, rng = len(images), np.random.default_rng(seed)
    names = sorted(set(images))
    return MinedRoIs(
        images=names,
        iterations=np.array(iterations, np.int64),
        visited=np.array([names.index(i) for i in images], np.int64),
        sizes=np.full((num, 2), 32, np.int64),
        offsets=np.arange(num + 1) * rois,
        boxes=rng.random((num * rois, 4), np.float32),
        labels=np.zeros(num * rois, np.int64),
        objects=np.zeros(num * rois, np.int64),
        ious=np.ones(num * rois, np.float32),
        cls_losses=np.ones(num * rois, np.float32),
        box_losses=np.ones(num * rois, np.float32),
    )


def as_list(mined):
    """[(iteration, image, boxes)] in order."""
    spans = zip(mined.offsets, mined.offsets[1:])
    boxes = [mined.boxes[a:b].tolist() for a, b in spans]
    return list(zip(mined.iterations.tolist(), [mined.images[i] for i in mined.visited], boxes))


@pytest.fixture
def trained_on(monkeypatch):
    """(proposals, labels) of each call of the heads' sampler, as the parent trains on them."""
    calls, parents = [], OHEMMixin.label_and_sample_proposals

    def sample(self, proposals, targets):
        sampled = parents(self, proposals, targets)
        calls.append(
            [(p.proposal_boxes.tensor.clone(), p.gt_classes.clone(), t) for p, t in zip(sampled, targets)]
        )
        return sampled

    monkeypatch.setattr(OHEMMixin, "label_and_sample_proposals", sample)
    return calls


def test_processes_share_the_size_that_the_log_may_have(make_cfg, monkeypatch):  # noqa: F811
    trainer = OHEMTrainer(make_cfg("run", *MINED, "MODEL.OHEM.LOG_MIB", "2"))
    for size in (1, 2):
        monkeypatch.setattr("ohem_d2.engine.mined_log.comm.get_world_size", lambda size=size: size)
        log = MinedLog("mined")
        log.trainer = trainer
        log.before_train()
        assert log._max_bytes == 2 * 2**20 // size


@pytest.mark.parametrize("seconds, files", [(0, 7), (60, 1)])
def test_a_file_is_written_every_so_many_seconds(make_cfg, monkeypatch, seconds, files):  # noqa: F811
    """What is copied in an iteration is read after the next, so the last is written at the end."""
    monkeypatch.setattr("ohem_d2.engine.mined_log._FILE_SECONDS", seconds)
    cfg = make_cfg("run", *MINED)
    train(cfg)
    assert len(list(Path(cfg.OUTPUT_DIR, "mined").glob("*.safetensors"))) == files


def test_of_accumulated_batches_the_last_is_recorded_with_its_images(make_cfg):  # noqa: F811
    cfg = make_cfg("run", *MINED, "SOLVER.ACCUMULATE", "2", "SOLVER.IMS_PER_BATCH", "1")
    trainer = train(cfg)  # whose `images` are those of the last batch of each iteration
    recorded = [Path(name).name for _, name, _ in as_list(read_mined(cfg.OUTPUT_DIR))]
    assert recorded == [Path(name).name for name in trainer.images] and len(recorded) == 7


def test_the_log_has_what_was_trained_on(make_cfg, trained_on):  # noqa: F811
    cfg = make_cfg("run", *MINED)
    train(cfg)
    mined = read_mined(cfg.OUTPUT_DIR)
    assert mined.iterations.tolist() == [i for i in range(7) for _ in range(2)]
    expected = [of_image for call in trained_on for of_image in call]
    assert len(expected) == len(mined) == 14
    for (boxes, labels, targets), begin, end in zip(expected, mined.offsets, mined.offsets[1:]):
        assert torch.equal(torch.from_numpy(mined.boxes[begin:end]), boxes)
        assert mined.labels[begin:end].tolist() == labels.tolist()
        for label, obj in zip(mined.labels[begin:end], mined.objects[begin:end]):
            assert (obj == -1) == (label == 2) and (label == 2 or targets.gt_classes[obj] == label)
    foreground = mined.labels < 2
    assert (mined.ious[foreground] >= 0.5).all() and (mined.ious[~foreground] < 0.5).all()
    assert (mined.cls_losses > 0).all() and (mined.box_losses[~foreground] == 0).all()
    assert (mined.box_losses[foreground] > 0).any()
    assert all(Path(name).is_file() for name in mined.images) and len(mined.images) > 2
    shorter = mined.sizes.min(axis=1)
    assert set(shorter.tolist()) <= {28, 32, 36} and len(set(shorter.tolist())) > 1


def test_a_rule_without_losses_records_none(make_cfg):  # noqa: F811
    cfg = make_cfg(
        "run", *MINED, "MODEL.OHEM.RULE", "iou_balanced", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"
    )
    train(cfg)
    assert np.isnan(read_mined(cfg.OUTPUT_DIR).cls_losses).all()


def test_a_batch_that_mines_nothing_is_not_recorded_as_the_one_before(make_cfg, monkeypatch):  # noqa: F811
    mine, calls = OHEMMixin.label_and_sample_proposals, []

    def sample(self, proposals, targets):
        calls.append(self)
        options = self.ohem
        self.ohem = replace(options, enabled=False if len(calls) == 2 else None)
        sampled = mine(self, proposals, targets)
        self.ohem = options
        return sampled

    monkeypatch.setattr(OHEMMixin, "label_and_sample_proposals", sample)
    cfg = make_cfg("run", *MINED, "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()")
    train(cfg)
    assert read_mined(cfg.OUTPUT_DIR).iterations.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
    "opts",
    [
        (),
        (*MINED, "MODEL.OHEM.LOG_MIB", "0"),
        (*MINED, "MODEL.OHEM.ENABLED", "False"),
        (*MINED, "MODEL.OHEM.NAIVE", "True"),
    ],  # fmt: skip
)
def test_there_is_no_log_without_mining_or_room(make_cfg, opts):  # noqa: F811
    cfg = make_cfg("run", *opts, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")
    train(cfg)
    with pytest.raises(FileNotFoundError, match=r"no records of what was mined \(MODEL.OHEM.LOG_MIB\)"):
        read_mined(cfg.OUTPUT_DIR)


def test_a_resumed_run_records_each_iteration_once(make_cfg):  # noqa: F811
    """Killed after iteration 4; the last checkpoint is that of iteration 2."""

    class Killed(OHEMTrainer):
        def run_step(self):
            super().run_step()
            if self.iter == 4:
                raise KeyboardInterrupt

    whole, cut = make_cfg("whole", *MINED), make_cfg("cut", *MINED)
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(cut, trainer_class=Killed)
    assert as_list(read_mined(cut.OUTPUT_DIR))[-1][0] >= 3
    train(cut, resume=True)
    assert as_list(read_mined(cut.OUTPUT_DIR)) == as_list(read_mined(whole.OUTPUT_DIR))
    train(cut)  # anew
    assert as_list(read_mined(cut.OUTPUT_DIR)) == as_list(read_mined(whole.OUTPUT_DIR))


@pytest.fixture
def log(tmp_path):
    made = MinedLog(tmp_path / "mined")
    made._max_bytes = 10**9

    def write(*args, **kwargs):
        made._parts = [records(*args, **kwargs)]
        made._write()

    made.write = write
    return made


def test_files_that_are_too_large_keep_half_of_each_images_visits(log, tmp_path):
    log.write(range(8), ["a", "b"] * 4)
    log.write(range(8, 16), ["a", "a", "a", "b", "c", "a", "a", "a"], seed=1)
    before = {(i, image): boxes for i, image, boxes in as_list(read_mined(tmp_path))}
    assert len(before) == 16
    log._max_bytes = sum(f.stat().st_size for f in log._files()) - 1
    log._thin()
    after = as_list(read_mined(tmp_path))
    kept = [image for _, image, _ in after]
    assert {image: kept.count(image) for image in "abc"} == {"a": 5, "b": 3, "c": 1}  # of 10, 5 and 1
    assert all(before[i, image] == boxes for i, image, boxes in after)
    assert len(log._files()) == 1


def test_thinning_drops_the_oldest_when_each_image_has_one_visit(log, tmp_path):
    for first in (0, 10, 20):
        log.write(range(first, first + 3), [f"{first}{c}" for c in "abc"], rois=200)
    log._max_bytes = log._files()[0].stat().st_size + 100
    log._thin()
    assert [i for i, _, _ in as_list(read_mined(tmp_path))] == [20, 21, 22]


def test_the_bound_holds_while_a_training_goes_on(log):
    log._max_bytes = 40_000
    for first in range(0, 400, 10):
        log.write(range(first, first + 10), list("abcdefghij"), rois=20)
        assert sum(f.stat().st_size for f in log._files()) <= 40_000
    assert {image for f in log._files() for image in MinedRoIs.load(f).images} == set("abcdefghij")


def test_joined_records_are_those_of_the_parts():
    parts = [records([0, 0], "ab"), records([1, 2, 2], "bca", rois=3, seed=1), records([], "")]
    joined = join(parts)
    assert as_list(joined) == [visit for part in parts for visit in as_list(part)]
    assert joined.offsets.tolist() == list(accumulate([2, 2, 3, 3, 3], initial=0))
    assert as_list(joined.take(np.array([3, 0]))) == [as_list(joined)[3], as_list(joined)[0]]


def test_a_damaged_file_is_named(tmp_path):
    folder = tmp_path / "mined"
    records([0], "a").save(folder / "00000000-00000000.rank0.safetensors")
    content = (folder / "00000000-00000000.rank0.safetensors").read_bytes()
    for damaged in (content[:-4], content[:50], b"", content.replace(b"ohem_d2.mined", b"ohem_d2.other")):
        (folder / "00000000-00000000.rank0.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="00000000-00000000.rank0.safetensors"):
            read_mined(tmp_path)


def test_a_full_disk_leaves_a_gap_in_the_log_and_one_warning(make_cfg, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr("ohem_d2.engine.mined_log._FILE_ROIS", 1)
    save, calls = MinedRoIs.save, []

    def fail_twice(self, path):
        calls.append(path)
        if len(calls) < 3:
            raise OSError(28, "No space left on device", str(path))
        save(self, path)

    monkeypatch.setattr(MinedRoIs, "save", fail_twice)
    trainer = train(make_cfg("run", *MINED))
    assert len(calls) > 3 and trainer.iter == trainer.max_iter
    told = [r.getMessage() for r in caplog.records if "mined log" in r.getMessage()]
    assert len(told) == 1 and "No space left on device" in told[0] and str(calls[0]) in told[0]
    assert len(set(read_mined(trainer.cfg.OUTPUT_DIR).iterations)) == trainer.max_iter - 2
