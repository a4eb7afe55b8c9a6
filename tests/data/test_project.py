"""New projects: the split, configs that fit the data, and nothing half-written."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.data import build_train_loader, register_catalog
from ohem_d2.data.checking import check_dataset
from ohem_d2.data.layouts import LabelledImage, read_folder
from ohem_d2.data.project import make_project
from ohem_d2.data.project.settings import ProjectData, cpu_config, gpu_config
from ohem_d2.data.project.split import draw_split
from ohem_d2.data.project.statistics import Statistics
from ohem_d2.engine import load_config

from ..drawn_layouts import CLASSES, LAYOUTS, OBJECTS, SPLITS, TOY, WITHOUT_SPLIT, draw, write

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def labelled(*classes_of_images, size=(640, 480), side=96):
    """Images with a square object of `side` pixels of each class named."""
    objects = [
        [{"category": c, "bbox": [0, 0, side, side]} for c in classes] for classes in classes_of_images
    ]
    return [LabelledImage(Path(f"{i}.jpg"), *size, None, found) for i, found in enumerate(objects)]


def settings(images, num_classes=2, make=cpu_config, **kwargs):
    data = ProjectData(Path("/f"), Path("/p"), num_classes, "f_train", "f_val", Statistics.of(images))
    return yaml.safe_load(make(data, CONFIGS, **kwargs))


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_project_of_any_layout_can_be_trained(layout, tmp_path):
    LAYOUTS[layout](tmp_path / "my data")
    before = snapshot(tmp_path / "my data")
    project = make_project(tmp_path / "my data", tmp_path / "p", CONFIGS)
    assert snapshot(tmp_path / "my data") == before
    names = register_catalog(tmp_path / "p/catalog.yaml")
    assert names == ["my_data_train", "my_data_val"] == [project.train, project.test]
    files = [MetadataCatalog.get(name).proposal_file for name in names]
    assert files == [f"{tmp_path}/p/proposals/{split}.safetensors" for split in ("train", "val")]
    assert not [problem for name in names for problem in check_dataset(name).problems]
    for file, output in {"config.yaml": "output", "config_gpu.yaml": "output_gpu"}.items():
        cfg = load_config(str(tmp_path / "p" / file))
        assert cfg.DATASETS.TRAIN == (names[0],) and cfg.DATASETS.TEST == (names[1],)
        assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads" and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
        assert cfg.OUTPUT_DIR == str(tmp_path / "p" / output) and not cfg.MODEL.IGNORE_REGIONS.ENABLED
        assert cfg.MODEL.LOAD_PROPOSALS == (file == "config.yaml")
    records = {Path(r["file_name"]).stem: (r, name) for name in names for r in DatasetCatalog.get(name)}
    assert {stem: len(r["annotations"]) for stem, (r, _) in records.items()} == {
        stem: len(objects) for stem, objects in OBJECTS.items()
    }
    if layout not in WITHOUT_SPLIT:
        assert {stem for stem, (_, name) in records.items() if name == names[1]} == set(SPLITS["val"])


@pytest.mark.parametrize("layout", [*LAYOUTS, "yolo without the file"])
def test_images_without_objects_are_trained_on_in_every_layout(layout, tmp_path):
    nothing_in = dict.fromkeys(("d", "g"), [])  # where the layout has a split, g is tested on
    LAYOUTS[layout.split()[0]](tmp_path / "pets", TOY._replace(objects=OBJECTS | nothing_in))
    if layout == "yolo without the file":
        (tmp_path / "pets/labels/train/d.txt").unlink()
    project = make_project(tmp_path / "pets", tmp_path / "p", CONFIGS)
    register_catalog(tmp_path / "p/catalog.yaml")
    records = DatasetCatalog.get("pets_train")
    empty = {Path(r["file_name"]).stem for r in records if not r["annotations"]}
    assert empty and empty <= {"d", "g"}
    line = f"{len(empty)} training images have no object and are trained on as background."
    assert line in project.summary and line in (tmp_path / "p/report.txt").read_text()
    loader = build_train_loader(load_config(str(tmp_path / "p/config_gpu.yaml")))
    assert [record["file_name"] for record in loader.dataset] == [record["file_name"] for record in records]
    assert not load_config(str(tmp_path / "p/config.yaml")).DATALOADER.FILTER_EMPTY_ANNOTATIONS


def test_an_image_of_crowds_alone_counts_as_one_without_objects(tmp_path):
    LAYOUTS["coco"](tmp_path / "pets")
    file = tmp_path / "pets/annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    (of_d,) = (a for a in content["annotations"] if a["image_id"] == SPLITS["train"].index("d"))
    of_d["iscrowd"] = 1
    file.write_text(json.dumps(content))
    project = make_project(tmp_path / "pets", tmp_path / "p", CONFIGS)
    assert "1 training images have no object and are trained on as background." in project.summary


def test_where_all_images_have_objects_the_configs_do_not_speak_of_them(tmp_path):
    LAYOUTS["voc"](tmp_path / "pets")
    project = make_project(tmp_path / "pets", tmp_path / "p", CONFIGS)
    assert "FILTER_EMPTY" not in (tmp_path / "p/config.yaml").read_text()
    assert "trained on as background" not in project.summary


def test_a_split_holds_out_a_fifth_of_each_class_and_trains_on_all(tmp_path):
    images = labelled(*[["cat"]] * 50, *[["cat", "dog"]] * 10, *[["emu"]] * 3, *[[]] * 10)
    draw_split(images, seed=1)
    held = Counter(str({a["category"] for a in i.annotations}) for i in images if i.split == "val")
    # Rarest first: 3 emus give 0, 10 dogs 2, then 50 other cats 10, then 10 empty images 2.
    assert sorted(held.values()) == [2, 2, 10] and sum(held.values()) == 14
    assert {i.split for i in images if i.annotations and i.annotations[0]["category"] == "emu"} == {"train"}
    first = [image.split for image in images]
    draw_split(images, seed=1)
    assert [image.split for image in images] == first
    draw_split(images, seed=2)
    assert [image.split for image in images] != first


def test_a_split_of_many_small_classes_holds_out_a_fifth_too():
    images = labelled(*[[f"c{k}"] for k in range(100) for _ in range(4)], *[[f"one{k}"] for k in range(9)])
    draw_split(images)
    held = [image.annotations[0]["category"] for image in images if image.split == "val"]
    assert 80 <= len(held) <= 82 and max(Counter(held).values()) <= 3  # of 409
    trained = {image.annotations[0]["category"] for image in images if image.split == "train"}
    assert len(trained) == 109


def test_a_split_of_few_images_holds_out_one_whose_class_is_trained_on():
    images = labelled(["cat"], ["cat"], ["dog"])
    draw_split(images)
    assert [i.split for i in images].count("val") == 1 and images[2].split == "train"
    one, other = labelled(["cat"], [])
    draw_split([one, other])
    assert (one.split, other.split) == ("train", "val")
    with pytest.raises(ValueError, match="found 1 image; expected at least 2"):
        draw_split(images[:1])


def test_the_image_is_large_enough_for_the_small_objects_of_each_class():
    # 96 of 480: 24 pixels at a side of 120, which is below the least of 240.
    assert settings(labelled(["cat"], ["dog"]))["INPUT"]["MIN_SIZE_TRAIN"] == [240]
    # 40 of 480: 24 pixels at 288.
    small = labelled(["cat"], side=40)
    assert settings(small)["INPUT"]["MIN_SIZE_TEST"] == 288
    assert settings([*labelled(*[["dog"]] * 99), *small])["INPUT"]["MIN_SIZE_TEST"] == 288
    assert settings(labelled(["cat"], side=4))["INPUT"]["MIN_SIZE_TRAIN"] == [400]
    # An image is enlarged to twice its size at most.
    tiny = settings(labelled(["cat"], size=(64, 48), side=10))["INPUT"]
    assert tiny["MIN_SIZE_TEST"] == 96 and tiny["MAX_SIZE_TEST"] == 128
    # On a GPU 32 pixels: 384 for 40 of 480, at least 480; 32 for 20 of 480 need 768.
    assert settings(small, make=gpu_config)["INPUT"]["MIN_SIZE_TRAIN"] == [384, 432, 480]
    assert settings(labelled(["cat"], side=20), make=gpu_config)["INPUT"]["MIN_SIZE_TEST"] == 768


def test_anchors_span_the_objects():
    # All objects are 48 pixels at 240: half to twice that, in equal ratios.
    on_features = {"network": "squeezenet1_0"}
    anchors = settings(labelled(["cat"], ["dog"]), **on_features)["MODEL"]["ANCHOR_GENERATOR"]["SIZES"]
    assert anchors == [[24, 38, 60, 96]]
    many = [image for side in range(48, 481, 6) for image in labelled(["cat"], side=side)]
    # 10% to 90% of 48 to 480, at 240 of 480.
    first, *_, last = settings(many, **on_features)["MODEL"]["ANCHOR_GENERATOR"]["SIZES"][0]
    assert (first, last) == (46, 218)


@pytest.mark.parametrize("objects, budget", [(1, 64), (10, 64), (11, 128), (30, 256), (300, 512)])
def test_the_budget_leaves_room_for_background(objects, budget):
    assert settings(labelled(["cat"] * objects))["MODEL"]["ROI_HEADS"]["BATCH_SIZE_PER_IMAGE"] == budget


@pytest.mark.parametrize("num, iterations", [(4, 300), (100, 500), (5000, 1000)])
def test_the_schedule_grows_with_the_images_within_bounds(num, iterations):
    solver = settings(labelled(*[["cat"]] * num))["SOLVER"]
    assert solver["MAX_ITER"] == iterations and solver["STEPS"] == [iterations * 3 // 4]
    assert solver["WARMUP_ITERS"] < solver["STEPS"][0]


def test_every_key_has_its_reason():
    data = ProjectData(Path("/f"), Path("/p"), 1, "f_train", "f_val", Statistics.of(labelled(["cat"])))
    for text in cpu_config(data, CONFIGS), gpu_config(data, CONFIGS):
        for key in ("BATCH_SIZE_PER_IMAGE", "MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MAX_ITER"):
            assert re.search(rf"^ *# .*\n *{key}", text, re.MULTILINE), key


def test_weights_are_those_of_a_network_that_the_file_names(tmp_path):
    for name in "resnet18-f37072fd.pth", "squeezenet1_0.safetensors", "vgg16.pth":
        write(tmp_path / name, "")
        network, folder = name.split(".")[0].split("-")[0], tmp_path / f"data_{name}"
        LAYOUTS["labelimg"](folder)
        if network == "vgg16":
            break
        project = make_project(folder, tmp_path / network, CONFIGS, tmp_path / name)
        cfg = load_config(str(tmp_path / network / "config.yaml"))
        assert project.network == cfg.MODEL.TORCHVISION.NAME == network
        assert cfg.MODEL.WEIGHTS == str(tmp_path / network / "weights.pth")
        assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN"
    with pytest.raises(ValueError, match="vgg16.pth: the name of the file .*: resnet18, squeezenet1_0$"):
        make_project(folder, tmp_path / "p", CONFIGS, tmp_path / "vgg16.pth")
    with pytest.raises(FileNotFoundError, match="weights gone.pth do not exist"):
        make_project(folder, tmp_path / "p", CONFIGS, "gone.pth")
    assert not (tmp_path / "p").exists()


def test_difficult_objects_and_crowds_are_regions_that_all_models_ignore(tmp_path):
    """The second of the two dogs of "e" is difficult."""
    LAYOUTS["voc"](tmp_path / "data")
    xml = tmp_path / "data/Annotations/e.xml"
    head, _, tail = xml.read_text().rpartition("<difficult>0")
    xml.write_text(f"{head}<difficult>1{tail}")
    write(tmp_path / "squeezenet1_0.pth", "")
    project = make_project(tmp_path / "data", tmp_path / "p", CONFIGS)
    make_project(tmp_path / "data", tmp_path / "q", CONFIGS, tmp_path / "squeezenet1_0.pth")
    assert "difficult objects and crowds, which are ignored: 1\n" in project.summary
    content = json.loads((tmp_path / "p/annotations/train.json").read_text())
    assert [a["bbox"] for a in content["annotations"] if a["iscrowd"]] == [[34, 6, 28, 24]]
    for file in "p/config.yaml", "p/config_gpu.yaml", "q/config.yaml":
        model = load_config(str(tmp_path / file), ["MODEL.WEIGHTS", "''"]).MODEL
        assert model.IGNORE_REGIONS.ENABLED and not model.OHEM.RPN.ENABLED
        for name in list(DatasetCatalog):
            if name.startswith("data_"):
                DatasetCatalog.pop(name), MetadataCatalog.pop(name)


def test_a_folder_of_crowds_alone_has_nothing_to_train_on(tmp_path):
    LAYOUTS["cvat"](tmp_path / "data")
    file = tmp_path / "data/annotations/instances_default.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation[["iscrowd", "ignore"][annotation["id"] % 2]] = 1
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="COCO JSON, 6 images, but no box that can be trained on$"):
        make_project(tmp_path / "data", tmp_path / "p", CONFIGS)


def test_images_in_no_split_are_named_and_left_out(tmp_path):
    LAYOUTS["voc"](tmp_path / "data")
    write(tmp_path / "data/ImageSets/Main/train.txt", "a\nb c\n")
    (tmp_path / "data/ImageSets/Main/trainval.txt").unlink()
    project = make_project(tmp_path / "data", tmp_path / "p", CONFIGS)
    assert [p.text for p in project.problems] == ["2 labelled images are in no split; they are left out"]
    assert "2 labelled images" in (tmp_path / "p/report.txt").read_text()
    assert ": 4 images, " in project.summary
    content = json.loads((tmp_path / "p/annotations/train.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["JPEGImages/a.jpg", "JPEGImages/b c.jpg"]
    assert [c["name"] for c in content["categories"]] == CLASSES


def test_images_with_a_label_that_cannot_be_used_are_no_background(tmp_path):
    """Such as a class that the list of names lacks: what it labels would be trained on as background."""
    LAYOUTS["yolo"](tmp_path / "data")
    before = len(read_folder(tmp_path / "data").images)
    label = next((tmp_path / "data/labels/train").glob("*.txt"))
    write(label, label.read_text() + "9 .5 .5 .1 .1\n")
    project = make_project(tmp_path / "data", tmp_path / "p", CONFIGS)
    text = f"1 images have labels that cannot be used, {label.stem}.jpg for one; they are left out"
    assert [p.text for p in project.problems][-1] == text
    contents = [json.loads(file.read_text()) for file in (tmp_path / "p/annotations").iterdir()]
    names = [Path(image["file_name"]).stem for content in contents for image in content["images"]]
    assert len(names) == before - 1 and label.stem not in names


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    LAYOUTS["labelimg"](tmp_path / "data")
    with pytest.raises(ValueError, match="data/p lies inside .*data, which is not changed"):
        make_project(tmp_path / "data", tmp_path / "data/p", CONFIGS)
    (tmp_path / "p").mkdir()
    with pytest.raises(FileExistsError, match="p exists; name another --output, or remove it"):
        make_project(tmp_path / "data", tmp_path / "p", CONFIGS)
    (tmp_path / "p").rmdir()
    writes = iter([True, False])

    def fail(self, *args, text=Path.write_text, **kwargs):
        if not next(writes):
            raise OSError("no space left")
        return text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space left"):
        make_project(tmp_path / "data", tmp_path / "p", CONFIGS)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_folder_without_an_object_to_train_on_is_refused(tmp_path):
    LAYOUTS["roboflow"](tmp_path / "data")
    shutil.rmtree(tmp_path / "data/train")
    draw(tmp_path / "data/train/a.jpg", "a")
    file = json.loads((tmp_path / "data/valid/_annotations.coco.json").read_text())
    file.update(images=[{"id": 0, "file_name": "a.jpg"}], annotations=[])
    write(tmp_path / "data/train/_annotations.coco.json", json.dumps(file))
    with pytest.raises(ValueError, match=f"^{tmp_path}/data: found no box in the images of its split train$"):
        make_project(tmp_path / "data", tmp_path / "p", CONFIGS)


def test_the_summary_has_the_figures_of_the_data(tmp_path):
    LAYOUTS["voc"](tmp_path / "data")
    summary = make_project(tmp_path / "data", tmp_path / "p", CONFIGS).summary
    assert "VOC (XML of PASCAL VOC): 6 images, 9 boxes, classes: 2" in summary
    assert "images: 48 to 64 pixels a side, median 64 x 48" in summary
    assert "boxes per image: 1 to 2, mean 1.5; 0 images without" in summary
    rows = [line.split() for line in summary.splitlines()]
    assert ["cat", "2", "2"] in rows and ["dog", "4", "1"] in rows and ["images", "4", "2"] in rows


def test_a_name_that_is_taken_is_not_used_and_a_path_that_would_be_expanded_is_refused(tmp_path):
    LAYOUTS["labelimg"](tmp_path / "coco_2017")
    make_project(tmp_path / "coco_2017", tmp_path / "p", CONFIGS)
    assert register_catalog(tmp_path / "p/catalog.yaml") == ["my_coco_2017_train", "my_coco_2017_val"]
    with pytest.raises(ValueError, match=r"q\$: a path with one of \" .* cannot stand in a config"):
        make_project(tmp_path / "coco_2017", tmp_path / "q$", CONFIGS)


def test_real_data_are_read_whole(real_data):
    expected = {"raccoon": (200, 217, 0), "BCCD": (364, 4886, 2), "voc_sample": (100, 273, 0)}
    for name, figures in expected.items():
        found = read_folder(real_data / name)
        boxes = np.sum([len(image.annotations) for image in found.images])
        assert (len(found.images), boxes, len(found.problems)) == figures
