"""Checkpoints: the image format of their weights, and loading that refuses weights that do not fit."""

import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .files import atomic_file
from .messages import name_some
from .weights_files import read_weights

FORMATS = ("BGR", "RGB")
# What zipfile raises for damaged bytes.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
)


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
    _is_resuming = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._good: set[tuple[str, int, int]] = set()  # path, time and size of files without damage

    def save(self, name: str, **kwargs: Any) -> None:
        """Write the checkpoint ``name.pth`` as a whole or not at all, then the tag that names it as the last.

        Raises:
            OSError: the folder cannot be written, or the disk is full.
            FloatingPointError: weights are not finite; nothing is written.
        """
        if wrong := name_not_finite(self.model):
            raise FloatingPointError(f"{name}.pth is not written: {wrong[0]} is not finite")
        if urlparse(self.save_dir).scheme:  # not a folder of this machine
            super().save(name, **kwargs)
        elif self.save_dir and self.save_to_disk:
            state = {key: value.state_dict() for key, value in self.checkpointables.items()}
            path = os.path.join(self.save_dir, f"{name}.pth")
            self.logger.info("Saving checkpoint to %s", path)
            with atomic_file(path) as file:
                _save({"model": self.model.state_dict(), **state, **kwargs}, file)
            self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        if urlparse(self.save_dir).scheme:
            super().tag_last_checkpoint(last_filename_basename)
            return
        with atomic_file(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The checkpoint that ``last_checkpoint`` names; if that is damaged, the newest that is not; or "".

        A warning says which is used instead. Without a ``last_checkpoint`` there is none.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        if urlparse(self.save_dir).scheme:
            return super().get_checkpoint_file()
        folder = Path(self.save_dir)
        tag = folder / "last_checkpoint"
        if not tag.exists():
            return ""
        name = tag.read_bytes()[:200].decode(errors="replace").strip()
        saved = sorted(folder.glob("model_*.pth"), key=lambda file: file.stat().st_mtime, reverse=True)
        wrong = []
        for file in [folder / name, *saved]:
            damage = self._damage(file)
            if damage is None:
                if wrong:
                    self.logger.warning("%s; instead, %s is used", wrong[0], file)
                return str(file)
            wrong.append(f"{file} {damage}" if wrong else f"{tag} names {name!r}, which {damage}")
        raise ValueError(f"no checkpoint to resume from; remove {tag} to start over: {'; '.join(wrong)}")

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last good checkpoint with the state of the training, if `resume` and there is one.

        Else only the weights in the file `path`.

        Raises:
            ValueError: the checkpoint to resume from is of another model; see also `load`.
        """
        self._is_resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self._is_resuming = False

    def _damage(self, file: Path) -> str | None:
        """What is wrong with a file; None if nothing is. What was found good is not read again."""
        if not file.is_file():
            return "does not exist"
        status = file.stat()
        known = (str(file), status.st_mtime_ns, status.st_size)
        if known not in self._good:
            damage = find_damage(file)
            if damage is not None:
                return damage
            self._good.add(known)
        return None

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
            if zipfile.is_zipfile(filename) and (damage := self._damage(Path(filename))):
                raise ValueError(f"the file {damage}")
            checkpoint = read_weights(filename)
        except (ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"weights {self._path} cannot be read: {error}") from error
        if parse_qs(urlparse(self._path).query).get("matching_heuristics") == ["True"]:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        check_input(checkpoint, self.model, self._path)
        names = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        self.missing_keys = list(incompatible.missing_keys)
        if self._is_resuming:
            self._check_complete(incompatible)
        own = list(self.model.state_dict())
        if own and not set(own) - set(self.missing_keys) - {key for key, *_ in incompatible.incorrect_shapes}:
            raise ValueError(
                f"weights {self._path} fit no parameter of the model: they have {', '.join(names[:3])}, ...; "
                f"the model has {', '.join(own[:3])}, ..."
            )
        return incompatible

    def _check_complete(self, incompatible: Any) -> None:
        """Raise ValueError unless checkpoint and model have the same parameters, of the same shapes."""
        shapes = {key: f"{was} in the checkpoint, {now} in the model"
                  for key, was, now in incompatible.incorrect_shapes}  # fmt: skip
        missing = [key for key in incompatible.missing_keys if key not in shapes]
        differ = [f"{key}: {sizes}" for key, sizes in shapes.items()]
        differ += [f"{key} only in the model" for key in missing]
        differ += [f"{key} only in the checkpoint" for key in incompatible.unexpected_keys]
        if differ:
            raise ValueError(
                f"{self._path} is a checkpoint of another model, {len(differ)} parameters differ: "
                f"{name_some(differ, 3)}; resume with the config that it was trained with"
            )


def _save(content: dict[str, Any], file: BinaryIO) -> None:
    """``torch.save``, which hides the error of a file that cannot be written behind one of its own."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_trained(
    model: nn.Module,
    path: str,
    key: str,
    folder: str = "",
    resume: bool = False,
    may_be_random: bool = False,
) -> None:
    """Load the weights of a model that is not trained any more.

    Args:
        model: what is loaded.
        path: file of the weights; "": none.
        key: where the path is set, for errors.
        folder: of the checkpoints of a training.
        resume: the last checkpoint in `folder` goes before `path`, if there is one.
        may_be_random: only warn of parameters that are not in the file.

    Raises:
        ValueError: there are no weights, or not all of the model.
        FileNotFoundError, ValueError: see `CheckedCheckpointer`.
    """
    checkpointer = CheckedCheckpointer(model, save_dir=folder)
    checkpointer.resume_or_load(path, resume=resume)
    random = checkpointer.missing_keys if checkpointer._path else list(model.state_dict())
    if not random:
        return
    told, cure = f"{key} is empty", "give the file of the trained weights"
    if checkpointer._path:
        names = name_some(random, 3)
        told = f"{key} {checkpointer._path} lacks {len(random)} parameters of the model: {names}"
        cure = "give weights that were trained with this config"
    if not may_be_random:
        raise ValueError(f"{told}; {cure}")
    checkpointer.logger.warning("%s; they are random, the model is not trained", told)


def name_not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters with numbers that are not finite, and of the buffers with NaN.

    A buffer may have infinite numbers on purpose, such as a mask of attention.
    """
    wrong = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    return wrong + [name for name, buffer in model.named_buffers() if buffer.isnan().any()]


def find_damage(file: str | Path) -> str | None:
    """What is wrong with a file of ``torch.save``; None if nothing is.

    Each tensor in it has a checksum, which PyTorch does not look at when it loads.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except _ZIP_ERRORS:
        return "is no checkpoint, or truncated"
    except OSError as error:  # also of a place in the file that a damaged byte gives
        return f"cannot be read: {error.strerror}"
    return f"is damaged in {damaged}" if damaged else None


def check_input(checkpoint: dict[str, Any], model: nn.Module, path: str) -> None:
    """Check that `model` has the image input that is recorded in `checkpoint`, if any.

    Raises:
        ValueError: it has another one; the message gives the keys to set.
    """
    if "image_input" not in checkpoint or not hasattr(model, "pixel_mean"):
        return
    try:
        wanted = ImageInput(
            **{k: v if k == "format" else tuple(v) for k, v in checkpoint["image_input"].items()}
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its image_input cannot be read: {error}") from None
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (model.pixel_mean, model.pixel_std))
    if wanted.differs_from(ImageInput(model.input_format, mean, std)):
        has = ImageInput(model.input_format, mean, std)
        raise ValueError(f"{path} is for images of another kind: the config has {has}; set {wanted}")
