import numpy as np
import pytest

from ohem_d2.visualization import draw_boxes, tile
from ohem_d2.visualization.pictures import BACKGROUND, PALETTE

BLACK = np.zeros((40, 60, 3), np.uint8)


def test_a_box_has_the_colour_of_its_class_and_the_image_is_left_alone():
    drawn = draw_boxes(BLACK, np.array([[10, 5, 30, 25], [35, 5, 55, 25]]), [1, 3], num_classes=3, width=1)
    assert tuple(drawn[5, 20]) == PALETTE[1] and tuple(drawn[15, 10]) == PALETTE[1]
    assert tuple(drawn[5, 45]) == BACKGROUND
    assert drawn[15, 20].sum() == 0 and BLACK.sum() == 0


def test_images_stand_in_rows_and_columns_under_their_titles():
    white, grey = np.full_like(BLACK, 250), np.full_like(BLACK, 90)
    sheet = tile([[BLACK, white], [grey, BLACK]], ("a", "b"), gap=6)
    assert sheet.shape == (28 + 2 * 46 - 6, 2 * 66 - 6, 3)
    assert (sheet[28:68, :60] == 0).all() and (sheet[28:68, 66:] == 250).all()
    assert (sheet[74:, :60] == 90).all() and (sheet[28:68, 60:66] == 255).all()


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot tile"):
        tile([[BLACK, BLACK[:10]]], ("a", "b"))
    with pytest.raises(ValueError, match="cannot tile"):
        tile([[BLACK]], ("a", "b"))
