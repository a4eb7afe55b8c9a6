"""Records of mined RoIs: what is written is read, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from ohem_d2.utils.mined_rois import MinedRoIs

# Two visits, of images b and a, with one and two RoIs.
MINED = MinedRoIs(
    images=["a", "b"],
    iterations=np.array([0, 0]),
    visited=np.array([1, 0]),
    sizes=np.array([[40, 30], [40, 30]]),
    offsets=np.array([0, 1, 3]),
    boxes=np.arange(12, dtype=np.float32).reshape(3, 4),
    labels=np.array([0, 2, 2]),
    objects=np.array([0, -1, -1]),
    ious=np.array([0.6, 0.1, 0.0], np.float32),
    cls_losses=np.array([1.0, 2.0, 3.0], np.float32),
    box_losses=np.array([0.5, 0.0, 0.0], np.float32),
)


def test_what_is_saved_is_loaded(tmp_path):
    MINED.save(tmp_path / "mined.safetensors")
    loaded = MinedRoIs.load(tmp_path / "mined.safetensors")
    assert loaded.images == ["a", "b"] and loaded.offsets.tolist() == [0, 1, 3]
    second = loaded.take(np.array([1]))
    assert second.images == ["a"] and second.cls_losses.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "change",
    [
        {"images": ["a"]},  # the first visit is of image 1
        {"images": "ab"},
        {"images": [0, 1]},
        {"visited": np.array([1, -1])},
        {"visited": np.array([1])},
        {"visited": np.array([1.0, 0.0])},
        {"offsets": np.array([0, 2, 1])},
        {"offsets": np.array([1, 1, 3])},
        {"offsets": np.array([0, 1, 2])},
        {"offsets": np.array([0, 4, 3])},
        {"sizes": np.array([[40, 30]])},
        {"boxes": MINED.boxes[:2]},
        {"ious": np.array([1, 0, 0])},
    ],
    ids=str,
)
def test_arrays_that_do_not_belong_together_are_refused(change, tmp_path):
    file = tmp_path / "mined.safetensors"
    replace(MINED, **change).save(file)
    with pytest.raises(ValueError) as error:
        MinedRoIs.load(file)
    assert str(error.value) == f"{file}: damaged: its arrays do not belong together"
