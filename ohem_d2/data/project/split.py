"""Which images are trained on."""

import random
from collections.abc import Sequence

from ..layouts import LabelledImage

__all__ = ["SPLITS", "draw_split", "has_split"]

SPLITS = ("train", "val", "test")


def has_split(images: Sequence[LabelledImage]) -> bool:
    """Whether some images are for training and others not."""
    splits = {image.split for image in images}
    return "train" in splits and bool(splits & {"val", "test"})


def draw_split(images: Sequence[LabelledImage], seed: int = 0, share: float = 0.2) -> None:
    """Set the ``split`` of all images: "val" for about a `share`, drawn at random, "train" for the others.

    The images of the rarest class are drawn from first, rounded in favour of training, so that each class is
    in training and, where five images or more have it, in "val". What is rounded off goes to the next class.

    Raises:
        ValueError: fewer than two images.
    """
    if len(images) < 2:
        raise ValueError("found 1 image; expected at least 2, one to train on and one to test on")
    rng, left = random.Random(seed), list(images)
    rng.shuffle(left)
    classes = [{a["category"] for a in image.annotations} for image in images]
    counts = {name: sum(name in c for c in classes) for name in sorted(set().union(*classes))}
    owed = 0.0
    for name in [*sorted(counts, key=counts.get), None]:
        group = [image for image in left if name is None or _has(image, name)]
        wanted = share * len(group) + owed
        number = min(int(wanted + 1e-9), max(len(group) - 1, 0))
        owed = wanted - number
        for i, image in enumerate(group):
            image.split = "val" if i < number else "train"
        left = [image for image in left if name is not None and not _has(image, name)]
    if all(image.split == "train" for image in images):
        _move_one(images, counts)


def _has(image: LabelledImage, name: str) -> bool:
    return any(annotation["category"] == name for annotation in image.annotations)


def _move_one(images: Sequence[LabelledImage], counts: dict[str, int]) -> None:
    """Move to "val" the image whose classes the others have most of, or else one without objects."""

    def spare(image: LabelledImage) -> float:
        return min((counts[a["category"]] for a in image.annotations), default=1.5)

    max(images, key=spare).split = "val"
