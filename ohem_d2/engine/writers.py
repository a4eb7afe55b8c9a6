"""Writing of measurements that a full disk does not end a training by."""

import logging

from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["PatientWriter"]

logger = logging.getLogger(__name__)


class PatientWriter(EventWriter):
    """Writes as another `EventWriter`; a file that cannot be written is a warning, once, and no error.

    What was not written is lost. It tries again each time, since a disk may have room again; TensorBoard's
    writer does not recover.
    """

    def __init__(self, writer: EventWriter):
        """Write by `writer`."""
        self._writer = writer
        self._has_warned = False

    def write(self, **kwargs) -> None:
        if not self._try(self._writer.write, **kwargs):
            get_event_storage().clear_images()  # they would pile up

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, function, **kwargs) -> bool:
        """Whether a function wrote."""
        try:
            function(**kwargs)
            return True
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                file = getattr(self._writer, "_file_handle", None)  # of Detectron2's JSONWriter
                name = getattr(file, "name", type(self._writer).__name__)
                logger.warning("%s cannot be written: %s; training goes on without it", name, error)
            return False
