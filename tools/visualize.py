#!/usr/bin/env python
"""Draw, for some images of a data set, the ground truth, the RoIs that OHEM would mine, and the detections.

    python tools/visualize.py --config-file FILE --dataset NAME --output FILE.png MODEL.WEIGHTS FILE.pth

The mined RoIs are those that the weights make hard, as the config mines them; their images are not trained on
here. Ignore regions are drawn in black, where MODEL.IGNORE_REGIONS.ENABLED. Small images are enlarged.
"""

import argparse
import math
import sys

import ohem_d2  # noqa: F401 (before Detectron2, whose FutureWarnings it keeps off the console)

# isort: split
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from ohem_d2.config import OHEMOptions
from ohem_d2.data import build_labelled_loader
from ohem_d2.engine import load_config
from ohem_d2.modeling import inspect_candidates
from ohem_d2.modeling.candidates import mine_candidates
from ohem_d2.utils.checkpoint import load_trained
from ohem_d2.utils.regions import TargetsWithRegions
from ohem_d2.visualization import class_colours, draw_boxes, tile
from ohem_d2.visualization.pictures import BLACK

TITLES = ("ground truth", "mined RoIs", "detections")
MIN_WIDTH = 400  # of an image in the picture, in pixels: its title has to fit above it


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--dataset", required=True, help="registered name")
    parser.add_argument("--num-images", type=int, default=2, help="default: 2")
    parser.add_argument(
        "--score-thresh", type=float, default=0.5, help="of the detections drawn (default 0.5)"
    )
    parser.add_argument("--output", required=True, help="PNG")
    parser.add_argument("opts", nargs="*", default=[], help="KEY VALUE overrides")
    args = parser.parse_args()
    try:
        cfg = load_config(args.config_file, args.opts)
        loader = build_labelled_loader(cfg, args.dataset, args.num_images)
        model = build_model(cfg).eval()
        load_trained(model, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    except (KeyError, ValueError, OSError) as error:
        sys.exit(f"visualize.py: {error}")
    names = MetadataCatalog.get(args.dataset).thing_classes
    rows = [_row(cfg, model, x, names, args.score_thresh) for batch in loader for x in batch]
    labels = [*names, "background"]
    legend = dict(zip(labels, class_colours(range(len(labels)), len(names))))
    Image.fromarray(tile(rows, TITLES, legend)).save(args.output)


@torch.no_grad()
def _row(cfg, model, x: dict, names, score_thresh: float):
    zoom = max(1, math.ceil(MIN_WIDTH / x["width"]))
    size = (zoom * x["width"], zoom * x["height"])
    image = np.asarray(Image.open(x["file_name"]).convert("RGB").resize(size))
    to_image = torch.tensor([size[0] / x["image"].shape[2], size[1] / x["image"].shape[1]] * 2)
    truth, hard = x["instances"], _hard_rois(cfg, model, x)
    found = model([x])[0]["instances"].to("cpu")
    found = found[found.scores >= score_thresh]
    texts = [f"{names[c]} {s:.2f}" for c, s in zip(found.pred_classes.tolist(), found.scores.tolist())]
    if isinstance(truth, TargetsWithRegions):
        regions = truth.ignore_regions.tensor * to_image
        image = draw_boxes(image, regions, [BLACK] * len(regions), ["ignored"] * len(regions))
    drawn = (
        (truth.gt_boxes.tensor * to_image, truth.gt_classes, None, 2),
        (hard.proposal_boxes.tensor * to_image, hard.gt_classes, None, 1),
        (found.pred_boxes.tensor * zoom, found.pred_classes, texts, 2),
    )
    return [
        draw_boxes(image, boxes, class_colours(of.tolist(), len(names)), *more) for boxes, of, *more in drawn
    ]


def _hard_rois(cfg, model, x: dict) -> Instances:
    options = OHEMOptions.from_config(cfg)
    candidates = inspect_candidates(model, [x], options)
    budget = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    hard = mine_candidates(candidates, candidates[0].losses, budget, options)
    return candidates[0][hard.rows[0]].to("cpu")


if __name__ == "__main__":
    main()
