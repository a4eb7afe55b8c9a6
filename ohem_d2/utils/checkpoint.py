"""Checkpoints: the image format of their weights, and loading that refuses weights that do not fit."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

FORMATS = ("BGR", "RGB")


@dataclass(frozen=True)
class ImageInput:
    """The input of a network: ``(pixel - pixel_mean) / pixel_std``, with channels in the order `format`."""

    # "BGR" or "RGB", as INPUT.FORMAT.
    format: str
    # For pixels in [0, 255], in the order of the channels, as MODEL.PIXEL_MEAN and MODEL.PIXEL_STD.
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"image format {self.format!r}; valid: {', '.join(FORMATS)}")
        if len(self.pixel_mean) != 3 or len(self.pixel_std) != 3 or min(self.pixel_std) <= 0:
            raise ValueError(
                f"mean {self.pixel_mean} and std {self.pixel_std}; valid: three numbers each, the std above 0"
            )

    def to(self, image_format: str) -> "ImageInput":
        """The same input with its channels in the order `image_format`."""
        turn = 1 if image_format == self.format else -1
        return ImageInput(image_format, self.pixel_mean[::turn], self.pixel_std[::turn])

    def differs_from(self, other: "ImageInput") -> bool:
        """Whether format, mean or std differ, the numbers by more than 0.01."""
        pairs = zip([*self.pixel_mean, *self.pixel_std], [*other.pixel_mean, *other.pixel_std])
        return self.format != other.format or any(abs(a - b) > 0.01 for a, b in pairs)

    def __str__(self) -> str:
        mean, std = ([round(x, 4) for x in values] for values in (self.pixel_mean, self.pixel_std))
        return f"INPUT.FORMAT {self.format} MODEL.PIXEL_MEAN {mean} MODEL.PIXEL_STD {std}".replace(", ", ",")


class CheckedCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that refuses weights which can only be a mistake.

    As in Detectron2, the log warns of parameters that are missing from the file, unexpected or of another
    shape: a detector that starts from a classification network lacks some.

    Attributes:
        missing_keys: keys of the model's state dict that the file loaded last lacks.
    """

    missing_keys: Sequence[str] = ()
    _path = ""

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file cannot be read, no parameter of it fits the model, or it is for images of
                another format, mean or std than the model's (see ``tools/convert_weights.py``).
        """
        self._path = path
        parsed = urlparse(path or "")
        if path and not parsed.scheme and not os.path.isfile(parsed.path):
            raise FileNotFoundError(
                f"weights {path} do not exist; tools/convert_weights.py makes those of torchvision and Caffe"
            )
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return super()._load_file(filename)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"weights {self._path} are no checkpoint, or truncated: {str(error).partition(chr(10))[0]}"
            ) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        check_input(checkpoint, self.model, self._path)
        names = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        self.missing_keys = list(incompatible.missing_keys)
        own = list(self.model.state_dict())
        if own and not set(own) - set(self.missing_keys) - {key for key, *_ in incompatible.incorrect_shapes}:
            raise ValueError(
                f"weights {self._path} fit no parameter of the model: they have {', '.join(names[:3])}, ...; "
                f"the model has {', '.join(own[:3])}, ..."
            )
        return incompatible


def check_input(checkpoint: dict[str, Any], model: nn.Module, path: str) -> None:
    """Check that `model` has the image input that is recorded in `checkpoint`, if any.

    Raises:
        ValueError: it has another one; the message gives the keys to set.
    """
    if "image_input" not in checkpoint or not hasattr(model, "pixel_mean"):
        return
    wanted = ImageInput(**{k: v if k == "format" else tuple(v) for k, v in checkpoint["image_input"].items()})
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (model.pixel_mean, model.pixel_std))
    if wanted.differs_from(ImageInput(model.input_format, mean, std)):
        has = ImageInput(model.input_format, mean, std)
        raise ValueError(f"{path} is for images of another kind: the config has {has}; set {wanted}")
