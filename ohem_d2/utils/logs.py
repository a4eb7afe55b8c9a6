"""Logging before the log file is known."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler

__all__ = ["held_records"]


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
