import json
import math
import pickle

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from ohem_d2.data import register_catalog
from ohem_d2.data.checking import check_dataset
from ohem_d2.data.difficult import without_difficult
from ohem_d2.data.registered import class_names, is_background, require_images
from ohem_d2.evaluation import COCOEvaluator, VOCEvaluator

VOC = """
pets:
  format: voc
  root: voc
  splits: [train]
  classes: [cat, dog]
"""
COCO = """
pets:
  format: coco
  root: coco
  splits: {small: val}
  annotations: "{split}.json"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """``write(text)`` makes a catalogue in tmp_path; no data set lies in the default folder."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)

    def write(text, name="catalog.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def coco_root(make_voc, tmp_path):
    """A COCO data set with one image of id 7; category ids 5 and 9."""
    (make_voc({"seven": []}, name="coco") / "JPEGImages").rename(tmp_path / "coco/images")
    content = {
        "images": [{"id": 7, "file_name": "images/seven.jpg", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 9, "iscrowd": 0}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    (tmp_path / "coco/val.json").write_text(json.dumps(content))
    return tmp_path / "coco"


def test_voc_split_loads_and_suits_detectron2s_evaluator(write, make_voc):
    root = make_voc({"000001": [("dog", (3, 4, 20, 25))]})
    assert register_catalog(write(VOC)) == ["pets_train"]
    (record,) = DatasetCatalog.get("pets_train")
    assert record["annotations"][0]["category_id"] == 1
    metadata = MetadataCatalog.get("pets_train")
    assert metadata.thing_classes == ["cat", "dog"] and metadata.evaluator_type == "pascal_voc"
    assert (metadata.dirname, metadata.split, metadata.year) == (str(root), "train", 2012)
    evaluator = PascalVOCDetectionEvaluator("pets_train")
    evaluator.reset()
    assert "bbox" in evaluator.evaluate()


FOLDERS = {"annotations": "labels/{split}", "images": ".", "imagesets": "lists"}


@pytest.fixture
def moved_voc(write, make_voc):
    """A VOC data set in folders of other names, registered as pets_train: two dogs and a difficult cat."""
    root = make_voc({"a 1": [("dog", (3, 4, 20, 25)), ("cat", (1, 2, 9, 9))], "b": [("dog", (5, 6, 30, 28))]})
    xml = root / "Annotations/a 1.xml"
    head, _, tail = xml.read_text().rpartition("<difficult>0")
    xml.write_text(f"{head}<difficult>1{tail}")
    (root / "labels").mkdir()
    (root / "Annotations").rename(root / "labels/train")
    (root / "ImageSets/Main").rename(root / "lists")
    for image in (root / "JPEGImages").iterdir():
        image.rename(root / image.name)
    register_catalog(write(VOC + "".join(f"  {key}: '{folder}'\n" for key, folder in FOLDERS.items())))
    return root


def test_folders_of_other_names_are_those_of_loading_and_checking(moved_voc):
    records = DatasetCatalog.get("pets_train")
    assert [(r["image_id"], r["file_name"]) for r in records] == [
        (image_id, f"{moved_voc}/{image_id}.jpg") for image_id in ("a 1", "b")
    ]
    report = check_dataset("pets_train")
    assert str(report) == "pets_train: 2 images, 3 objects (1 difficult), no proposals, no problem"
    without = DatasetCatalog.get(without_difficult("pets_train"))
    assert [len(record["annotations"]) for record in without] == [1, 1]
    (moved_voc / "labels/train/b.xml").unlink()
    with pytest.raises(FileNotFoundError, match="voc/labels/train: 1 of 2 XML files are missing: b$"):
        DatasetCatalog.get("pets_train")


@pytest.mark.parametrize("evaluator", [VOCEvaluator, COCOEvaluator])
def test_folders_of_other_names_are_those_of_evaluation(moved_voc, tmp_path, evaluator):
    options = {"output_dir": str(tmp_path / "out")} if evaluator is COCOEvaluator else {}
    evaluator = evaluator("pets_train", **options)
    evaluator.reset()
    for record in DatasetCatalog.get("pets_train"):
        found = Instances((record["height"], record["width"]))
        found.pred_boxes = Boxes([a["bbox"] for a in record["annotations"]])
        found.scores = torch.ones(len(found.pred_boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()["bbox"]
    # Both dogs are found; the only cat is difficult.
    assert results["AP-dog"] == pytest.approx(100) and math.isnan(results["AP-cat"])


def test_coco_split_loads_under_its_suffix(write, coco_root):
    assert register_catalog(write(COCO)) == ["pets_small"]
    (record,) = DatasetCatalog.get("pets_small")
    assert record["image_id"] == 7 and record["annotations"][0]["category_id"] == 1
    metadata = MetadataCatalog.get("pets_small")
    assert metadata.thing_classes == ["cat", "dog"] and metadata.evaluator_type == "coco"
    assert (metadata.json_file, metadata.image_root) == (str(coco_root / "val.json"), str(coco_root))


def test_an_id_of_two_images_is_refused(write, coco_root):
    content = json.loads((coco_root / "val.json").read_text())
    content["images"].append({**content["images"][0], "file_name": "images/other.jpg"})
    (coco_root / "val.json").write_text(json.dumps(content))
    register_catalog(write(COCO))
    with pytest.raises(ValueError, match="val.json: 1 ids belong to several images: 7$"):
        DatasetCatalog.get("pets_small")


def test_coco_json_with_a_byte_order_mark_is_refused_since_evaluation_would_fail(write, coco_root):
    file = coco_root / "val.json"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    register_catalog(write(COCO))
    with pytest.raises(ValueError, match="val.json: it begins with a byte order mark.*as UTF-8 without$"):
        DatasetCatalog.get("pets_small")


def test_coco_faults_are_found_when_the_split_is_loaded(write, coco_root):
    register_catalog(write(COCO + "  classes: [dog, cat]\n"))
    with pytest.raises(ValueError, match=r"lists classes \['dog', 'cat'\] but .*json holds \['cat', 'dog'\]"):
        DatasetCatalog.get("pets_small")
    (coco_root / "images/seven.jpg").unlink()
    register_catalog(write(COCO.replace("pets", "zoo")))
    with pytest.raises(FileNotFoundError, match="1 of 1 images are missing, ids: 7$"):
        DatasetCatalog.get("zoo_small")
    (coco_root / "val.json").write_text("[]")
    with pytest.raises(ValueError, match="val.json: not a COCO instances file"):
        DatasetCatalog.get("zoo_small")
    (coco_root / "val.json").unlink()
    with pytest.raises(FileNotFoundError, match="val.json does not exist"):
        DatasetCatalog.get("zoo_small")


def test_registering_twice_is_nothing_and_taking_a_name_is_an_error(write):
    path = write(VOC)
    assert register_catalog(path) == register_catalog(path) == ["pets_train"]
    with pytest.raises(ValueError, match="other.yaml: the name 'pets_train' is already taken"):
        register_catalog(write(VOC.replace("cat", "cow"), "other.yaml"))
    with pytest.raises(ValueError, match="'voc_2007_train' is already taken"):
        register_catalog(write(VOC.replace("pets", "voc_2007"), "other.yaml"))


def test_an_error_registers_nothing(write):
    with pytest.raises(ValueError, match="entry 'bad'"):
        register_catalog(write(VOC + "bad: {format: voc}\n"))
    assert "pets_train" not in DatasetCatalog


def test_missing_files_matter_only_to_who_loads_them(write, make_voc):
    register_catalog(write(VOC.replace("[train]", "[train, val]")))
    with pytest.raises(FileNotFoundError, match="'pets_train': folder .*voc does not exist"):
        DatasetCatalog.get("pets_train")
    make_voc({"a": []})
    assert len(DatasetCatalog.get("pets_train")) == 1
    with pytest.raises(FileNotFoundError, match="val.txt does not exist"):
        DatasetCatalog.get("pets_val")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("format: voc", "fromat: voc", r"no format \(voc, coco, images\); its keys are 'fromat'"),
        ("format: voc", "format: yolo", "format must be one of voc, coco, images, not 'yolo'"),
        ("classes:", "clases:", "unknown key 'clases'; keys of format voc: format, root, splits, classes,"),
        ("  classes: [cat, dog]\n", "", "key 'classes' is missing; format voc needs format, root, splits,"),
        ("[cat, dog]", "[yes, dog]", r"classes must be a list of distinct strings.*not \[True, 'dog'\]"),
        ("[cat, dog]", "[dog, dog]", "classes must be a list of distinct"),
        ("[cat, dog]", "cat", "classes must be a list of distinct .*not 'cat'"),
        ("[train]", "train", "splits must be a list of names or a mapping .*not 'train'"),
        ("[train]", "[]", "splits must be a list"),
        ("[train]", "{a: 1}", "splits must be a list"),
        ("root: voc", "root: 3", "root must be a path, not 3"),
        ("root: voc", "root: ${NO_SUCH_VARIABLE}/voc", "root uses the environment variable NO_SUCH_VARIABLE"),
        ("splits", "year: 2010\n  splits", r"year must be one of \(2007, 2012\).*not 2010"),
        (
            "splits",
            "proposals: '{splt}.pkl'\n  splits",
            r"proposals knows only the placeholder \{split\} and",
        ),
        ("splits", "proposals: [1]\n  splits", r"proposals must be a path or a list of paths, not \[1\]"),
        ("splits", "proposals: 1\n  splits", "proposals must be a path, not 1"),
        ("splits", "root: other\n  splits", "malformed YAML: key 'root' comes twice"),
        ("[train]", "[train", "malformed YAML"),
        ("classes", "image: a\n  classes", "unknown key 'image'; .* year, annotations, images, imagesets, "),
        ("classes", "images: x{name}\n  classes", r"images knows only the placeholder \{split\}, found"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_choices(write, old, new, message):
    assert VOC.count(old) == 1
    with pytest.raises(ValueError, match=message) as caught:
        register_catalog(write(VOC.replace(old, new)))
    assert str(caught.value).startswith(str(write(""))) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- pets\n", "pets\n"])
def test_a_file_that_maps_nothing_is_refused(write, text):
    with pytest.raises(ValueError, match="a catalogue maps data set names to entries"):
        register_catalog(write(text))


def test_missing_catalogue_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.yaml does not exist"):
        register_catalog(tmp_path / "no.yaml")


def test_entries_may_share_keys_by_yaml_anchors(write):
    text = VOC.replace("pets:", "pets: &base") + "more: {<<: *base, splits: [test]}\n"
    assert register_catalog(write(text)) == ["pets_train", "more_test"]


BACKGROUND = """
street:
  format: images
  root: ./street
  proposals: ./p/{name}.safetensors
"""


def test_a_folder_of_images_is_one_data_set_of_its_entrys_name_without_classes(write, make_voc, tmp_path):
    (make_voc({"a": [], "b": []}) / "JPEGImages").rename(tmp_path / "street")
    assert register_catalog(write(BACKGROUND)) == ["street"]
    assert [r["image_id"] for r in DatasetCatalog.get("street")] == ["a.jpg", "b.jpg"]
    metadata = MetadataCatalog.get("street")
    assert metadata.proposal_file == str(tmp_path / "p/street.safetensors")
    assert is_background("street") and class_names("street") is None
    assert register_catalog(write(BACKGROUND)) == ["street"]  # the same again


def test_a_folder_of_images_has_neither_splits_nor_classes_and_must_exist(write):
    for key in ("splits: [train]", "classes: [cat]", "ignore: [crowd]"):
        with pytest.raises(ValueError, match="unknown key '.*'; keys of format images: format, root, prop"):
            register_catalog(write(BACKGROUND + f"  {key}\n"))
    with pytest.raises(ValueError, match="key 'root' is missing; format images needs format, root"):
        register_catalog(write("street: {format: images}"))
    register_catalog(write(BACKGROUND))
    with pytest.raises(FileNotFoundError, match="data set 'street': folder .*/street does not exist"):
        DatasetCatalog.get("street")


def places(write, root, proposals="p/{split}.pkl"):
    """Where a catalogue in the folder "catalogs" finds its root and its proposals."""
    text = VOC.replace("root: voc", f"root: {root}\n  proposals: '{proposals}'")
    register_catalog(write(text, "catalogs/catalog.yaml"))
    metadata = MetadataCatalog.get("pets_train")
    return metadata.dirname, metadata.proposal_file


def test_a_relative_root_starts_from_the_common_folder_if_it_is_there(write, tmp_path):
    (tmp_path / "datasets/voc").mkdir(parents=True)
    (tmp_path / "catalogs/voc").mkdir(parents=True)
    root = tmp_path / "datasets/voc"
    assert places(write, "voc") == (str(root), str(root / "p/train.pkl"))


def test_a_relative_root_else_starts_from_the_catalogue(write, tmp_path, monkeypatch):
    (tmp_path / "datasets/voc").mkdir(parents=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    root = tmp_path / "catalogs/voc"
    assert places(write, "voc") == (str(root), str(root / "p/train.pkl"))


@pytest.mark.parametrize("root, folder", [(".", "catalogs"), ("./voc", "catalogs/voc"), ("../voc", "voc")])
def test_paths_that_begin_with_a_dot_start_from_the_catalogue(write, tmp_path, root, folder):
    (tmp_path / "datasets/voc").mkdir(parents=True)
    assert places(write, root, "./p.pkl") == (str(tmp_path / folder), str(tmp_path / "catalogs/p.pkl"))


def test_proposals_may_be_a_pattern_or_a_list(write, tmp_path):
    (tmp_path / "datasets/voc").mkdir(parents=True)
    text = VOC.replace("root: voc", "root: voc\n  proposals: PLACE")
    for number, (place, files) in enumerate(
        {
            "'p/{split}-*.safetensors'": "datasets/voc/p/train-*.safetensors",
            "['./{name}', 'q?']": ("catalogs/pets1_train", "datasets/voc/q?"),
        }.items()
    ):
        (name,) = register_catalog(
            write(text.replace("PLACE", place).replace("pets:", f"pets{number}:"), "catalogs/catalog.yaml")
        )
        expected = (
            f"{tmp_path}/{files}" if isinstance(files, str) else tuple(f"{tmp_path}/{f}" for f in files)
        )
        assert MetadataCatalog.get(name).proposal_file == expected


@pytest.mark.parametrize(
    "proposals, file",
    [
        ("p/{split}.pkl", "/data/voc/p/train.pkl"),
        ("${SOME_DATA}/p.pkl", "/data/p.pkl"),
        ("../p.pkl", "{}/p.pkl"),
    ],
)
def test_proposals_start_from_an_absolute_root_unless_they_say_otherwise(
    write, tmp_path, monkeypatch, proposals, file
):
    monkeypatch.setenv("SOME_DATA", "/data")
    assert places(write, "${SOME_DATA}/voc", proposals) == ("/data/voc", file.format(tmp_path))


@pytest.mark.parametrize(
    "root, former", [("voc", "datasets"), ("./voc", "catalogs"), ("{}/datasets/voc", "datasets")]
)
def test_proposals_at_their_former_place_are_read_with_one_warning_until_there_are_others(
    write, tmp_path, caplog, root, former
):
    """Version 0.1 took them relative to the folder in which the root was found, or to the common one."""
    for folder in ("datasets/voc", "catalogs/voc", f"{former}/p"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        (tmp_path / former / f"p/{split}.pkl").touch()
    text = VOC.replace("[train]", "[train, val, test]")
    text = text.replace("root: voc", f"root: {root}\n  proposals: 'p/{{split}}.pkl'").format(
        tmp_path, split="{split}"
    )

    def registered():
        for name in register_catalog(write(text, "catalogs/catalog.yaml")):
            yield MetadataCatalog.get(name).proposal_file
            DatasetCatalog.pop(name), MetadataCatalog.pop(name)

    old, new = (
        [str(tmp_path / f / f"p/{s}.pkl") for s in ("train", "val", "test")]
        for f in (former, f"{former}/voc")
    )
    assert list(registered()) == [*old[:2], new[2]]
    (message,) = caplog.messages
    assert message.startswith(
        f"{tmp_path}/catalogs/catalog.yaml, entry 'pets': proposals is relative to root; "
    )
    assert message.endswith(f"there is no {new[0]}, so {old[0]} is read, as in 0.1")
    (tmp_path / former / "voc/p").mkdir()
    for file in new:
        open(file, "w").close()
    assert list(registered()) == new and len(caplog.messages) == 1


def test_the_pattern_of_proposals_may_hold_the_registered_name(write, tmp_path):
    assert places(write, ".", "./{name}-{split}.pkl")[1] == str(tmp_path / "catalogs/pets_train-train.pkl")
    with pytest.raises(
        ValueError, match=r"annotations knows only the placeholder \{split\}, found 'x\{name\}'"
    ):
        register_catalog(write(COCO.replace("{split}.json", "x{name}")))


def test_registered_data_set_can_be_pickled_and_detectron2s_own_stay(write):
    register_catalog(write(VOC))
    assert pickle.loads(pickle.dumps(DatasetCatalog["pets_train"])) == DatasetCatalog["pets_train"]
    assert {"voc_2007_trainval", "coco_2017_val"} <= set(DatasetCatalog)


@pytest.mark.parametrize("name", ["../outside.jpg", "{absolute}", "images/../../outside.jpg"])
def test_an_image_outside_of_its_folder_is_refused_unless_the_entry_allows_it(write, coco_root, name):
    content, outside = json.loads((coco_root / "val.json").read_text()), coco_root.parent / "outside.jpg"
    content["images"][0]["file_name"] = name.format(absolute=outside)
    (coco_root / "images/seven.jpg").rename(outside)
    (coco_root / "val.json").write_text(json.dumps(content))
    register_catalog(write(COCO))
    message = f"val.json: 1 of 1 images lie outside of {coco_root}, .*outside.jpg.*images_outside: true"
    with pytest.raises(ValueError, match=message):
        DatasetCatalog.get("pets_small")
    (problem, *_) = check_dataset("pets_small").problems
    assert str(problem).endswith(f"lies outside of {coco_root}")
    register_catalog(write(COCO.replace("pets", "zoo") + "  images_outside: true\n"))
    assert len(DatasetCatalog.get("zoo_small")) == 1
    assert check_dataset("zoo_small").problems == []


def test_images_outside_is_true_or_false(write):
    with pytest.raises(ValueError, match="images_outside must be true or false, not 'x'"):
        register_catalog(write(COCO + "  images_outside: x\n"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": [{"id": 7, "file_name": "x.jpg", "height": 30, "width": "x"}]}, "width and height are"),
        ({"annotations": [{"id": 1, "image_id": 7, "bbox": [1, 2, 3], "category_id": 9}]}, "a bbox is"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 9}]},
            "a bbox is None; valid: four",
        ),
        ({"categories": [{"id": 5, "name": 3}, {"id": 9, "name": "dog"}]}, "names of categories are"),
    ],
)
def test_values_of_other_types_in_coco_are_named(write, coco_root, change, message):
    content = json.loads((coco_root / "val.json").read_text())
    (coco_root / "val.json").write_text(json.dumps({**content, **change}))
    register_catalog(write(COCO))
    with pytest.raises(ValueError, match=f"val.json.*{message}"):
        DatasetCatalog.get("pets_small")


def test_a_test_set_without_images_is_refused_with_its_file(write, coco_root):
    empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    (coco_root / "val.json").write_text(json.dumps(empty))
    register_catalog(write(COCO))
    with pytest.raises(ValueError, match="data set 'pets_small' has no images: .*val.json"):
        require_images("pets_small")
