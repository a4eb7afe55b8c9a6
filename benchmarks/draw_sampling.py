#!/usr/bin/env python
r"""Draw what a plain Detectron2 head trains on beside what OHEM trains on, for one training image.

    python train_net.py --config-file configs/BCCD/fast_rcnn_ohem.yaml OUTPUT_DIR output/sampling \
        SOLVER.MAX_ITER 300 SOLVER.STEPS "(225,)"
    python benchmarks/draw_sampling.py --config-file configs/BCCD/fast_rcnn_ohem.yaml --image 95 \
        --output docs/sampling.jpg MODEL.WEIGHTS output/sampling/model_final.pth \
        MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 32

Both choose among the same candidates and take MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE of them: the plain head at
random, at most MODEL.ROI_HEADS.POSITIVE_FRACTION of them foreground; OHEM those of highest loss.
"""

import argparse
import sys

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from PIL import Image

from ohem_d2.config import OHEMOptions
from ohem_d2.data import build_labelled_loader
from ohem_d2.engine import load_config
from ohem_d2.modeling import inspect_candidates
from ohem_d2.modeling.inspection import mine_inspected
from ohem_d2.utils.checkpoint import load_trained
from ohem_d2.visualization import draw_boxes, tile

EASY_LOSS = 0.3  # below it a RoI is drawn as easy
EASY, FOREGROUND, BACKGROUND = (70, 70, 70), (0, 114, 178), (230, 159, 0)
LEGEND = {
    f"easy RoI (loss below {EASY_LOSS})": EASY,
    "hard RoI of an object (foreground)": FOREGROUND,
    "hard RoI of the background": BACKGROUND,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image", type=int, default=0, help="index in the training set (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the random sample (default 0)")
    parser.add_argument("--output", required=True, help="JPEG or PNG")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides")
    args = parser.parse_args(argv)
    try:
        cfg = load_config(args.config_file, args.opts)
        *_, (x,) = build_labelled_loader(cfg, cfg.DATASETS.TRAIN[0], args.image + 1)
        model = build_model(cfg).eval()
        load_trained(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", may_be_random=True)
    except (KeyError, ValueError, OSError) as error:
        sys.exit(f"draw_sampling.py: {error}")
    options = OHEMOptions.from_config(cfg)
    candidates = inspect_candidates(model, [x], options)[0].to("cpu")
    torch.manual_seed(args.seed)
    heads = cfg.MODEL.ROI_HEADS
    budget = heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION
    mined = mine_inspected([candidates], options, *budget, heads.NUM_CLASSES, progress=1.0).rows[0]
    samples = {"Plain head, random sample": random_sample(candidates, heads), "OHEM, mined": mined}
    sheet = draw(x, candidates, samples, heads.NUM_CLASSES)
    Image.fromarray(sheet).save(args.output, quality=85)


def random_sample(candidates: Instances, heads) -> torch.Tensor:
    """Rows of the candidates that Detectron2's heads sample, by the keys of ``MODEL.ROI_HEADS``."""
    options = heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION, heads.NUM_CLASSES
    return torch.cat(subsample_labels(candidates.gt_classes, *options))


def draw(x: dict, candidates: Instances, samples: dict[str, torch.Tensor], num_classes: int) -> np.ndarray:
    """A picture of each sample, with the number of hard RoIs and the mean loss in its title."""
    image = np.asarray(Image.open(x["file_name"]).convert("RGB"))
    to_image = torch.tensor([x["width"] / x["image"].shape[2], x["height"] / x["image"].shape[1]] * 2)
    pictures, titles = [], []
    for name, rows in samples.items():
        chosen = candidates[rows]
        pictures.append(draw_rois(image, chosen.proposal_boxes.tensor * to_image, chosen, num_classes))
        num_hard, mean = int((chosen.losses >= EASY_LOSS).sum()), chosen.losses.mean()
        titles.append(f"{name}: {num_hard} of {len(rows)} RoIs are hard, mean loss {mean:.2f}")
    return tile([pictures], titles, LEGEND)


def draw_rois(image: np.ndarray, boxes: torch.Tensor, rois: Instances, num_classes: int) -> np.ndarray:
    """Easy RoIs thin and at the bottom, those of objects on top."""
    is_easy, is_object = rois.losses < EASY_LOSS, rois.gt_classes < num_classes
    for colour, drawn, width in (
        (EASY, is_easy, 2),
        (BACKGROUND, ~is_easy & ~is_object, 3),
        (FOREGROUND, ~is_easy & is_object, 3),
    ):
        image = draw_boxes(image, boxes[drawn], [colour] * int(drawn.sum()), width=width)
    return image


if __name__ == "__main__":
    main()
