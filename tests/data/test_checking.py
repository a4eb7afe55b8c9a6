import json
import struct

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ohem_d2.data import register_catalog, write_proposals
from ohem_d2.data.checking import check_dataset

DOG = [("dog", (3, 4, 20, 25))]
CATALOG = "pets: {format: voc, root: ./voc, splits: [train], classes: [cat, dog], proposals: ./p.safetensors}"
COCO = "street: {format: coco, root: ./coco, splits: [val], annotations: '{split}.json', images: images}"


@pytest.fixture
def voc(make_voc, tmp_path):
    """A data set without fault: images a, b and c of 40 x 30, with a dog each. Its folder."""
    root = make_voc({image_id: DOG for image_id in "abc"})
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    register_catalog(tmp_path / "catalog.yaml")
    return root


@pytest.fixture
def coco(make_voc, tmp_path):
    """``coco(change)``: the report on a data set of one image of 40 x 30, after ``change(content)``."""
    (make_voc({"a": []}, name="coco") / "JPEGImages").rename(tmp_path / "coco/images")
    (tmp_path / "catalog.yaml").write_text(COCO)
    register_catalog(tmp_path / "catalog.yaml")

    def check(change=lambda content: content):
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}],
            "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 39, 28], "category_id": 9, "iscrowd": 0}],
            "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
        }
        changed = change(content)
        text = changed if isinstance(changed, str) else json.dumps(content)
        (tmp_path / "coco/val.json").write_text(text)
        return found("street_val")

    return check


def found(name, **kwargs):
    """Problems, with the folder cut off the files."""
    report = check_dataset(name, **kwargs)
    assert all("\n" not in str(problem) for problem in report.problems)
    return [(problem.file.rsplit("/", 1)[-1], problem.text) for problem in report.problems]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_images_and_proposals_of_background_are_checked(make_voc, tmp_path):
    (make_voc({"a": [], "b": [], "c": []}) / "JPEGImages").rename(tmp_path / "street")
    (tmp_path / "catalog.yaml").write_text(
        "street: {format: images, root: ./street, proposals: ./p.safetensors}"
    )
    register_catalog(tmp_path / "catalog.yaml")
    report = check_dataset("street")
    assert (
        not report.problems
        and str(report) == "street: 3 images, 0 objects (0 difficult), no proposals, no problem"
    )
    (tmp_path / "street/b.jpg").write_text("no image")
    write_proposals(
        tmp_path / "p.safetensors", {"a.jpg": ([[0, 0, 50, 30]], [1]), "b.jpg": ([[0, 0, 9, 9]], [1])}
    )
    assert found("street") == [
        ("b.jpg", "cannot be read as an image"),
        ("p.safetensors", "image c.jpg is missing"),
        ("p.safetensors", "image a.jpg: 1 boxes reach beyond its 40x30 pixels"),
    ]
    for path in (tmp_path / "street").iterdir():
        path.unlink()
    assert found("street")[0] == ("street", "there is no image")


def test_a_data_set_without_fault_has_no_problem_and_is_counted(voc, tmp_path):
    write_proposals(tmp_path / "p.safetensors", {i: ([[0, 0, 40, 30]], [1]) for i in "abc"})
    report = check_dataset("pets_train")
    assert report.problems == []
    assert str(report) == "pets_train: 3 images, 3 objects (0 difficult), 3 proposals, no problem"


def test_an_image_of_16_bits_is_a_problem(voc):
    Image.new("I;16", (40, 30)).save(voc / "JPEGImages/b.png")
    (voc / "JPEGImages/b.png").rename(voc / "JPEGImages/b.jpg")
    problem = "has more than 8 bits a pixel (mode I;16), which Detectron2 reads as white"
    assert found("pets_train") == [("b.jpg", problem)]


def test_an_image_that_is_cut_off_is_found_where_images_are_decoded(voc):
    image = voc / "JPEGImages/b.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    assert found("pets_train") == []
    ((file, text),) = found("pets_train", decode=True)
    assert file == "b.jpg" and text.startswith("cannot be read as an image: image file is truncated")


def test_ids_may_have_spaces(voc):
    for file in voc.rglob("c.*"):
        file.rename(file.with_name(f"c 2{file.suffix}"))
    edit(voc / "ImageSets/Main/train.txt", "c", "c 2")
    assert found("pets_train") == []


def test_every_problem_is_listed_not_only_the_first(voc):
    (voc / "JPEGImages/a.jpg").unlink()
    (voc / "JPEGImages/b.jpg").write_text("no image")
    (voc / "Annotations/c.xml").write_text("<annotation>")
    (voc / "ImageSets/Main/train.txt").write_text("a\nb\nc\nb\n")
    assert found("pets_train") == [
        ("train.txt", "id b comes more than once"),
        ("a.jpg", "the image does not exist"),
        ("b.jpg", "cannot be read as an image"),
        ("c.xml", "malformed XML: no element found: line 1, column 12"),
    ]


@pytest.mark.parametrize(
    "old, new, file, text",
    [
        ("<width>40", "<width>41", "a.jpg", "is 40x30, but a.xml says 41x30"),
        ("<width>40</width>", "", "a.xml", "the image size is None x '30'"),
        ("<name>dog", "<name>cow", "a.xml", "object 1: class 'cow' is not among the 2 of the data set"),
        ("<pose>Unspecified</pose>", "", "a.xml", "object 1: no pose, which Detectron2's evaluator reads"),
        ("<xmax>20", "<xmax>twenty", "a.xml", "object 1: its bndbox lacks a number in xmax"),
        ("<xmax>20", "<xmax>nan", "a.xml", "object 1: its bndbox lacks a number in xmax"),
        ("<xmax>20", "<xmax>3", "a.xml", "object 1: box [3, 4, 3, 25] has no area"),
        ("<xmax>20", "<xmax>41", "a.xml", "object 1: box [3, 4, 41, 25] reaches beyond its image of 40x30"),
        ("<ymin>4", "<ymin>0", "a.xml", "object 1: box [3, 0, 20, 25] reaches beyond its image of 40x30"),
    ],
)
def test_a_fault_of_an_xml_file_is_named(voc, old, new, file, text):
    edit(voc / "Annotations/a.xml", old, new)
    assert found("pets_train") == [(file, text)]


def test_a_box_of_the_whole_image_is_right_and_difficult_objects_are_counted(voc):
    for old, new in (
        ("<xmin>3", "<xmin>1"),
        ("<ymin>4", "<ymin>1"),
        ("<xmax>20", "<xmax>40"),
        ("<ymax>25", "<ymax>30"),
    ):
        edit(voc / "Annotations/a.xml", old, new)
    edit(voc / "Annotations/a.xml", "<difficult>0", "<difficult>1")
    assert "3 objects (1 difficult), no proposals, no problem" in str(check_dataset("pets_train"))


def test_missing_folders_and_lists_are_problems_too(voc):
    (voc / "Annotations/b.xml").unlink()
    assert found("pets_train") == [("b.xml", "the XML file does not exist")]
    (voc / "ImageSets/Main/train.txt").write_text("\n")
    assert found("pets_train") == [("train.txt", "names no image")]
    (voc / "ImageSets/Main/train.txt").unlink()
    assert found("pets_train") == [("train.txt", "the split file does not exist")]


def test_a_test_set_needs_images_alone(voc):
    for path in (voc / "Annotations").iterdir():
        path.unlink()
    MetadataCatalog.get("pets_train").has_annotations = False
    assert found("pets_train") == []


def test_proposals_are_compared_with_the_images(voc, tmp_path):
    write_proposals(
        tmp_path / "p", {"a": ([[0, 0, 41, 30], [0, 0, 9, 9]], [1, 0]), "b": ([], []), "z": ([], [])}
    )
    assert found("pets_train", proposal_file=str(tmp_path / "p")) == [
        ("p", "image c is missing"),
        ("p", "1 images are not of this data set: z"),
        ("p", "image a: 1 boxes reach beyond its 40x30 pixels"),
        ("p", "image b has no boxes"),
    ]


def test_a_damaged_or_missing_proposal_file_is_a_problem_and_one_not_made_yet_is_none(voc, tmp_path):
    assert found("pets_train") == []
    ((file, text),) = found("pets_train", proposal_file="none")
    assert file == "none" and text.startswith("proposal file none does not exist")
    (tmp_path / "p.safetensors").write_text("no proposals")
    ((file, text),) = found("pets_train")
    assert file == "p.safetensors" and text.startswith("not a proposal file")
    write_proposals(tmp_path / "p.safetensors", {i: ([[0, 0, 40, 30]], [1]) for i in "abc"})
    content = (tmp_path / "p.safetensors").read_bytes()
    forty, nan = struct.pack("<f", 40), struct.pack("<f", float("nan"))
    (tmp_path / "p.safetensors").write_bytes(content.replace(forty, nan, 1))
    ((file, text),) = found("pets_train")
    assert file == "p.safetensors" and text.startswith("image a: ")


def test_several_stores_are_checked_as_one(voc, tmp_path, monkeypatch):
    for image_id in "ab":
        write_proposals(tmp_path / f"s-{image_id}", {image_id: ([[0, 0, 9, 9]], [1])})
    pattern = str(tmp_path / "s-*")
    assert found("pets_train", proposal_file=pattern) == [("s-*", "image c is missing")]
    monkeypatch.setitem(MetadataCatalog.get("pets_train").__dict__, "proposal_file", str(tmp_path / "t-*"))
    assert found("pets_train") == []
    assert found("pets_train", proposal_file="t-*") == [("t-*", "no proposal file matches t-*")]


def test_a_coco_file_without_fault_has_no_problem(coco):
    assert coco() == []
    assert (
        str(check_dataset("street_val"))
        == "street_val: 1 images, 1 objects (0 difficult), no proposals, no problem"
    )


def test_an_outline_for_which_detectron2_leaves_out_the_object_is_a_problem(coco):
    text = "its segmentation has no polygon of three points, for which training leaves the object out"
    for outline, problems in (([[]], 1), ([[1, 2, 3, 4]], 1), ([[1, 1, 9, 1, 9, 9]], 0), ([], 0)):
        found = coco(lambda content, o=outline: content["annotations"][0].update(segmentation=o))
        assert found == [("val.json", f"annotation 1: {text}")] * problems
        assert len(DatasetCatalog.get("street_val")[0]["annotations"]) == 1 - problems


def test_a_byte_order_mark_is_a_problem(coco, tmp_path):
    coco()
    (tmp_path / "coco/val.json").write_text((tmp_path / "coco/val.json").read_text(), encoding="utf-8-sig")
    ((file, text),) = found("street_val")
    assert file == "val.json" and text.startswith("it begins with a byte order mark")


def test_classes_in_another_order_than_in_the_file_are_a_problem_before_it_is_loaded(coco, tmp_path):
    assert coco() == []
    (tmp_path / "catalog.yaml").write_text(f"{COCO[:-1]}, classes: [dog, cat]}}".replace("street", "road"))
    register_catalog(tmp_path / "catalog.yaml")
    text = "its categories are not those of the data set: ['cat', 'dog']"
    assert found("road_val") == [("val.json", text)]


def change(key, **values):
    return lambda content: content[key][0].update(values)


@pytest.mark.parametrize(
    "fault, file, text",
    [
        (change("images", width=41), "a.jpg", "is 40x30, but val.json says 41x30"),
        (change("images", file_name="b.jpg"), "b.jpg", "the image does not exist"),
        (change("images", file_name=None), "val.json", "image 1 has no file_name"),
        (change("images", height="30"), "val.json", "image 1: its size is 40 x '30'"),
        (change("annotations", image_id=7), "val.json", "annotation 1: image id 7 is not in the file"),
        (change("annotations", category_id=7), "val.json", "annotation 1: category id 7 is not in the file"),
        (
            change("annotations", bbox=[1, 2, 3]),
            "val.json",
            "annotation 1: its bbox is [1, 2, 3], not four numbers",
        ),
        (change("annotations", bbox=None), "val.json", "annotation 1: its bbox is None, not four numbers"),
        (
            change("annotations", bbox=[1, 2, 0, 4]),
            "val.json",
            "annotation 1, image 1: box [1, 2, 0, 4] has no area",
        ),
        (
            change("annotations", bbox=[1, 2, 39.1, 4]),
            "val.json",
            "annotation 1, image 1: box [1, 2, 39.1, 4] reaches beyond its image of 40x30",
        ),
        (change("categories", name="dog"), "val.json", "category name 'dog' comes more than once"),
        (lambda c: c["images"].append(c["images"][0]), "val.json", "image id 1 comes more than once"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            "val.json",
            "annotation id 1 comes more than once",
        ),
        (lambda c: c["annotations"].append(3), "val.json", "1 entries of annotations are no objects"),
        (
            lambda c: "[1, 2]",
            "val.json",
            "not a COCO file: it has to hold the lists images, categories, annotations",
        ),
    ],
)
def test_a_fault_of_a_coco_file_is_named(coco, fault, file, text):
    assert coco(fault) == [(file, text)]


def test_malformed_and_missing_json_is_named(coco, tmp_path):
    ((file, text),) = coco(lambda content: "{")
    assert file == "val.json" and text.startswith("malformed JSON: ")
    (tmp_path / "coco/val.json").unlink()
    assert found("street_val") == [("val.json", "the annotation file does not exist")]


def test_a_box_that_is_rounded_to_hundredths_beyond_the_border_is_right(coco):
    assert coco(change("annotations", bbox=[1, 2, 39.005, 28])) == []


def test_a_name_that_is_unknown_or_of_another_layout_is_an_error():
    with pytest.raises(ValueError, match="'nothing' is not registered; data sets of your own"):
        check_dataset("nothing")
    with pytest.raises(ValueError, match="'ade20k_sem_seg_val' is neither in VOC nor in COCO layout"):
        check_dataset("ade20k_sem_seg_val")


def test_the_known_faults_of_real_data_are_found_and_no_others(real_data, tmp_path):
    entry = (
        f"{{format: voc, root: {real_data}/BCCD, splits: [trainval, test], classes: [RBC, WBC, Platelets]}}"
    )
    (tmp_path / "c.yaml").write_text(f"cells: {entry}")
    register_catalog(tmp_path / "c.yaml")
    assert found("cells_trainval") == [
        ("BloodImage_00338.xml", "object 13: box [504, 337, 504, 337] has no area"),
        ("BloodImage_00343.xml", "object 4: box [181, 329, 181, 329] has no area"),
    ]
    assert found("cells_test") == []
