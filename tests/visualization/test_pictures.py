import numpy as np
import pytest

from ohem_d2.visualization import class_colours, draw_boxes, tile
from ohem_d2.visualization.pictures import BACKGROUND, PALETTE, WHITE, _free_place

RED = PALETTE[3]
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
    inside = written[8:23, 13:28].reshape(-1, 3).astype(int)  # without the lines
    assert np.abs(inside - PALETTE[0]).sum(1).min() < 60  # a letter's middle: its edges are mixed with white


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
    with pytest.raises(ValueError, match="cannot tile rows of \\[1\\] images under 2 titles"):
        tile([[BLACK]], ("a", "b"))
    with pytest.raises(ValueError, match="cannot tile"):
        tile([], ("a", "b"))


def test_images_of_any_sizes_stand_under_their_names():
    small, wide = np.full((10, 20, 3), 90, np.uint8), np.full((30, 80, 3), 60, np.uint8)
    sheet = tile([[small, small], [wide, wide]], ("a", "b"), names=["x.jpg", "y.jpg"])
    assert sheet.shape == (28 + 22 + 10 + 6 + 22 + 30, 2 * 80 + 6, 3)
    assert (sheet[50:60, :20] == 90).all() and (sheet[50:60, 86:106] == 90).all()
    assert (sheet[50:60, 20:86] == 255).all() and (sheet[88:, 86:] == 60).all()
    named = [(sheet[top : top + 22, :40] < 100).any(-1) for top in (28, 66)]
    assert named[0].any() and named[1].any() and (named[0] != named[1]).any()


def test_a_legend_that_is_too_long_goes_on_in_the_next_line():
    legend = {f"class number {i}": PALETTE[i] for i in range(4)}
    sheet = tile([[BLACK, BLACK, BLACK]], "abc", legend)  # 192 pixels wide: one class in a line
    assert sheet.shape == (28 + 40 + 4 * 28, 3 * 66 - 6, 3)
    for i in range(4):
        line = sheet[68 + 28 * i : 96 + 28 * i].reshape(-1, 3)
        assert (line == PALETTE[i]).all(1).any() and not (line == PALETTE[i - 1]).all(1).any()


def test_texts_do_not_overlap_and_stay_inside_the_picture():
    taken = []
    for corner in [(10, 5), (11, 6), (70, 110), (70, 95), (-4, -3), (80, 20)]:
        taken.append(_free_place(corner, (30, 15), (90, 120), taken))
    assert taken[:2] == [(10, 5, 40, 20), (11, 21, 41, 36)]  # the second below the first
    assert taken[2:5] == [(60, 105, 90, 120), (60, 0, 90, 15), (0, 45, 30, 60)]
    assert all(0 <= x1 and 0 <= y1 and x2 <= 90 and y2 <= 120 for x1, y1, x2, y2 in taken)
    for i, (x1, y1, x2, y2) in enumerate(taken):
        for other in taken[:i]:
            assert x2 <= other[0] or other[2] <= x1 or y2 <= other[1] or other[3] <= y1


def test_a_text_without_a_free_place_stays_at_its_box():
    assert _free_place((5, 5), (30, 15), (40, 25), [(0, 0, 40, 25)]) == (5, 5, 35, 20)


def test_texts_of_equal_boxes_are_written_below_each_other():
    box, ground = [4, 4, 56, 36], np.zeros((40, 60, 3), np.uint8)
    one, two = (draw_boxes(ground, np.array([box] * 2), PALETTE[:2], ["x", text]) for text in ("", "x"))
    changed = np.argwhere((one != two).any(-1))
    assert len(changed) and changed.min(0)[0] >= 18  # below the first, which begins at 7


def test_of_a_dashed_box_half_is_drawn():
    """Each eight pixels of a line are four of the colour and four white."""
    image = np.zeros((40, 60, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[10, 10, 50, 30]]), [RED], width=1, dashed=[True])
    assert (drawn[10, 10:50] == RED).all(axis=1).tolist() == ([True] * 4 + [False] * 4) * 5
    assert (drawn[10, 14:18] == 255).all()
    assert (drawn[30, 10:50] == drawn[10, 10:50]).all() and (drawn[10:30, 50] == drawn[10:30, 10]).all()
    assert (drawn[10:30, 10] == RED).all(axis=1).tolist() == ([True] * 4 + [False] * 4) * 2 + [True] * 4
    solid = draw_boxes(image, np.array([[10, 10, 50, 30]]), [RED], width=1, dashed=[False])
    assert (solid == draw_boxes(image, np.array([[10, 10, 50, 30]]), [RED], width=1)).all()
    assert (solid[10, 10:51] == RED).all()


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (5, 5, 6, 40), (-20, -20, 30, 90), (5.5, 5.2, 9.1, 9.9)])
def test_a_dashed_box_may_be_small_or_outside(box):
    assert draw_boxes(np.zeros((40, 60, 3), np.uint8), np.array([box]), [RED], dashed=[True]).max() > 0
