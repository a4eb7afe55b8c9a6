"""A full disk costs measurements, not the training, and leaves the last good checkpoint."""

import json
import resource
import signal
from contextlib import contextmanager

import pytest
import torch
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter

from ohem_d2.engine.writers import PatientWriter
from ohem_d2.utils.checkpoint import CheckedCheckpointer


@contextmanager
def full_disk(num_bytes):
    """No file becomes larger than this; the kernel refuses what is beyond, as of a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_metrics_that_cannot_be_written_are_one_warning(tmp_path, caplog):
    file = tmp_path / "metrics.json"
    with EventStorage() as storage:
        writer = PatientWriter(JSONWriter(str(file)))
        for iteration in range(4):
            storage.put_scalar("loss", 1.0)
            if iteration in (1, 2):
                with full_disk(file.stat().st_size):
                    writer.write()
            else:
                writer.write()
            storage.step()
        writer.close()
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith(f"{file} cannot be written: ") and "training goes on" in warning
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {0, 3} <= {row["iteration"] for row in rows}  # once there is room, it goes on


def test_pictures_that_cannot_be_written_do_not_pile_up():
    class Broken(EventWriter):
        def write(self):
            raise OSError("no space left")

    with EventStorage() as storage:
        storage.put_image("mined", torch.zeros(3, 4, 4))
        PatientWriter(Broken()).write()
        assert storage._vis_data == []


def test_a_checkpoint_that_does_not_fit_is_named_and_the_last_good_one_stays(tmp_path):
    checkpointer = CheckedCheckpointer(torch.nn.Linear(100, 100), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    with full_disk(10_000), pytest.raises(OSError, match="model_0000002.pth"):
        checkpointer.save("model_0000002", iteration=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    again = CheckedCheckpointer(torch.nn.Linear(100, 100), str(tmp_path))
    assert again.resume_or_load("", resume=True)["iteration"] == 1
