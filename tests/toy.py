"""Drawn data sets of a few small images, and the config of a detector that trains on one in no time."""

import numpy as np
from PIL import Image

from ohem_d2.data import write_proposals

OBJECT = (
    "<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
    "<difficult>{difficult}</difficult><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)
CATALOG = """\
toy:
  {format: voc, root: voc, splits: [wide, tall], classes: [cat, dog], proposals: ./proposals.safetensors}
"""
IMAGES = {"wide": ((40, 30), "abcd"), "tall": ((30, 40), "efg")}


def write_voc(root, objects, split="train", size=(40, 30), extension=".jpg", difficult=0):
    """Write a VOC tree of images of noise, ``{id: [(class, (xmin, ymin, xmax, ymax))]}``; returns `root`."""
    width, height = size
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (image_id, boxes) in enumerate(objects.items()):
        pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{image_id}{extension}")
        body = "".join(OBJECT.format(*box, name=label, difficult=difficult) for label, box in boxes)
        sizes = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        xml = f"<annotation>{sizes}{body}</annotation>"
        (root / "Annotations" / f"{image_id}.xml").write_text(xml)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(objects) + "\n")
    return root


def write_toy(folder):
    """Four wide and three tall images with proposals, and their catalogue; roots are from `folder`."""
    rng, proposals = np.random.default_rng(0), {}
    for split, (size, ids) in IMAGES.items():
        objects = {i: [("cat", (5, 5, 28, 25)), ("dog", (8, 4, 20, 28))] for i in ids}
        write_voc(folder / "voc", objects, split, size)
        for image_id in ids:
            corners = rng.uniform(0, 15, (30, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(8, 15, (30, 2))], axis=1)
            proposals[image_id] = boxes.astype(np.float32), np.zeros(30, np.float32)
    write_proposals(folder / "proposals.safetensors", proposals)
    (folder / "catalog.yaml").write_text(CATALOG)


def toy_options(folder):
    """``KEY VALUE`` pairs for configs/Base-FastRCNN-small.yaml: flips and sizes are random."""
    return [
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", "2"),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "DATASETS.CATALOG", f"('{folder}/catalog.yaml',)"),
        *("DATASETS.TRAIN", "('toy_wide', 'toy_tall')", "DATASETS.TEST", "()"),
        *("INPUT.MIN_SIZE_TRAIN", "(28, 32, 36)", "INPUT.MIN_SIZE_TEST", "32"),
        *("DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "7"),
        *("SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "(6,)", "SOLVER.CHECKPOINT_PERIOD", "3"),
    ]
