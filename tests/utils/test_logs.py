import logging

from ohem_d2.utils.logs import held_records


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
