"""The line and the warnings of mining, from figures written by hand."""

import logging
import math
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from ohem_d2.engine.mining_log import MiningPrinter

FIGURES = {
    "ohem/num_candidates": 481,
    "ohem/num_selected": 64,
    "ohem/fg_fraction": 0.38,
    "ohem/mean_selected_loss": 2.1,
    "ohem/mean_loss": 0.31,
    "ohem/easiest_selected_loss": 0.4,
    "ohem/hardest_dropped_loss": 0.3,
    "loss_cls": 1.0,
}
LINE = (
    "mined 64 of 481 RoIs an image: 38% foreground, loss 2.1, of all 0.31, easiest 0.4, hardest dropped 0.3"
)


@pytest.fixture
def run(caplog):
    """``run(figures, ...)`` logs after each list of figures per iteration; returns lines and warnings."""

    def run(*periods, num_classes=20):
        printer = MiningPrinter(SimpleNamespace(roi_heads=SimpleNamespace(num_classes=num_classes)))
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="ohem_d2"), EventStorage() as storage:
            for figures in periods:
                for of_iteration in figures:
                    storage.put_scalars(**of_iteration)
                    storage.step()
                storage.iter -= 1  # as in `after_step`
                printer.write()
                storage.iter += 1
            printer.write()  # as after the training: nothing is new
        messages = [(record.levelno, record.getMessage()) for record in caplog.records]
        return [[text for level, text in messages if level == wanted] for wanted in (20, 30)]

    return run


def changed(num=100, **figures):
    return [{**FIGURES, **{key.replace("__", "/"): value for key, value in figures.items()}}] * num


def test_a_line_has_the_means_of_its_period_alone(run):
    lines, warnings = run([FIGURES], [{**FIGURES, "ohem/mean_loss": x} for x in (0.1, 0.3)])
    assert lines == [LINE, LINE.replace("of all 0.31", "of all 0.2")] and not warnings


def test_a_figure_without_a_value_is_left_out_and_so_is_the_line_of_what_is_not_mined(run):
    few = {key: FIGURES[key] for key in ("ohem/num_selected", "ohem/mean_selected_loss")}
    assert run([few])[0] == ["mined 64 RoIs an image: loss 2.1"]
    assert run([{"loss_cls": 1.0, "ohem/all_roi_loss": 0.5}]) == [[], []]


def test_anchors_have_a_line_of_their_own(run):
    rpn = {key.replace("ohem/", "ohem/rpn/"): value for key, value in FIGURES.items()}
    rpn["ohem/rpn/num_selected"] = 256
    assert run([{**FIGURES, **rpn}])[0] == [
        LINE,
        LINE.replace("64 of 481 RoIs", "256 of 481 anchors of the RPN"),
    ]


STUCK = math.log(21)


@pytest.mark.parametrize(
    "figure, bad, fine, message",
    [
        ("ohem__easiest_selected_loss", 0.009, 0.011,
         "RoIs with a loss below 0.01 have been mined: the budget is larger than what "
         "is hard; lower MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
        ("ohem__fg_fraction", 0.02, 0.04, "less than 3% of the mined RoIs have been foreground"),
        ("ohem__fg_fraction", 0.95, 0.85, "more than 90% of the mined RoIs have been foreground"),
        ("loss_cls", 0.97 * STUCK, 0.9 * STUCK,
         "the classification loss has been ln(K + 1) = 3.04, that of equal scores"),
        ("loss_cls", 1.03 * STUCK, 1.1 * STUCK, "the classification loss has been ln(K + 1)"),
    ],
)  # fmt: skip
def test_a_state_that_lasts_is_warned_of_once(run, figure, bad, fine, message):
    (warning,) = run(changed(**{figure: bad}), changed(**{figure: bad}))[1]
    assert warning.startswith(f"For 100 iterations {message}")
    assert not run(changed(99, **{figure: bad}))[1]
    for position in (0, 99):
        figures = changed(**{figure: bad})
        figures[position] = changed(1, **{figure: fine})[0]
        assert not run(figures)[1]


def test_batches_of_one_iteration_count_as_one(caplog):
    printer = MiningPrinter(SimpleNamespace())
    with EventStorage() as storage:
        for i, figures in enumerate(changed(110, ohem__fg_fraction=0.95)):
            storage.iter = i // 2  # two batches an iteration
            storage.put_scalars(**figures)
        printer.write()
    assert not caplog.records


def test_the_first_stage_of_a_cascade_is_judged_and_a_model_without_mining_is_not(run):
    cascade = [{key: v for key, v in FIGURES.items() if key != "loss_cls"} | {"loss_cls_stage0": STUCK}] * 100
    assert "that of equal scores" in run(cascade)[1][0]
    assert not run([{"loss_cls": STUCK}] * 100)[1]


def test_a_budget_of_anchors_is_named_by_its_key(run):
    (warning,) = run([{"ohem/rpn/num_selected": 256, "ohem/rpn/easiest_selected_loss": 0.001}] * 100)[1]
    assert warning.endswith("lower MODEL.OHEM.RPN.BATCH_SIZE_PER_IMAGE")
