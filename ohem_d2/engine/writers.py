"""Writing of measurements that a full disk does not end a training by."""

import logging

from detectron2.utils.events import EventWriter

__all__ = ["PatientWriter"]

logger = logging.getLogger(__name__)


class PatientWriter(EventWriter):
    """Writes as another `EventWriter`; a file that cannot be written is a warning, once, and no error.

    What was not written is lost. It tries again each time, since a disk may have room again.
    """

    def __init__(self, writer: EventWriter):
        """Write by `writer`."""
        self._writer = writer
        self._has_warned = False

    def write(self, **kwargs) -> None:
        self._try(self._writer.write, **kwargs)

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, function, **kwargs) -> None:
        try:
            function(**kwargs)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                file = getattr(self._writer, "_file_handle", None)  # of Detectron2's JSONWriter
                name = getattr(file, "name", type(self._writer).__name__)
                logger.warning("%s cannot be written: %s; training goes on without it", name, error)
