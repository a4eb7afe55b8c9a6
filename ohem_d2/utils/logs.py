"""Logging before the log file is known, and what of it the console shows."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

__all__ = ["held_records", "keep_tracebacks_off_console"]


@contextmanager
def held_records(name: str) -> Iterator[list[logging.LogRecord]]:
    """Collect what the logger `name`, which has no handler yet, is told inside the block, from INFO on.

    ``logger.handle(record)`` logs each of them later.
    """
    logger, handler = logging.getLogger(name), MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def keep_tracebacks_off_console(names: Iterable[str]) -> None:
    """Leave records with a traceback to the log files of the loggers `names`, and the errors of these too.

    What ends a program is said by its last line. A record that cannot be written, as to a full disk, is told
    once, not by a traceback for each.
    """
    for handler in (handler for name in names for handler in logging.getLogger(name).handlers):
        if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
            handler.addFilter(_has_no_traceback)
        else:
            handler.handleError = _TellOnce(handler)  # type: ignore[method-assign]


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


class _TellOnce:
    """In place of the ``handleError`` of a handler."""

    _told: set[str] = set()

    def __init__(self, handler: logging.Handler) -> None:
        self._name = getattr(getattr(handler, "stream", None), "name", str(handler))

    def __call__(self, record: logging.LogRecord) -> None:
        if self._name not in self._told:
            self._told.add(self._name)
            error = sys.exc_info()[1]
            print(f"WARNING: {self._name} cannot be written: {error}; the program goes on", file=sys.stderr)
