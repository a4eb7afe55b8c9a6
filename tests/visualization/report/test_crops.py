"""Galleries of parts of images."""

import io

import numpy as np
import pytest
from PIL import Image

from ohem_d2.visualization.report.crops import DETECTION, OBJECT, Example, Mark, cut_out, draw_gallery


@pytest.fixture
def image(tmp_path):
    """Left half black, right half white, 200 x 100 pixels."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 100:] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def pixels_of(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_a_picture_is_a_square_around_the_box(image):
    """The box of 20 x 10 at (90, 45) is in the middle of 60 x 60, whose left half is black."""
    picture = pixels_of(cut_out(image, [], (90, 45, 110, 55), size=120))
    assert picture.shape == (120, 120, 3)
    assert picture[:, :55].max() < 30 and picture[:, 65:].min() > 225


@pytest.mark.parametrize(
    "box, is_white",
    [
        ((0, 0, 5, 5), False),
        ((150, 0, 155, 5), True),
        ((195, 95, 200, 100), True),
        ((199, 99, 199, 99), True),
        ((150, 60, 400, 300), None),  # both halves
    ],
)
def test_at_the_border_a_picture_stays_inside_the_image(image, box, is_white):
    """What is outside would be black."""
    picture = pixels_of(cut_out(image, [], box, size=48))
    assert max(picture.shape) == 48 and min(picture.shape[:2]) >= 24
    if is_white is not None:
        assert picture.min() > 225 if is_white else picture.max() < 30


def test_without_a_box_it_is_the_whole_image(image):
    assert pixels_of(cut_out(image, [], None, size=100)).shape == (50, 100, 3)


def test_marks_are_where_their_boxes_are_and_differ_in_colour(image):
    marks = [Mark((20, 20, 60, 80), is_object=True), Mark((120, 20, 160, 80), is_object=False)]
    picture = pixels_of(cut_out(image, marks, None, size=200))
    drawn = []
    for colour, column in ((OBJECT, 20), (DETECTION, 120)):
        distances = np.abs(picture[20:80, column : column + 2] - colour).sum(axis=2).min(axis=1)
        drawn.append((distances < 150).mean())  # in a JPEG
    assert 0.3 < drawn[0] < 0.7 and drawn[1] == 1  # dashed and solid


def test_a_mark_is_enlarged_with_its_part_of_the_image(image):
    """Of 60 x 60 pixels at (70, 20), shown as 120 x 120, the box begins at 2 * (90 - 70), 2 * (45 - 20)."""
    picture = pixels_of(cut_out(image, [Mark((90, 45, 110, 55), False)], (90, 45, 110, 55), size=120))
    is_line = np.abs(picture - DETECTION).sum(axis=2) < 150
    rows, columns = is_line.any(axis=1).nonzero()[0], is_line.any(axis=0).nonzero()[0]
    assert (rows[0], rows[-1]) == pytest.approx((50, 70), abs=1)
    assert (columns[0], columns[-1]) == pytest.approx((40, 80), abs=1)


def test_around_a_tiny_box_48_pixels_are_shown(image):
    """Of the square from 90 - 24 on, the first 34 columns of 48 are black."""
    picture = pixels_of(cut_out(image, [], (89, 50, 91, 51), size=48))
    dark = (picture[24] < 128).all(axis=1).sum()
    assert picture.shape[:2] == (48, 48) and abs(dark - 34) <= 1


def test_an_image_is_turned_as_its_exif_orientation_says(image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left goes to the top
    Image.open(image).save(tmp_path / "turned.jpg", exif=exif)
    picture = pixels_of(cut_out(str(tmp_path / "turned.jpg"), [], None, size=200))
    assert picture.shape == (200, 100, 3)
    assert picture[:90].max() < 30 and picture[110:].min() > 225


def test_pictures_of_a_gallery_have_their_size_and_its_column_is_narrower(image):
    gallery = draw_gallery("Gallery", [Example(image, [], None, "a", {"class": "b"})], "", size=160)
    assert gallery.width == 100 and gallery.note == "" and gallery.pictures[0].tags == {"class": "b"}
    assert pixels_of(gallery.pictures[0].jpeg).shape == (80, 160, 3)


def test_images_that_cannot_be_read_are_named_and_the_others_drawn(image, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    files = [image, str(tmp_path / "text.jpg"), str(tmp_path / "none.jpg")]
    gallery = draw_gallery("Gallery", [Example(f, [], None, f, {"class": "a"}) for f in files], "Note.")
    assert [picture.caption for picture in gallery.pictures] == [image]
    assert gallery.note == f"Note. Images that cannot be read: {files[1]}, {files[2]}."
    assert draw_gallery("Gallery", [], "Note.").note == "Note. There are none."
