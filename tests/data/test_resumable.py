"""Batches that any process can go on with."""

import itertools
import multiprocessing
import random
import signal
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from ohem_d2.data import ResumableLoader
from ohem_d2.utils.images import UnreadableImageError

# Index -> whether the image is wide.
WIDE = [True, True, False, True, False, True, True, True, False, True, True]


def records():
    sizes = [(40, 30) if wide else (30, 40) for wide in WIDE]
    return [{"index": i, "width": w, "height": h, "file_name": str(i)} for i, (w, h) in enumerate(sizes)]


def drawing(record):
    """The record and a number from each generator, as augmentations draw them."""
    return {**record, "drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


def loader(**options):
    return ResumableLoader(records(), **{"mapper": drawing, "total_batch_size": 3, "seed": 7, **options})


def first(number, batches):
    return list(islice(batches, number))


def indices(batches):
    return [[sample["index"] for sample in batch] for batch in batches]


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("done", [1, 4, 5, 9])
def test_batches_go_on_after_any_of_them(done, grouping):
    whole = first(12, loader(aspect_ratio_grouping=grouping))
    rest = loader(aspect_ratio_grouping=grouping).batches(7, done)
    assert first(12 - done, rest) == whole[done:]


def test_they_are_those_of_detectron2():
    sampler = TrainingSampler(len(WIDE), seed=7)
    theirs = build_detection_train_loader(
        records(), mapper=drawing, sampler=sampler, total_batch_size=3, aspect_ratio_grouping=True
    )
    assert indices(first(12, loader())) == indices(first(12, theirs))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_map_each_image_as_the_process_itself(workers):
    assert first(8, loader(num_workers=workers).batches(7, 2)) == first(8, loader().batches(7, 2))


def test_each_draw_of_an_image_has_random_numbers_of_its_own():
    drawn = [sample["drawn"] for batch in first(12, loader(aspect_ratio_grouping=False)) for sample in batch]
    assert len({x for numbers in drawn for x in numbers}) == 3 * len(drawn)
    other = first(1, loader().batches(8))
    assert other != first(1, loader())


def test_processes_draw_other_images_with_other_numbers(monkeypatch):
    seen = []
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        half = loader(total_batch_size=6, aspect_ratio_grouping=False)
        assert half.batch_size == 3
        seen.append(first(11, half))
    monkeypatch.undo()
    both = [x for pair in zip(*(sum(batches, []) for batches in seen)) for x in pair]
    assert both == sum(first(22, loader(aspect_ratio_grouping=False)), [])


def test_another_image_stands_in_for_one_that_cannot_be_used():
    def only_even(record):
        return drawing(record) if record["index"] % 2 == 0 else None

    batches = first(9, loader(mapper=only_even, aspect_ratio_grouping=False))
    assert {i % 2 for batch in indices(batches) for i in batch} == {0}
    rest = loader(mapper=only_even, aspect_ratio_grouping=False).batches(7, 4)
    assert first(5, rest) == batches[4:]
    with pytest.raises(ValueError, match="the mapper returned None for each of 100 images"):
        next(iter(loader(mapper=lambda record: None)))


def test_a_collated_batch_is_what_the_function_makes():
    assert first(2, loader(collate_fn=len)) == [3, 3]


def test_a_batch_size_that_the_processes_do_not_divide_is_named(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(
        ValueError, match="3 images per batch .SOLVER.IMS_PER_BATCH.; valid: a multiple of the 2 proc"
    ):
        loader()


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="not on this system")
def test_workers_leave_signals_to_their_process_and_end_with_it():
    batches = iter(loader(num_workers=2))
    next(batches)
    workers = multiprocessing.active_children()
    for worker, name in itertools.product(workers, ("TERM", "INT", "USR1")):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert first(8, loader(num_workers=0))[1:] == first(7, batches)
    for worker in workers:
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0


@pytest.mark.slow
def test_a_process_that_fails_does_not_wait_for_its_workers():
    failing = """
from tests.data.test_resumable import loader
for batch in loader(num_workers=2):
    kept = batch
    raise FloatingPointError("not finite")
"""
    done = subprocess.run([sys.executable, "-c", failing], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "FloatingPointError: not finite" in done.stderr


def unreadable(record):
    if record["index"] in (2, 5):
        raise UnreadableImageError(f"{record['file_name']}.jpg cannot be read as an image: cut")
    return drawing(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_the_error_of_the_loader_itself(workers):
    with pytest.raises(
        UnreadableImageError, match=r"^[25]\.jpg cannot be read as an image: cut \(DATASETS.UNREADABLE_IMAGES"
    ):
        first(9, loader(mapper=unreadable, num_workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_counted_and_resumed_exactly(workers, caplog):
    options = {"mapper": unreadable, "skips_unreadable": True, "aspect_ratio_grouping": False}
    whole = first(12, loader(**options))
    used = [i for batch in indices(whole) for i in batch]
    assert len(used) == 36 and not {2, 5} & set(used)
    plain = [i for batch in indices(first(12, loader(aspect_ratio_grouping=False))) for i in batch]
    assert [a for a, b in zip(used, plain) if b not in (2, 5)] == [b for b in plain if b not in (2, 5)]
    caplog.clear()
    rest = loader(**options, num_workers=workers).batches(7, 4)
    assert first(8, rest) == whole[4:]
    told = sorted(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert [text.split(" cannot")[0] for text in told] == ["2.jpg", "5.jpg"]
    assert {text.rpartition(": ")[2] for text in told} == {"1)", "2)"}


def test_a_data_set_without_a_readable_image_is_an_error():
    def broken(record):
        raise UnreadableImageError("x.jpg cannot be read as an image: cut")

    with pytest.raises(ValueError, match="100 of 100 images are unreadable; the last: x.jpg cannot"):
        next(iter(loader(mapper=broken, skips_unreadable=True)))
