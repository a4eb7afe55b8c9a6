"""The images of the drawn data set."""

from collections import Counter

import numpy as np
import pytest

from ohem_d2.data.voc_xml import LabelledBox

images = pytest.importorskip("ohem_d2.data.drawing.images", reason="needs OpenCV, which draws the data")
shapes = pytest.importorskip("ohem_d2.data.drawing.shapes")
Contents = images.Contents


def draw(count, *args):
    return [images.draw_demo_image(np.random.default_rng([0, index]), *args) for index in range(count)]


def test_a_box_is_tight_around_the_visible_pixels():
    mask = np.zeros((160, 200))
    mask[20:31, 50:72] = 1.0
    mask[31, 50:72] = 0.4  # less than half covered
    mask[20:31, 72] = 0.5
    assert images.tight_box(mask) == (50, 20, 73, 31)


def test_what_is_covered_does_not_count_for_the_box(monkeypatch):
    left, right = np.zeros((160, 200)), np.zeros((160, 200))
    left[40:60, 20:60], right[30:70, 50:90] = 1.0, 1.0
    masks = iter([left, right])
    drawn = [("disc", None, (0, 9)), ("square", None, (36, 45))]
    monkeypatch.setattr(images, "random_shapes", lambda rng, contents: drawn)
    monkeypatch.setattr(images, "random_mask", lambda rng, shape: next(masks))
    objects = images.draw_demo_image(np.random.default_rng(0)).objects
    assert objects == [
        LabelledBox("disc", (20, 40, 50, 60)),
        LabelledBox("square", (50, 30, 90, 70)),
    ]


def test_a_rectangle_is_rasterized_onto_its_pixels():
    mask = images.rasterize([np.array([[10.0, 20.0], [30.0, 20.0], [30.0, 50.0], [10.0, 50.0]])])
    assert mask[20:50, 10:30].min() >= 0.75  # supersampling rounds to a quarter of a pixel
    mask[20:50, 10:30] = 0
    assert mask.max() <= 0.5
    assert mask[:, :9].max() == mask[:19].max() == mask[:, 31:].max() == mask[51:].max() == 0.0


@pytest.mark.parametrize("name, area", [("disc", np.pi), ("square", 2.0), ("triangle", 0.75 * 3**0.5)])
def test_shapes_have_the_area_of_their_name(name, area):
    # radius 1: circle pi, square of diagonal 2, equilateral triangle of height 1.5
    (outline,) = shapes.CLASSES[name][0]()
    x, y = outline.T
    measured = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert measured == pytest.approx(area, rel=0.01)


def test_a_ring_has_a_hole_and_a_disc_has_none():
    centred = [[40 * outline + [100, 80] for outline in shape()] for shape in (shapes.disc, shapes.ring)]
    disc, ring = map(images.rasterize, centred)
    assert disc[80, 100] == 1 and ring[80, 100] == 0 and ring[80, 130] == 1


def test_every_class_is_drawn_and_the_commonest_is_about_three_times_the_rarest():
    rng = np.random.default_rng(0)
    counts = Counter(
        name for _ in range(1000) for name, _, _ in images.random_shapes(rng, Contents()) if name
    )
    assert set(counts) == set(shapes.CLASS_NAMES)
    assert 2 < counts["disc"] / counts["cross"] < 4


def test_every_image_has_an_object_inside_of_it_and_a_distractor():
    rng = np.random.default_rng(0)
    assert all(any(name is None for name, _, _ in images.random_shapes(rng, Contents())) for _ in range(50))
    for image in draw(20):
        assert image.pixels.shape == (160, 200, 3) and image.pixels.dtype == np.uint8
        boxes = np.array([drawn.box for drawn in image.objects])
        assert len(boxes) and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [200, 160]).all()
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        assert (sides >= 12).all() and (sides <= 92).all()


@pytest.mark.parametrize(
    "number, has_crowd, objects, means",
    [
        (
            0,
            False,
            [("square", (21, 63, 53, 97)), ("disc", (115, 47, 186, 119)), ("square", (129, 15, 166, 48)),
             ("disc", (16, 12, 73, 62))],
            [[89.3, 99.2], [92.9, 109.1]],
        ),
        (
            1,
            True,
            [("disc", (16, 90, 53, 125)), ("disc", (127, 12, 176, 58)), ("cross", (68, 27, 109, 66)),
             ("disc", (135, 113, 175, 150)), ("square", (12, 38, 43, 73)), ("crowd", (51, 59, 145, 144))],
            [[115.6, 107.7], [109.9, 110.6]],
        ),
    ],
)  # fmt: skip
def test_a_seed_gives_the_images_of_this_version_of_the_drawing(number, has_crowd, objects, means):
    assert images.DRAWING_VERSION == 1  # other images are another version, with other values here
    drawn = images.draw_demo_image(np.random.default_rng([0, number]), has_crowd=has_crowd)
    assert [(o.category, o.box) for o in drawn.objects] == objects
    quarters = drawn.pixels.reshape(2, 80, 2, 100, 3).mean(axis=(1, 3, 4))
    assert quarters == pytest.approx(np.array(means), abs=0.1)


def test_images_have_as_many_objects_as_are_asked_for():
    assert [len(image.objects) for image in draw(4, Contents(objects=(1, 1)))] == [1] * 4
    # Of 20 a few find no place.
    assert all(15 <= len(image.objects) <= 20 for image in draw(2, Contents(objects=(20, 20))))
    rng, contents = np.random.default_rng(0), Contents(objects=(3, 6))
    drawn = [images.random_shapes(rng, contents) for _ in range(100)]
    assert {sum(name is not None for name, _, _ in image) for image in drawn} == {3, 4, 5, 6}


def test_background_shows_distractors_and_no_object():
    rng = np.random.default_rng(0)
    shapes = [images.random_shapes(rng, images.BACKGROUND) for _ in range(100)]
    assert {len(image) for image in shapes} == {3, 4, 5, 6}
    assert all(name is None for image in shapes for name, _, _ in image)
    for image, plain in zip(draw(4, images.BACKGROUND), draw(4, Contents((0, 0), (0, 0)))):
        assert image.objects == plain.objects == []
        assert (np.abs(image.pixels.astype(int) - plain.pixels).max(axis=2) > 60).mean() > 0.02  # the shapes


def test_without_distractors_an_image_has_objects_alone():
    rng = np.random.default_rng(0)
    drawn = [images.random_shapes(rng, Contents(distractors=(0, 0))) for _ in range(50)]
    assert all(image and all(name for name, _, _ in image) for image in drawn)


def test_hues_of_classes_touch_and_at_level_one_all_classes_have_all():
    # The means are 36 apart; the second number of a range is the first that is too large.
    assert Contents().hues(36) == (36 - 18, 36 + 19)
    assert Contents(look_alike=0.5).hues(36) == (36 - 54, 36 + 55)  # 18 + (90 - 18) / 2 = 54
    low, high = Contents(look_alike=1.0).hues(36)
    assert {hue % 180 for hue in range(low, high)} == set(range(180))
    hues = {hues for _, _, hues in images.random_shapes(np.random.default_rng(0), Contents(look_alike=1.0))}
    assert {high - low for low, high in hues} == {181}


def test_a_share_of_a_class_is_left_out_and_other_classes_are_not():
    def counts(contents):
        rng = np.random.default_rng(0)
        return Counter(name for _ in range(600) for name, _, _ in images.random_shapes(rng, contents))

    all_of, rest = counts(Contents()), counts(Contents(dropped={"square": 0.9}))
    # About 600 x 3.5 x 0.25 = 525 squares; of 0.1 of them the deviation is 7.
    assert rest["square"] == pytest.approx(52, abs=25)
    assert all(rest[name] == pytest.approx(all_of[name], rel=0.25) for name in ("disc", "triangle", "cross"))


def test_an_image_without_a_class_that_is_dropped_is_as_before():
    few = draw(8, Contents(dropped={"disc": 0.99}))
    same = [np.array_equal(a.pixels, b.pixels) for a, b in zip(draw(8), few)]
    assert same == [all(o.category != "disc" for o in image.objects) for image in draw(8)] and any(same)
