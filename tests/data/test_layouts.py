"""Folders of labelled images: every layout is read to the same images, and what is wrong is listed."""

import json
import shutil

import pytest
from PIL import Image

from ohem_d2.data.layouts import read_folder
from ohem_d2.data.layouts.base import split_of

from ..drawn_layouts import CLASSES, LAYOUTS, OBJECTS, SIZE, SPLITS, WITHOUT_SPLIT, draw, write, write_xml


def boxes_of(found):
    """Stem -> class and XYXY_ABS box of each object."""
    return {
        image.path.stem: [
            (a["category"], (x, y, x + w, y + h)) for a in image.annotations for x, y, w, h in [a["bbox"]]
        ]
        for image in found.images
    }


def replace(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def texts(found):
    return [problem.text for problem in found.problems]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_of_a_data_set_are_read_alike(layout, tmp_path):
    LAYOUTS[layout](tmp_path)
    found = read_folder(tmp_path)
    splits = {} if layout in WITHOUT_SPLIT else {stem: s for s, stems in SPLITS.items() for stem in stems}
    assert found.classes == CLASSES and not found.problems
    assert {image.path.stem: image.split for image in found.images} == {s: splits.get(s) for s in OBJECTS}
    assert all((image.width, image.height) == SIZE for image in found.images)
    for stem, objects in boxes_of(found).items():
        assert [name for name, _ in objects] == [name for name, _ in OBJECTS[stem]]
        for (_, box), (_, expected) in zip(objects, OBJECTS[stem]):
            assert box == pytest.approx(expected)


def test_only_trainval_and_test_are_a_split_too(tmp_path):
    LAYOUTS["voc"](tmp_path)
    lists = tmp_path / "ImageSets/Main"
    (lists / "train.txt").unlink()
    (lists / "val.txt").rename(lists / "test.txt")
    splits = {image.path.stem: image.split for image in read_folder(tmp_path).images}
    assert splits == {**dict.fromkeys(OBJECTS, "train"), "f": "test", "g": "test"}


def test_the_folders_of_voc_may_have_other_names_but_main_tells_the_split(tmp_path):
    LAYOUTS["voc"](tmp_path)
    for old, new in {"Annotations": "labels", "JPEGImages": "photos", "ImageSets/Main": "lists"}.items():
        (tmp_path / old).rename(tmp_path / new)
    expected = {stem: split for split, stems in SPLITS.items() for stem in stems}
    found = read_folder(tmp_path)
    assert {image.path.stem: image.split for image in found.images} == expected and not found.problems
    # A list of another task, which puts an image of train into val.
    (tmp_path / "lists").rename(tmp_path / "Main")
    write(tmp_path / "Segmentation/val.txt", "a\n")
    assert {image.path.stem: image.split for image in read_folder(tmp_path).images} == expected


def test_the_last_name_that_tells_a_split_counts():
    assert split_of(["train", "instances_val2017"]) == split_of(["valid", "images"]) == "val"
    assert split_of(["trains", "evaluation", "latest"]) is None


def test_of_images_with_one_name_that_of_the_split_is_taken(tmp_path):
    LAYOUTS["coco"](tmp_path)
    for split in SPLITS:
        folder = tmp_path / f"{split}2017"
        for file in folder.iterdir():
            file.rename(folder / f"{SPLITS[split].index(file.stem)}.jpg")
        json_file = tmp_path / f"annotations/instances_{split}2017.json"
        for i, stem in enumerate(SPLITS[split]):
            replace(json_file, f"{stem}.jpg", f"{i}.jpg")
    found = read_folder(tmp_path)
    assert not found.problems
    assert sorted((i.path.parent.name, i.split, i.path.stem) for i in found.images) == sorted(
        (f"{split}2017", split, str(i)) for split, stems in SPLITS.items() for i in range(len(stems))
    )


def test_crowds_and_masks_of_coco_are_kept(tmp_path):
    LAYOUTS["cvat"](tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": [[4, 6, 28, 6, 28, 30]]}
    file.write_text(json.dumps(content))
    (first,) = [image for image in read_folder(tmp_path).images if image.path.stem == "a"]
    assert [a["iscrowd"] for a in first.annotations] == [1, 0]
    assert first.annotations[0]["segmentation"] == [[4, 6, 28, 6, 28, 30]]


def test_defects_of_xml_are_listed_and_left_out(tmp_path):
    LAYOUTS["labelimg"](tmp_path)
    replace(tmp_path / "a.xml", "<xmax>28", "<xmax>5")  # xmin is 5
    replace(tmp_path / "b c.xml", "<ymax>44", "<ymax>many")
    replace(tmp_path / "d.xml", "<width>64", "<width>640")
    replace(tmp_path / "e.xml", "<xmax>62", "<xmax>70")
    write(tmp_path / "f.xml", "<annotation>")
    (tmp_path / "g.jpg").write_bytes(b"no image")
    write_xml(tmp_path / "lost.xml", "d")
    found = read_folder(tmp_path)
    assert texts(found) == [
        "malformed XML: no element found: line 1, column 12",
        "object 1: box [4, 6, 4, 30] has no area",
        "object 1: it lacks four numbers in bndbox",
        "is 64x48, but d.xml says 640x48",
        "object 2: box [34, 6, 70, 30] reaches beyond its image of 64x48",
        "cannot be read as an image",
        "there is no image lost (named 'd.jpg')",
        "2 images have no XML: f.jpg for one; they are left out",
    ]
    boxes = boxes_of(found)
    assert {stem: len(objects) for stem, objects in boxes.items()} == {"a": 1, "b c": 0, "d": 1, "e": 2}
    assert boxes["e"][1] == ("dog", (34, 6, 64, 30))


def test_the_image_of_xml_is_the_one_that_it_names_not_a_mask_of_the_same_stem(tmp_path):
    """As Oxford-IIIT Pet has them: photographs, and beside the XML their masks."""
    for stem in OBJECTS:
        draw(tmp_path / f"images/{stem}.jpg", stem)
        draw(tmp_path / f"annotations/masks/{stem}.png", stem)
        write_xml(tmp_path / f"annotations/xmls/{stem}.xml", stem)
    found = read_folder(tmp_path)
    assert {image.path for image in found.images} == {tmp_path / f"images/{stem}.jpg" for stem in OBJECTS}
    replace(tmp_path / "annotations/xmls/a.xml", "a.jpg", "renamed.jpg")  # then the nearest
    assert tmp_path / "annotations/masks/a.png" in {image.path for image in read_folder(tmp_path).images}


def test_an_image_is_not_taken_again_by_another_xml(tmp_path):
    LAYOUTS["labelimg"](tmp_path)
    write(tmp_path / "old/a.xml", (tmp_path / "a.xml").read_text().replace("cat", "dog"))
    found = read_folder(tmp_path)
    assert sorted(image.path.stem for image in found.images) == sorted(OBJECTS)
    assert boxes_of(found)["a"][0][0] == "cat"
    assert texts(found) == [f"{tmp_path}/a.jpg is also that of {tmp_path}/a.xml; this one is left out"]


def test_links_to_folders_are_followed_but_not_for_ever(tmp_path):
    LAYOUTS["voc"](tmp_path / "disk")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/set").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/round").symlink_to(tmp_path / "disk")
    found = read_folder(tmp_path / "data")
    assert sorted(image.path.stem for image in found.images) == sorted(OBJECTS) and not found.problems


def test_images_of_one_id_are_left_out(tmp_path):
    LAYOUTS["cvat"](tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 1]
    file.write_text(json.dumps(content))
    found = read_folder(tmp_path)
    assert texts(found) == ["1 ids belong to several images: 0; these are left out"]
    assert sorted(image.path.stem for image in found.images) == ["d", "e", "f", "g"]


def test_an_image_of_two_files_with_other_objects_is_incomplete(tmp_path):
    LAYOUTS["cvat"](tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    write(tmp_path / "annotations/instances_more.json", file.read_text())
    found = read_folder(tmp_path)
    assert len(texts(found)) == 6 and not any(image.is_incomplete for image in found.images)
    content["annotations"][0]["bbox"][0] += 1  # of a
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    write(tmp_path / "annotations/instances_more.json", json.dumps(content))
    assert [i.path.stem for i in read_folder(tmp_path).images if i.is_incomplete] == ["a"]


def test_an_outline_without_three_points_is_dropped_and_its_object_kept(tmp_path):
    """For such an outline Detectron2 leaves out the object."""
    LAYOUTS["cvat"](tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    whole = {"size": [48, 64], "counts": "x"}
    outlines = [[[]], [[1, 2, 3, 4]], whole, [[1, 2, 3, 4], [1, 1, 9, 1, 9, 9]], []]
    for annotation, outline in zip(content["annotations"], outlines):
        annotation["segmentation"] = outline
    file.write_text(json.dumps(content))
    kept = [a.get("segmentation") for image in read_folder(tmp_path).images for a in image.annotations]
    assert kept[:5] == [None, None, whole, outlines[3], None]


def test_defects_of_coco_are_listed_and_left_out(tmp_path):
    LAYOUTS["cvat"](tmp_path)
    file = tmp_path / "annotations/instances_default.json"
    (tmp_path / "images/default/g.jpg").unlink()
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 9
    content["annotations"][1]["bbox"] = [1, 2, 3]
    content["annotations"][2]["image_id"] = 99
    content["annotations"][3]["bbox"] = [70, 4, 8, 8]
    content["images"].append({**content["images"][3], "id": 50})
    file.write_text(json.dumps(content))
    write(tmp_path / "notes.json", "{")
    found = read_folder(tmp_path)
    assert texts(found) == [
        "malformed JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "image 5: there is no file 'g.jpg'",
        f"image 50: {tmp_path}/images/default/e.jpg is also that of instances_default.json",
        "annotation 0: category 9 is not in the file",
        "annotation 1: its bbox is [1, 2, 3], not four numbers",
        "annotation 2: image 99 is not in the file",
        "annotation 3: box [70, 4, 78, 12] lies outside its image of 64x48",
    ]
    assert {stem: len(x) for stem, x in boxes_of(found).items()} == {"a": 0, "b c": 0, "d": 0, "e": 2, "f": 1}


def test_labels_of_yolo_are_checked_and_polygons_have_boxes(tmp_path):
    LAYOUTS["yolo"](tmp_path)
    write(tmp_path / "labels/train/a.txt", "2 .5 .5 .1 .1\n0 .5 .5\n1 .25 .25 .75 .25 .5 .5\n")
    (tmp_path / "labels/train/d.txt").unlink()
    found = read_folder(tmp_path)
    assert texts(found) == [
        "1 images have no labels: d.jpg for one; they count as images without objects",
        "line 1: class 2 is not among 0 to 1",
        "line 2: '0 .5 .5', not class x y w h, nor class and a polygon",
    ]
    boxes = boxes_of(found)
    assert boxes["a"] == [("dog", (16, 12, 48, 24))]  # a quarter to three of 64, a quarter to a half of 48
    assert boxes["d"] == []


def test_class_names_of_yolo_may_stand_in_a_text_file_and_the_split_in_lists(tmp_path):
    LAYOUTS["yolo"](tmp_path)
    for kind in "images", "labels":
        for split in SPLITS:
            shutil.copytree(tmp_path / kind / split, tmp_path / kind, dirs_exist_ok=True)
            shutil.rmtree(tmp_path / kind / split)
    assert {image.split for image in read_folder(tmp_path).images} == {None}
    write(tmp_path / "train.txt", "./images/a.jpg\nimages/d.jpg\n")
    write(tmp_path / "data.yaml", "{train: train.txt, names: [cat, dog]}")
    assert {i.path.stem for i in read_folder(tmp_path).images if i.split == "train"} == {"a", "d"}
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ValueError, match="found labels of YOLO, but no class names; expected data.yaml"):
        read_folder(tmp_path)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert read_folder(tmp_path).classes == CLASSES


def test_files_of_yolo_may_be_of_windows(tmp_path):
    for split, stem in (("train", "a"), ("val", "b c")):
        draw(tmp_path / f"images/{stem}.jpg", stem)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{stem}.txt").write_text("0 .5 .5 .1 .1\n", encoding="utf-8-sig")
        (tmp_path / f"{split}.txt").write_text(f"C:\\data\\images\\{stem}.jpg\r\n", encoding="utf-8-sig")
    write(tmp_path / "data.yaml", "{train: train.txt, val: val.txt, names: [cat, dog]}")
    found = read_folder(tmp_path)
    assert {i.path.stem: (i.split, len(i.annotations)) for i in found.images} == {
        "a": ("train", 1), "b c": ("val", 1),
    }  # fmt: skip
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_folder(tmp_path).classes == ["cat", "dog"]


def test_images_of_one_name_are_in_the_list_that_has_their_folder(tmp_path):
    """The lists of another machine, where the folder lies elsewhere."""
    write(tmp_path / "data.yaml", "{train: train.txt, val: val.txt, names: [cat, dog]}")
    for split, folder in (("train", "monday"), ("val", "friday")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for name in ("0", f"only_{split}"):
            draw(tmp_path / f"images/{folder}/{name}.jpg", "a")
            write(tmp_path / f"labels/{folder}/{name}.txt", "0 .5 .5 .1 .1\n")
        lines = [f"/home/else/data/images/{folder}/{name}.jpg" for name in ("0", f"only_{split}")]
        write(tmp_path / f"{split}.txt", "\n".join(lines))
    splits = {str(i.path.relative_to(tmp_path / "images")): i.split for i in read_folder(tmp_path).images}
    assert splits == {"monday/0.jpg": "train", "monday/only_train.jpg": "train",
                      "friday/0.jpg": "val", "friday/only_val.jpg": "val"}  # fmt: skip


def test_the_size_is_that_of_the_turned_image(tmp_path):
    write_xml(tmp_path / "a.xml", "a")
    draw(tmp_path / "a.jpg", "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.jpg", exif=exif)
    found = read_folder(tmp_path)
    assert (found.images[0].width, found.images[0].height) == (48, 64)
    assert "is 48x64, but a.xml says 64x48" in texts(found)


def test_a_folder_that_nothing_can_be_made_of_is_named_with_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"folder {tmp_path}/gone does not exist"):
        read_folder(tmp_path / "gone")
    with pytest.raises(ValueError, match=f"^{tmp_path}: found no images; expected images with VOC XML"):
        read_folder(tmp_path)
    draw(tmp_path / "a.jpg", "a")
    with pytest.raises(ValueError, match="found 1 images, but no annotations; expected VOC XML .*YOLO txt"):
        read_folder(tmp_path)
    write(tmp_path / "b.json", '{"images": []}')
    with pytest.raises(ValueError, match="expected VOC XML .*b.json lacks the lists images, .* of COCO$"):
        read_folder(tmp_path)
    write(tmp_path / "a.json", '{"images": [')
    with pytest.raises(ValueError, match="expected VOC XML .*a.json: malformed JSON: "):
        read_folder(tmp_path)
    write(tmp_path / "a.xml", "<annotation><object><name>cat</name></object></annotation>")
    message = (
        "found LabelImg .*, 1 images, but no box that can be trained on; the first problem: .*a.xml: object 1"
    )
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)
