"""Checkpoints that are whole or not there, and those that a run resumes from."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from ohem_d2.utils.checkpoint import CheckedCheckpointer, find_damage

from .test_checkpoint import warnings  # noqa: F401 (a fixture)


def saved(folder, *names):
    """Checkpoints of a layer with these names, one after the other; the layer has the last one's weights."""
    layer = nn.Linear(3, 2)
    checkpointer = CheckedCheckpointer(layer, str(folder))
    for second, name in enumerate(names):
        nn.init.constant_(layer.weight, second)
        checkpointer.save(name, iteration=second)
        os.utime(folder / f"{name}.pth", (second, second))
    return layer


def resumed(folder):
    layer = nn.Linear(3, 2)
    CheckedCheckpointer(layer, str(folder)).resume_or_load("", resume=True)
    return layer.weight[0, 0].item()


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_weight(file):
    flip(file, file.read_bytes().index(np.float32(2).tobytes() * 6))


@pytest.mark.parametrize(
    "damage, told",
    [
        (cut, "which is no checkpoint, or truncated"),
        (flip_a_weight, "which is damaged in archive/data/0"),
        (lambda file: file.write_bytes(b""), "which is no checkpoint, or truncated"),
        (lambda file: file.unlink(), "which does not exist"),
    ],
    ids=["cut", "flipped", "empty", "gone"],
)
def test_the_newest_good_checkpoint_is_used_in_place_of_a_damaged_one(tmp_path, warnings, damage, told):  # noqa: F811
    saved(tmp_path, "model_0000000", "model_0000001", "model_0000002")
    damage(tmp_path / "model_0000002.pth")
    assert resumed(tmp_path) == 1
    assert told in warnings() and f"instead, {tmp_path}/model_0000001.pth is used" in warnings()


@pytest.mark.parametrize("tag", [b"", b"\x80\x04\x00\xff" * 99, b"model_0000009.pth\n", b"../other.pth"])
def test_a_bad_tag_is_named_and_the_newest_checkpoint_used(tmp_path, warnings, tag):  # noqa: F811
    saved(tmp_path, "model_0000000", "model_0000001")
    (tmp_path / "last_checkpoint").write_bytes(tag)
    assert resumed(tmp_path) == 1
    assert f"{tmp_path}/last_checkpoint names " in warnings()


def test_if_all_checkpoints_are_damaged_nothing_starts_over(tmp_path):
    saved(tmp_path, "model_0000000", "model_0000001")
    for file in tmp_path.glob("*.pth"):
        cut(file)
    with pytest.raises(ValueError, match="no checkpoint to resume from; remove .*last_checkpoint to start"):
        resumed(tmp_path)


def test_without_a_tag_there_is_no_checkpoint(tmp_path):
    saved(tmp_path, "model_0000000")
    (tmp_path / "last_checkpoint").unlink()
    assert not CheckedCheckpointer(nn.Linear(3, 2), str(tmp_path)).has_checkpoint()


def test_any_flipped_byte_is_found_or_changes_nothing(tmp_path):
    weight = saved(tmp_path, "model_0000000").weight.clone()
    file, rng = tmp_path / "model_0000000.pth", np.random.default_rng(0)
    content, found = file.read_bytes(), 0
    for place in rng.choice(len(content), 200, replace=False):
        file.write_bytes(content)
        flip(file, place)
        if find_damage(file):
            found += 1
            continue
        layer = nn.Linear(3, 2)
        try:
            CheckedCheckpointer(layer, str(tmp_path)).load(str(file))
        except ValueError:
            continue
        assert torch.equal(layer.weight, weight)
    assert found > 50


def test_weights_with_a_flipped_byte_are_refused(tmp_path):
    saved(tmp_path, "model_0000000", "model_0000001", "model_0000002")
    flip_a_weight(tmp_path / "model_0000002.pth")
    with pytest.raises(ValueError, match="model_0000002.pth cannot be read: .* damaged in archive/data/0"):
        CheckedCheckpointer(nn.Linear(3, 2)).load(str(tmp_path / "model_0000002.pth"))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    layer = saved(tmp_path, "model_0000000")

    def full(state, file):
        file.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        CheckedCheckpointer(layer, str(tmp_path)).save("model_0000000")
    monkeypatch.undo()
    assert resumed(tmp_path) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"model_0000000.pth", "last_checkpoint"}


def test_what_a_process_of_several_does_not_save_is_not_written(tmp_path):
    CheckedCheckpointer(nn.Linear(3, 2), str(tmp_path), save_to_disk=False).save("model_0000000")
    assert not list(tmp_path.iterdir())
