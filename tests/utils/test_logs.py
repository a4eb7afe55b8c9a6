import logging
import sys

import pytest
from torch._utils import ExceptionWrapper

from ohem_d2.utils.logs import held_records, keep_tracebacks_off_console
from ohem_d2.utils.messages import describe_error


def test_what_is_logged_inside_waits_in_order_and_what_comes_after_does_not():
    logger = logging.getLogger("held")
    with held_records("held") as records:
        logger.debug("left out")
        logging.getLogger("held.child").info("one of %d", 2)
        logger.warning("two")
    logger.warning("after")
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("INFO", "one of 2"),
        ("WARNING", "two"),
    ]
    assert not logger.handlers and logger.level == logging.NOTSET


def test_they_are_not_lost_between_the_block_and_the_handler(capsys):
    logger = logging.getLogger("held")
    logger.propagate = False
    with held_records("held") as records:
        logger.warning("late")
    assert capsys.readouterr().err == ""
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    for record in records:
        logger.handle(record)
    logger.removeHandler(handler)
    assert capsys.readouterr().err == "late\n"


class Full:
    """A file on a full disk."""

    name = "full/log.txt"

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self): ...


def test_a_traceback_is_in_the_file_alone_and_a_full_disk_is_told_once(tmp_path, capsys):
    logger = logging.getLogger("kept")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.StreamHandler(Full()))
    logger.addHandler(logging.FileHandler(tmp_path / "log.txt"))
    keep_tracebacks_off_console(["kept"])
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("in training")
    logger.warning("plain")
    logging.getLogger("kept").handlers.clear()
    out, err = capsys.readouterr()
    assert out == "plain\n"
    full = "full/log.txt cannot be written: [Errno 28] No space left on device; the program goes on"
    assert err == f"WARNING: {full}\n"
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_an_error_is_one_line_also_one_of_a_worker():
    def load():
        raise ValueError("a.jpg: cut")

    try:
        load()
    except ValueError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(ValueError) as caught:
        wrapped.reraise()
    assert describe_error(caught.value) == "ValueError: a.jpg: cut"
    assert describe_error(KeyError("no x")) == "KeyError: no x"
    assert describe_error(RuntimeError("a\n  b")) == "RuntimeError: a b"
