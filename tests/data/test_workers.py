"""Loader workers that are stopped, killed, or have no room to hand images over."""

import os
import signal
import time
from multiprocessing import active_children

import pytest
import torch
from detectron2.data import build_detection_test_loader
from torch.utils.data import DataLoader

from ohem_d2.data.workers import WatchedLoader, worker_errors_explained

from .test_resumable import first, loader


def workers():
    return sorted(active_children(), key=lambda worker: worker.pid)


def sleep(record):
    time.sleep(60)


def with_image(record):
    return {**record, "image": torch.zeros(1000)}


@pytest.mark.parametrize("mapper", [dict, with_image])
def test_a_stopped_worker_is_named_after_the_timeout_and_ended(mapper):
    """Also where it was stopped before it handed over a tensor that it has sent."""
    batches = iter(loader(num_workers=2, timeout=2, mapper=mapper))
    next(batches)
    started = workers()
    os.kill(started[1].pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(RuntimeError) as error:
        first(100, batches)
    assert str(error.value) == (
        "no image from the 2 loader workers for 2 seconds (DATALOADER.TIMEOUT; 0 waits for ever): "
        f"worker {started[1].pid} is stopped (SIGSTOP)"
    )
    assert 2 <= time.monotonic() - begin < 30
    for worker in started:
        worker.join(10)
    assert [worker.exitcode for worker in started] == [-signal.SIGKILL] * 2


def test_a_worker_that_does_not_end_its_work_is_no_stopped_one():
    batches = iter(loader(num_workers=1, timeout=1, mapper=sleep))
    with pytest.raises(RuntimeError, match="none is stopped; reading an image takes longer, or does not end"):
        next(batches)


def test_without_a_timeout_images_are_waited_for():
    slow = loader(num_workers=1, timeout=0, mapper=lambda record: time.sleep(0.3) or record)
    assert len(next(iter(slow))) == 3


@pytest.mark.parametrize("mapper", [dict, with_image])
def test_a_killed_worker_is_an_error_of_one_line(mapper):
    """Also where it is noticed by a tensor that it has sent and not handed over."""
    batches = iter(loader(num_workers=2, mapper=mapper, timeout=0))
    next(batches)
    pid = workers()[-1].pid
    with pytest.raises(RuntimeError) as error, worker_errors_explained():
        os.kill(pid, signal.SIGKILL)
        first(100, batches)
    assert str(error.value) == (
        f"loader worker {pid} was killed (Killed). The system kills what takes too much memory: lower "
        "DATALOADER.NUM_WORKERS; --resume goes on from the last checkpoint"
    )


def test_a_process_that_works_for_long_between_two_images_is_not_the_workers_fault():
    batches = iter(loader(num_workers=1, timeout=0.5))
    next(batches)
    time.sleep(1.5)
    assert len(first(3, batches)) == 3


def test_errors_of_a_mapper_are_left_as_they_are():
    def fail(record):
        raise RuntimeError("bad image a.jpg")

    with pytest.raises(RuntimeError, match="Caught RuntimeError .*(\n.*)*bad image a.jpg"):
        with worker_errors_explained():
            next(iter(loader(num_workers=1, mapper=fail)))


def test_a_watched_test_loader_has_the_batches_of_the_other():
    theirs = build_detection_test_loader([{"index": i} for i in range(5)], mapper=dict, num_workers=1)
    ours = WatchedLoader.of(theirs, timeout=3)
    assert list(ours) == list(theirs) == [[{"index": i}] for i in range(5)]
    assert len(ours) == 5 and ours._patience == 3 and ours.num_workers == 1


def test_an_image_that_cannot_be_sent_is_not_waited_for(capfd):
    batches = iter(loader(num_workers=1, mapper=lambda record: {**record, "open": open(os.devnull)}))
    told = r"loader worker \d+ could not hand an image over, for the reason that it told above"
    with pytest.raises(RuntimeError, match=told), worker_errors_explained():
        next(batches)
    assert "cannot send an image: cannot pickle '_io.TextIOWrapper' object" in capfd.readouterr().err


def no_room_left(record):
    """An error of PyTorch's when an image is handed over, where /dev/shm is full."""

    class Image:
        def __reduce__(self):
            raise RuntimeError("unable to write to file </torch_1>: No space left on device, shared memory")

    return Image()


def test_an_image_for_which_there_is_no_room_is_explained_as_too_little_shared_memory(capfd):
    batches = iter(loader(num_workers=1, mapper=no_room_left))
    told = r"loader worker \d+ could not hand an image over: shared memory, /dev/shm, is too small"
    with pytest.raises(RuntimeError, match=told), worker_errors_explained():
        next(batches)


def test_workers_that_cannot_start_for_want_of_room(monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DataLoader, "__iter__", full)
    told = (
        r"the loader workers cannot start: shared memory, /dev/shm, is too small \(\d+ of \d+ MiB are free\)"
    )
    with pytest.raises(RuntimeError, match=told):
        next(iter(loader(num_workers=1)))


def test_a_bus_error_is_explained_as_too_little_shared_memory():
    theirs = (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers"
    )
    with pytest.raises(RuntimeError, match="loader worker 7 could not hand an image over: shared memory"):
        with worker_errors_explained():
            raise RuntimeError(theirs)
