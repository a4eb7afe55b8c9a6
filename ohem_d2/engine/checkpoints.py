"""Loading of weights: what does not fit is reported or refused."""

import os
import pickle
from typing import Any, Dict
from urllib.parse import urlparse

from detectron2.checkpoint import DetectionCheckpointer

from ..modeling.weights import check_input


class CheckedCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` that refuses weights which can only be a mistake.

    Parameters that the file lacks, has in another shape or has too many are warned of by name, as ever: a
    detector that starts from a classification network lacks some.
    """

    _path = ""

    def load(self, path: str, *args, **kwargs) -> Dict[str, Any]:
        """
        Raises:
            FileNotFoundError: no such file.
            ValueError: the file cannot be read; no parameter of it fits the model; or it is for images
                of another format, mean or std than the model's (see ``tools/convert_weights.py``).
        """
        self._path = path
        parsed = urlparse(path or "")
        if path and not parsed.scheme and not os.path.isfile(parsed.path):
            raise FileNotFoundError(
                f"weights {path} do not exist; tools/convert_weights.py makes those of torchvision and Caffe"
            )
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> Dict[str, Any]:
        try:
            return super()._load_file(filename)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(
                f"weights {self._path} are no checkpoint, or truncated: {str(error).partition(chr(10))[0]}"
            ) from error

    def _load_model(self, checkpoint: Dict[str, Any]) -> Any:
        check_input(checkpoint, self.model, self._path)
        names = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        own = list(self.model.state_dict())
        if own and not set(own) - set(incompatible.missing_keys) - {
            key for key, *_ in incompatible.incorrect_shapes
        }:
            raise ValueError(
                f"weights {self._path} fit no parameter of the model: they have {', '.join(names[:3])}, ...; "
                f"the model has {', '.join(own[:3])}, ..."
            )
        return incompatible
