"""Labels made wrong on purpose, and the record of which ones are wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .voc_xml import LabelledBox

__all__ = ["WRONG_KINDS", "WrongLabel", "corrupt_labels"]

SHIFT_RANGE = (0.3, 0.6)  # of a shifted box, as a share of its sides: IoU with the true one about 0.2 to 0.5


@dataclass(frozen=True)
class WrongLabel:
    """What is wrong with one label."""

    image_id: str
    kind: str  # of WRONG_KINDS
    index: int | None  # of the label among those of the image; None: there is none
    label: LabelledBox | None  # None: deleted
    truth: LabelledBox


class Setting(NamedTuple):
    """What a label may become."""

    class_names: Sequence[str]
    size: tuple[float, float]  # of the image: width, height


def delete(rng: np.random.Generator, truth: LabelledBox, setting: Setting) -> None:
    return None


def flip(rng: np.random.Generator, truth: LabelledBox, setting: Setting) -> LabelledBox:
    """With another class, all equally likely."""
    others = [name for name in setting.class_names if name != truth.category]
    return replace(truth, category=str(rng.choice(others)))


def shift(rng: np.random.Generator, truth: LabelledBox, setting: Setting) -> LabelledBox:
    """With the box moved in a random direction, the opposite one where it would leave the image; clipped."""
    low, high = np.reshape(truth.box, (2, 2))
    angle = rng.uniform(0, 2 * np.pi)
    step = rng.uniform(*SHIFT_RANGE) * np.array([np.cos(angle), np.sin(angle)]) * (high - low)
    step = np.sign(step) * np.ceil(abs(step))
    step = np.where((low + step < 0) | (high + step > setting.size), -step, step)
    corners = np.clip([low + step, high + step], 0, setting.size).astype(int)
    return replace(truth, box=tuple(corners.ravel().tolist()))


WRONG_KINDS = {"deleted": delete, "flipped": flip, "shifted": shift}


def corrupt_labels(
    rng: np.random.Generator,
    truths: Mapping[str, Sequence[LabelledBox]],
    shares: Mapping[str, float],
    class_names: Sequence[str],
    sizes: Mapping[str, tuple[float, float]],
) -> tuple[dict[str, list[LabelledBox]], list[WrongLabel]]:
    """Make a share of the labels wrong.

    Args:
        rng: of one seed, a larger share of a kind has the wrong labels of a smaller one, and more.
        truths: the objects of each image, by its id; those that are of no class (crowds) stay as they are.
        shares: kind -> share of all labels, in [0, 1]. No label is wrong in two ways.
        class_names: two at least, where labels are flipped.
        sizes: width and height of each image.

    Returns:
        the labels of each image and what is wrong with them, by image and object.
    """
    places = [(image_id, row) for image_id, objects in truths.items() for row, truth in enumerate(objects)
              if truth.category in class_names]  # fmt: skip
    kinds = [kind for kind in WRONG_KINDS for _ in range(round(shares.get(kind, 0.0) * len(places)))]
    chosen = {places[index]: kind for index, kind in zip(rng.permutation(len(places)), kinds)}
    changed = {
        (image_id, row): WRONG_KINDS[kind](rng, truths[image_id][row], Setting(class_names, sizes[image_id]))
        for (image_id, row), kind in chosen.items()
    }
    labels, wrong = {}, []
    for image_id, objects in truths.items():
        labels[image_id] = of_image = []
        for row, truth in enumerate(objects):
            label = changed.get((image_id, row), truth)
            if (image_id, row) in chosen:
                index = None if label is None else len(of_image)
                wrong.append(WrongLabel(image_id, chosen[image_id, row], index, label, truth))
            if label is not None:
                of_image.append(label)
    return labels, wrong
