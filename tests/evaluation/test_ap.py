"""AP of VOC and of COCO: worked out by hand, and against independent implementations on real annotations."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ohem_d2.data import load_voc, register_catalog
from ohem_d2.evaluation import COCOEvaluator, VOCEvaluator

from .definitions import (
    THRESHOLDS,
    average_precision_2007,
    average_precision_2012,
    draw_detections,
    precision_recall,
)

YEARS = {"voc07": 2007, "voc12": 2012}
VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow "
    "diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"
).split()


def feed(evaluator, detections, classes, ids):
    """Hand [(image, class, score, box in pixels from 1)] to an evaluator, image by image, and evaluate."""
    evaluator.reset()
    for image_id in ids:
        found = [d for d in detections if d[0] == image_id]
        boxes = torch.tensor([[float(c) for c in box] for *_, box in found], dtype=torch.float64).reshape(
            -1, 4
        )
        instances = Instances((1000, 1000), pred_boxes=Boxes(boxes - torch.tensor([1, 1, 0, 0])))
        instances.scores = torch.tensor([float(score) for _, _, score, _ in found])
        instances.pred_classes = torch.tensor(
            [classes.index(name) for _, name, _, _ in found], dtype=torch.long
        )
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.fixture
def pets(make_voc, tmp_path):
    """Registers a VOC data set of cats and dogs and returns its name: ``pets({id: [...]}, difficult=0)``."""

    def make(objects, **kwargs):
        root = make_voc(objects, **kwargs)
        (tmp_path / "pets.yaml").write_text(
            f"pets: {{format: voc, root: {root}, splits: [train], classes: [cat, dog]}}"
        )
        register_catalog(tmp_path / "pets.yaml")
        return "pets_train"

    return make


def test_detections_are_left_as_results_of_coco(pets, tmp_path):
    """The box of pixels 2 to 11 and 4 to 13, from 1, is at (1, 3), 10 x 10; scores have three decimals."""
    name = pets({"a": [("cat", (1, 1, 10, 10))], "b c": [("dog", (1, 1, 10, 10))]})
    detections = [("a", "cat", 0.91249, (2, 4, 11, 13)), ("b c", "dog", 0.5, (1, 1, 20.5, 10))]
    feed(VOCEvaluator(name, folder=tmp_path / "out"), detections, ["cat", "dog"], ["a", "b c"])
    assert json.loads((tmp_path / "out/coco_instances_results.json").read_text()) == [
        {"image_id": "a", "category_id": 0, "bbox": [1, 3, 10, 10], "score": 0.912},
        {"image_id": "b c", "category_id": 1, "bbox": [0, 0, 20.5, 10], "score": 0.5},
    ]


def test_two_objects_found_around_a_wrong_box(pets):
    """Right, wrong, right: (recall, precision) is (1/2, 1), (1/2, 1/2), (1, 2/3).

    2007: recalls 0 to 0.5 have precision 1, 0.6 to 1 have 2/3: (6 + 5 * 2/3) / 11 = 28/33.
    2012: 1/2 + 1/2 * 2/3 = 5/6.
    """
    name = pets({"a": [("cat", (1, 1, 10, 10)), ("cat", (21, 11, 40, 30))]})
    detections = [
        ("a", "cat", 0.9, (1, 1, 10, 10)),
        ("a", "cat", 0.8, (12, 20, 18, 28)),
        ("a", "cat", 0.7, (21, 11, 40, 30)),
    ]
    results = feed(VOCEvaluator(name, YEARS), detections, ["cat", "dog"], "a")
    for key, expected in (("voc07", 2800 / 33), ("voc12", 500 / 6)):
        assert [results[key][metric] for metric in ("AP50-cat", "AP-cat", "AP")] == pytest.approx(
            [expected] * 3
        )
        assert np.isnan(results[key]["AP75-dog"])  # no dog to find: no AP, and no part in the mean


def test_ids_with_spaces_are_evaluated(pets):
    ids = ["street 1", "street 2"]
    name = pets({image_id: [("cat", (1, 1, 10, 10))] for image_id in ids})
    detections = [(image_id, "cat", 0.9, (1, 1, 10, 10)) for image_id in ids]
    assert feed(VOCEvaluator(name), detections, ["cat", "dog"], ids)["bbox"]["AP"] == pytest.approx(100)
    assert feed(VOCEvaluator(name), detections[:1], ["cat", "dog"], ids)["bbox"]["AP"] == pytest.approx(50)


def test_overlap_counts_the_last_pixel_and_must_exceed_the_threshold(pets):
    """In a box of 10 x 10, one of 10 x 5 has IoU 1/2, not above 0.5; one of 10 x 6 is right up to 0.55."""
    name = pets({"a": [("cat", (1, 1, 10, 10))]})
    results = [
        feed(VOCEvaluator(name), [("a", "cat", 0.9, (1, 1, 10, y2))], ["cat", "dog"], "a") for y2 in (5, 6)
    ]
    assert [r["bbox"]["AP50"] for r in results] == [0, 100]
    assert results[1]["bbox"]["AP"] == pytest.approx(20)  # 0.50 and 0.55 of the ten; 0.6 is not exceeded


def test_any_number_of_detections_of_a_difficult_object_counts_for_nothing(pets, tmp_path):
    name = pets({"a": [("cat", (1, 1, 10, 10))], "b": [("cat", (1, 1, 10, 10))]})
    xml = tmp_path / "voc/Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1"))
    difficult = [("a", "cat", 0.9, (1, 1, 10, 10)), ("a", "cat", 0.8, (1, 1, 10, 9))]
    found = [("b", "cat", 0.7, (1, 1, 10, 10))]
    results = feed(VOCEvaluator(name, YEARS), difficult + found, ["cat", "dog"], "ab")
    assert results["voc07"]["AP50"] == results["voc12"]["AP50"] == 100
    # COCO: the first is excused at every threshold, the second is wrong: precision 1/2 at recall 1.
    evaluator = COCOEvaluator(name, str(tmp_path / "coco"))
    assert feed(evaluator, difficult[:1] + found, ["cat", "dog"], "ab")["bbox"]["AP"] == pytest.approx(100)
    assert feed(evaluator, difficult + found, ["cat", "dog"], "ab")["bbox"]["AP50"] == pytest.approx(50)
    assert feed(evaluator, [], ["cat", "dog"], "ab").keys() == {"bbox"}


def test_coco_has_the_ap_of_each_class_at_iou_50_and_75_too(pets, tmp_path):
    name = pets({"a": [("cat", (1, 1, 10, 10)), ("cat", (21, 1, 30, 10))]})
    # Boxes of 10 x 10 and, of 10 x 6 inside the other, IoU 0.6: right at 0.5 and, at 0.75, one of two.
    detections = [("a", "cat", 0.9, (1, 1, 10, 10)), ("a", "cat", 0.8, (21, 1, 30, 6))]
    results = feed(COCOEvaluator(name, str(tmp_path)), detections, ["cat", "dog"], "a")["bbox"]
    assert results["AP50-cat"] == pytest.approx(100)
    assert results["AP75-cat"] == pytest.approx(100 * 51 / 101)  # the recalls 0, 0.01, ..., 0.5
    # 1 at 0.5, 0.55 (and 0.6, which is reached), then 51 / 101.
    assert results["AP-cat"] == pytest.approx(10 * (3 + 7 * 51 / 101))
    assert np.isnan(results["AP50-dog"]) and np.isnan(results["AP75-dog"])
    assert (results["AP50"], results["AP75"]) == (results["AP50-cat"], results["AP75-cat"])


def test_coco_json_of_any_ids_and_without_what_nobody_needs_is_evaluated(make_voc, tmp_path):
    """COCO's own evaluation never finds the annotation of id 0, and wants ``iscrowd`` and ``area``."""
    (make_voc({"a": [], "b": []}, name="coco") / "JPEGImages").rename(tmp_path / "coco/images")
    boxes = {0: [0, 0, 40, 30], 1: [20, 0, 10, 10]}
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in "ab"],
        "annotations": [{"id": k, "image_id": "ab"[k], "bbox": boxes[k], "category_id": 1} for k in boxes],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "coco/val.json").write_text(json.dumps(content))
    (tmp_path / "c.yaml").write_text(
        "farm: {format: coco, root: ./coco, splits: [val], annotations: '{split}.json', images: images}"
    )
    register_catalog(tmp_path / "c.yaml")
    DatasetCatalog.get("farm_val")
    detections = [("a", "cat", 0.9, (1, 1, 40, 30)), ("b", "cat", 0.8, (21, 1, 30, 10))]
    found = feed(COCOEvaluator("farm_val", str(tmp_path / "out")), detections, ["cat"], "ab")["bbox"]
    # By their boxes the first is of medium size, the second small.
    assert [found[key] for key in ("AP", "APs", "APm")] == [pytest.approx(100)] * 3
    # Of the two objects one is a crowd, which is neither found nor missed.
    content["annotations"][0]["iscrowd"] = 1
    (tmp_path / "coco/val.json").write_text(json.dumps(content))
    evaluator = COCOEvaluator("farm_val", str(tmp_path / "out"))
    assert feed(evaluator, detections[1:], ["cat"], "ab")["bbox"]["AP"] == pytest.approx(100)


def test_equal_scores_count_in_the_order_of_the_images_whatever_the_sort_does_with_them(pets, monkeypatch):
    """20 right ones of image a, then 20 wrong ones of b, in either order; the sort turns ties around."""
    monkeypatch.setattr(np, "argsort", lambda values: np.lexsort((-np.arange(len(values)), values)))
    name = pets({"a": [("cat", (1, 1 + i, 10 + i, 11 + i)) for i in range(20)], "b": []})
    wrong = [("b", "cat", 0.5, (1, 1 + i, 9, 9 + i)) for i in range(20)]
    right = [("a", "cat", 0.5, (1, 1 + i, 10 + i, 11 + i)) for i in range(20)]
    for order in ("ab", "ba"):
        results = feed(VOCEvaluator(name, YEARS), right + wrong, ["cat", "dog"], order)
        assert results["voc12"]["AP75"] == results["voc07"]["AP75"] == 100


def test_a_class_with_difficult_objects_alone_has_no_ap(pets):
    name = pets({"a": [("cat", (1, 1, 10, 10))]}, difficult=1)
    results = feed(VOCEvaluator(name, YEARS), [("a", "cat", 0.9, (1, 1, 10, 10))], ["cat", "dog"], "a")
    assert all(np.isnan(value) for figures in results.values() for value in figures.values())


def test_no_detections_and_no_images_are_no_error(pets, tmp_path):
    name = pets({"a": [("cat", (1, 1, 10, 10))]})
    for ids in ("a", ""):
        results = feed(VOCEvaluator(name, YEARS), [], ["cat", "dog"], ids)
        assert {key: (r["AP"], r["AP50-cat"]) for key, r in results.items()} == {
            "voc07": (0, 0),
            "voc12": (0, 0),
        }
    assert feed(COCOEvaluator(name, str(tmp_path)), [], ["cat", "dog"], "") == {}


def test_a_data_set_that_changed_is_converted_anew(pets, tmp_path):
    detections = [("a", "cat", 0.9, (1, 1, 10, 10))]
    name = pets({"a": [("cat", (1, 1, 10, 10))]})
    first = feed(COCOEvaluator(name, str(tmp_path / "out")), detections, ["cat", "dog"], "a")
    xml = tmp_path / "voc/Annotations/a.xml"
    xml.write_text(xml.read_text().replace("<xmax>10", "<xmax>30"))
    second = feed(COCOEvaluator(name, str(tmp_path / "out")), detections, ["cat", "dog"], "a")
    assert (first["bbox"]["AP50"], second["bbox"]["AP50"]) == (pytest.approx(100), 0)
    assert not hasattr(MetadataCatalog.get(name), "json_file")


def test_the_ap_of_voc_needs_the_layout_of_voc():
    DatasetCatalog.register("photos", list)
    MetadataCatalog.get("photos").set(json_file="photos.json", evaluator_type="coco")
    with pytest.raises(ValueError, match="'photos' is not in VOC layout"):
        VOCEvaluator("photos")


@pytest.fixture
def sample(real_data, tmp_path):
    """voc_sample, its objects as image -> [(class, box in 1-based pixels, difficult)], random detections."""
    (tmp_path / "sample.yaml").write_text(
        f"sample: {{format: voc, root: {real_data}/voc_sample, splits: [trainval], "
        f"classes: [{', '.join(VOC_CLASSES)}]}}"
    )
    register_catalog(tmp_path / "sample.yaml")
    records = load_voc(real_data / "voc_sample", "trainval", VOC_CLASSES)
    objects, sizes = {}, {}
    for record in records:
        sizes[record["image_id"]] = (record["width"], record["height"])
        objects[record["image_id"]] = [
            (VOC_CLASSES[a["category_id"]], [int(x1) + 1, int(y1) + 1, int(x2), int(y2)], a["difficult"])
            for a in record["annotations"]
            for x1, y1, x2, y2 in [a["bbox"]]
        ]
    assert sum(difficult for found in objects.values() for *_, difficult in found) == 38
    return objects, sizes


@pytest.mark.parametrize("seed", range(3))
def test_the_ap_of_voc_is_that_of_its_definition(sample, seed, record_property):
    objects, sizes = sample
    detections = draw_detections(objects, sizes, VOC_CLASSES, seed)
    results = feed(VOCEvaluator("sample_trainval", YEARS), detections, VOC_CLASSES, objects)
    differences, hits = [], 0
    for name in VOC_CLASSES:
        truth = {
            i: [(box, difficult) for c, box, difficult in found if c == name] for i, found in objects.items()
        }
        of_class = [(score, image, box) for image, c, score, box in detections if c == name]
        points = {t: precision_recall(truth, of_class, t) for t in THRESHOLDS}
        hits += len(of_class) - len(points[THRESHOLDS[0]])
        for key, ap in (("voc07", average_precision_2007), ("voc12", average_precision_2012)):
            aps = {t: float(100 * ap(points[t])) for t in THRESHOLDS}
            expected = {"AP50": aps[THRESHOLDS[0]], "AP75": aps[THRESHOLDS[5]], "AP": sum(aps.values()) / 10}
            differences += [
                (abs(results[key][f"{metric}-{name}"] - value), key, metric, name)
                for metric, value in expected.items()
            ]
    record_property("largest_difference", float(max(differences)[0]))
    assert hits > 10  # detections of difficult objects
    assert max(differences)[0] <= 1e-6, sorted(differences)[-5:]


class IgnoringDifficult(COCOeval):
    """pycocotools' evaluation that keeps the flag ``ignore``: unlike a crowd, at the usual overlap."""

    def _prepare(self):
        super()._prepare()
        for annotation in self.cocoGt.anns.values():
            annotation["ignore"] = annotation["difficult"]


def directly_with_pycocotools(objects, detections, folder):
    """AP, AP50, AP75, APs, APm, APl in percent and AP of each class."""
    truth = {
        "images": [{"id": i} for i in objects],
        "categories": [{"id": n, "name": name} for n, name in enumerate(VOC_CLASSES)],
    }
    truth["annotations"] = [
        {"id": 0, "image_id": i, "category_id": VOC_CLASSES.index(name),
         "bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1],
         "area": (x2 - x1 + 1) * (y2 - y1 + 1), "iscrowd": 0, "difficult": difficult}
        for i, found in objects.items() for name, (x1, y1, x2, y2), difficult in found
    ]  # fmt: skip
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    (folder / "truth.json").write_text(json.dumps(truth))
    found = [
        {"image_id": i, "category_id": VOC_CLASSES.index(name), "score": float(np.float32(score)),
         "bbox": [float(c) for c in (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)]}
        for i, name, score, (x1, y1, x2, y2) in detections
    ]  # fmt: skip
    coco = COCO(str(folder / "truth.json"))
    evaluation = IgnoringDifficult(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    of_classes = [
        evaluation.eval["precision"][:, :, index, 0, -1].mean() for index in range(len(VOC_CLASSES))
    ]
    return 100 * np.array([*evaluation.stats[:6], *of_classes])


@pytest.mark.parametrize("seed", range(3))
def test_the_ap_of_coco_on_a_voc_data_set_is_that_of_pycocotools(sample, tmp_path, seed, record_property):
    objects, sizes = sample
    detections = draw_detections(objects, sizes, VOC_CLASSES, seed)
    evaluator = COCOEvaluator("sample_trainval", str(tmp_path))
    results = feed(evaluator, detections, VOC_CLASSES, objects)["bbox"]
    metrics = ["AP", "AP50", "AP75", "APs", "APm", "APl", *(f"AP-{name}" for name in VOC_CLASSES)]
    expected = directly_with_pycocotools(objects, detections, tmp_path)
    difference = np.abs([results[m] for m in metrics] - expected).max()
    record_property("largest_difference", float(difference))
    assert difference <= 1e-6
    difficult_counted = directly_with_pycocotools(
        {i: [(*o[:2], 0) for o in found] for i, found in objects.items()}, detections, tmp_path
    )
    assert np.abs(difficult_counted - expected).max() > 1
