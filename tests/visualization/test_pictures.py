import numpy as np
import pytest

from ohem_d2.visualization import class_colours, draw_boxes, tile
from ohem_d2.visualization.pictures import BACKGROUND, PALETTE, WHITE

BLACK = np.zeros((40, 60, 3), np.uint8)


def test_a_class_has_its_own_colour_and_the_background_is_grey():
    assert class_colours([0, 2, 3], num_classes=3) == [PALETTE[0], PALETTE[2], BACKGROUND]
    assert class_colours([7], num_classes=9) == [PALETTE[0]]


def test_a_box_has_its_colour_between_white_lines_and_the_image_is_left_alone():
    drawn = draw_boxes(BLACK, np.array([[10, 5, 30, 25]]), [PALETTE[1]], width=2)
    across = [tuple(drawn[15, x]) for x in range(8, 14)]  # the left side, at x = 10 and 11
    assert across == [(0, 0, 0), WHITE, PALETTE[1], PALETTE[1], WHITE, (0, 0, 0)]
    assert tuple(drawn[15, 30]) == PALETTE[1] and tuple(drawn[15, 31]) == WHITE
    assert drawn[15, 20].sum() == 0 and BLACK.sum() == 0


def test_a_later_box_lies_on_top_and_a_text_is_written_inside_its_box():
    box = [10, 5, 30, 25]
    assert tuple(draw_boxes(BLACK, np.array([box, box]), PALETTE[:2])[15, 10]) == PALETTE[1]
    plain, written = (draw_boxes(BLACK, np.array([box]), PALETTE[:1], texts) for texts in (None, ["x"]))
    changed = np.argwhere((plain != written).any(-1))
    assert len(changed) and (changed.min(0) >= (5, 10)).all()


def test_images_stand_in_rows_and_columns_under_their_titles():
    white, grey = np.full_like(BLACK, 250), np.full_like(BLACK, 90)
    sheet = tile([[BLACK, white], [grey, BLACK]], ("a", "b"), gap=6)
    assert sheet.shape == (28 + 2 * 46 - 6, 2 * 66 - 6, 3)
    assert (sheet[28:68, :60] == 0).all() and (sheet[28:68, 66:] == 250).all()
    assert (sheet[74:, :60] == 90).all() and (sheet[28:68, 60:66] == 255).all()


def test_a_legend_stands_below_and_shows_each_colour():
    without = tile([[BLACK, BLACK]], ("a", "b"))
    sheet = tile([[BLACK, BLACK]], ("a", "b"), {"RBC": PALETTE[3], "WBC": PALETTE[4]})
    assert (sheet[: len(without)] == without).all()
    below = {tuple(pixel) for pixel in sheet[len(without) :].reshape(-1, 3).tolist()}
    assert {PALETTE[3], PALETTE[4], (0, 0, 0)} <= below


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot tile"):
        tile([[BLACK, BLACK[:10]]], ("a", "b"))
    with pytest.raises(ValueError, match="cannot tile"):
        tile([[BLACK]], ("a", "b"))
