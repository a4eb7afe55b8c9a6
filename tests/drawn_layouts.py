"""One drawn data set in every layout that new projects are made from."""

import json

import numpy as np
import yaml
from PIL import Image

from .toy import OBJECT

CLASSES = ["cat", "dog"]
SIZE = 64, 48
# Stem -> class and XYXY_ABS box of each object: grey rectangles on noise.
OBJECTS = {
    "a": [("cat", (4, 6, 28, 30)), ("dog", (30, 10, 60, 40))],
    "b c": [("dog", (10, 10, 40, 44))],
    "d": [("cat", (20, 4, 60, 40))],
    "e": [("dog", (8, 8, 30, 40)), ("dog", (34, 6, 62, 30))],
    "f": [("cat", (6, 8, 40, 40))],
    "g": [("cat", (2, 4, 30, 30)), ("dog", (32, 8, 62, 44))],
}
SPLITS = {"train": ["a", "b c", "d", "e"], "val": ["f", "g"]}


def draw(path, stem):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(stem)).integers(0, 60, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in OBJECTS[stem]:
        pixels[y1:y2, x1:x2] = 110 if name == "cat" else 220
    Image.fromarray(pixels).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_xml(path, stem):
    width, height = SIZE
    objects = "".join(
        OBJECT.format(x1 + 1, y1 + 1, x2, y2, name=name, difficult=0)
        for name, (x1, y1, x2, y2) in OBJECTS[stem]
    )
    sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    write(path, f"<annotation><filename>{stem}.jpg</filename>{sizes}{objects}</annotation>")


def write_coco(path, stems, file_name, first=1, group=None):
    """COCO JSON of `stems`; `file_name` has the place ``{}`` of the stem, category ids begin at `first`."""
    images = [
        {"id": i, "file_name": file_name.format(stem), "width": SIZE[0], "height": SIZE[1]}
        for i, stem in enumerate(stems)
    ]
    categories = [
        {"id": i, "name": name, "supercategory": group or "none"} for i, name in enumerate(CLASSES, first)
    ]
    if group:
        categories.insert(0, {"id": first - 1, "name": group, "supercategory": "none"})
    annotations = [
        {"image_id": i, "category_id": first + CLASSES.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, stem in enumerate(stems)
        for name, (x1, y1, x2, y2) in OBJECTS[stem]
    ]
    annotations = [{"id": i, **annotation} for i, annotation in enumerate(annotations)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    write(path, json.dumps(content))


def labelimg(root):
    for stem in OBJECTS:
        draw(root / f"{stem}.jpg", stem)
        write_xml(root / f"{stem}.xml", stem)


def voc(root):
    for stem in OBJECTS:
        draw(root / "JPEGImages" / f"{stem}.jpg", stem)
        write_xml(root / "Annotations" / f"{stem}.xml", stem)
    for split, stems in {**SPLITS, "trainval": list(OBJECTS)}.items():
        write(root / "ImageSets/Main" / f"{split}.txt", "\n".join(stems) + "\n")


def coco(root):
    for split, stems in SPLITS.items():
        for stem in stems:
            draw(root / f"{split}2017" / f"{stem}.jpg", stem)
        write_coco(root / "annotations" / f"instances_{split}2017.json", stems, "{}.jpg", first=3)
        write_coco(root / "annotations" / f"person_keypoints_{split}2017.json", stems, "{}.jpg")


def roboflow(root):
    for split, stems in {"train": SPLITS["train"], "valid": SPLITS["val"]}.items():
        for stem in stems:
            draw(root / split / f"{stem}.jpg", stem)
        write_coco(root / split / "_annotations.coco.json", stems, "{}.jpg", group="animals")


def cvat(root):
    for stem in OBJECTS:
        draw(root / "images/default" / f"{stem}.jpg", stem)
    write_coco(root / "annotations/instances_default.json", list(OBJECTS), "{}.jpg")


def label_studio(root):
    for stem in OBJECTS:
        draw(root / "images" / f"{stem}.jpg", stem)
    write_coco(root / "result.json", list(OBJECTS), "/data/upload/7/0a1b2c3d-{}.jpg", first=0)


def yolo(root):
    (width, height), lists = SIZE, {}
    for split, stems in SPLITS.items():
        lists[split] = f"images/{split}"
        for stem in stems:
            draw(root / f"images/{split}/{stem}.jpg", stem)
            lines = [
                f"{CLASSES.index(name)} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
                f"{(x2 - x1) / width} {(y2 - y1) / height}"
                for name, (x1, y1, x2, y2) in OBJECTS[stem]
            ]
            write(root / f"labels/{split}/{stem}.txt", "\n".join(lines) + "\n")
    write(root / "data.yaml", yaml.safe_dump({**lists, "names": dict(enumerate(CLASSES))}))


LAYOUTS = {f.__name__: f for f in (labelimg, voc, coco, roboflow, cvat, label_studio, yolo)}
WITHOUT_SPLIT = {"labelimg", "cvat", "label_studio"}
