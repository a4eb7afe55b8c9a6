"""Folders of images without annotations, read."""

import pytest
from PIL import Image

from ohem_d2.data.background import load_background


def save(path, size=(40, 30), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **kwargs)


def test_all_images_below_a_folder_are_read_with_their_size_and_no_annotation(tmp_path):
    save(tmp_path / "b.jpg")
    save(tmp_path / "deep/er/a b.PNG", (20, 10))
    save(tmp_path / "deep/b.jpg")
    save(tmp_path / ".hidden/c.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    assert load_background(tmp_path) == [
        {"file_name": f"{tmp_path}/{name}", "image_id": name, "width": w, "height": h, "annotations": []}
        for name, w, h in [("b.jpg", 40, 30), ("deep/b.jpg", 40, 30), ("deep/er/a b.PNG", 20, 10)]
    ]


def test_the_order_is_that_of_the_names_not_of_the_disk(tmp_path):
    names = [f"{folder}/{image}.jpg" for folder in "dbeac" for image in "zxy"]
    for name in names:
        save(tmp_path / name)
    assert [record["image_id"] for record in load_background(tmp_path)] == sorted(names)


def test_the_size_is_that_of_the_turned_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    save(tmp_path / "a.jpg", exif=exif)
    (record,) = load_background(tmp_path)
    assert (record["width"], record["height"]) == (30, 40)


def test_a_folder_without_images_and_an_image_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}: there is no image \\(.jpg, .jpeg, .png, "):
        load_background(tmp_path)
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=f"^{tmp_path}/a.jpg cannot be read as an image"):
        load_background(tmp_path)
